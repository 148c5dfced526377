"""Posteriors are those of the VAE, for image and mirror image, and no picture is encoded twice."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_threads import group_of, together
from tiny_vae import CONFIG, VAE, Counted, encode, entries, never, random_pixels

from ti_flax.data.latents import Encoder, params_hash, posterior_shape
from ti_flax.errors import ConfigError, DataError
from ti_flax.hosts import group as hosts
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL


def test_moments_of_image_and_mirror_image(params, pixels):
    posteriors = encode(params, pixels)
    assert posteriors.shape == (3, 2, 8, 8, 8)
    assert posteriors.dtype == np.float32
    for side, turned in enumerate([pixels, pixels[:, :, ::-1]]):
        scaled = turned.astype(np.float32) / 127.5 - 1.0
        expected = VAE.apply({"params": params}, scaled, method="encode")
        np.testing.assert_allclose(posteriors[:, side], expected, atol=2e-5)
    # Or the mirror images would show nothing.
    assert np.abs(posteriors[:, 1] - posteriors[:, 0, :, ::-1]).max() > 1e-2


@pytest.mark.parametrize("side", [0, 1])
def test_only_the_sides_that_are_wanted_are_encoded(params, pixels, side):
    counted = Counted()
    posteriors = encode(params, pixels, sides=(side,), progress=counted)
    assert posteriors.shape == (3, 1, 8, 8, 8) and counted.pictures == [3]
    np.testing.assert_array_equal(posteriors[:, 0], encode(params, pixels)[:, side])


def on_devices(monkeypatch, count):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:count])


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_any_number_of_devices_gives_the_same_bits_by_one_compilation(params, devices, monkeypatch):
    pixels, traced = random_pixels(5), []
    expected = encode(params, pixels)
    original = FlaxAutoencoderKL.encode

    def counted(self, images):
        traced.append(images.shape)
        return original(self, images)

    monkeypatch.setattr(FlaxAutoencoderKL, "encode", counted)
    on_devices(monkeypatch, devices)
    assert encode(params, pixels).tobytes() == expected.tobytes()
    assert traced == [(1, 16, 16, 3)]


def test_a_picture_is_the_same_whatever_is_encoded_beside_it(params):
    pixels = random_pixels(9)
    order = np.random.default_rng(2).permutation(9)
    assert encode(params, pixels[order]).tobytes() == encode(params, pixels)[order].tobytes()


def test_dtype_of_the_computation(params, pixels, monkeypatch):
    seen = []
    original = FlaxAutoencoderKL.encode

    def watched(self, images):
        moments = original(self, images)
        seen.append((images.dtype, moments.dtype))
        return moments

    monkeypatch.setattr(FlaxAutoencoderKL, "encode", watched)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    posteriors = encode(half, pixels, dtype=jnp.bfloat16)
    assert seen == [(jnp.bfloat16, jnp.bfloat16)]
    assert posteriors.dtype == np.float32
    np.testing.assert_allclose(posteriors, encode(params, pixels), atol=0.2)


def test_hash_of_parameters():
    tree = {"a": {"b": np.arange(4, dtype=np.float32)}, "c": jnp.ones((2, 2), jnp.bfloat16)}
    same = {"c": np.asarray(tree["c"]), "a": {"b": jnp.arange(4, dtype=jnp.float32)}}
    assert params_hash(tree) == params_hash(same)
    others = [
        {"a": {"x": tree["a"]["b"]}, "c": tree["c"]},
        {"a": {"b": tree["a"]["b"].reshape(2, 2)}, "c": tree["c"]},
        {"a": {"b": tree["a"]["b"].view(np.int32)}, "c": tree["c"]},
        {"a": {"b": tree["a"]["b"][::-1]}, "c": tree["c"]},
        {"a": {"b": np.float32(1)}, "c": tree["c"]},
    ]
    assert len({params_hash(other) for other in [tree, *others]}) == 6


def test_second_time_comes_from_the_cache(params, pixels, tmp_path):
    counted, folder = Counted(), tmp_path / "new" / "folder"
    first = encode(params, pixels, folder=folder, progress=counted)
    assert counted.pictures == [6] and len(entries(folder)) == 6
    second = encode(params, pixels, folder=folder, progress=never)
    np.testing.assert_array_equal(first, second)


def test_one_new_image_encodes_one_and_a_new_order_none(params, tmp_path):
    pixels, counted = random_pixels(4), Counted()
    encode(params, pixels[:3], folder=tmp_path, progress=counted)
    assert (
        encode(params, pixels, folder=tmp_path, progress=counted).tobytes()
        == encode(params, pixels).tobytes()
    )
    assert counted.pictures == [6, 2]
    turned = encode(params, pixels[::-1], folder=tmp_path, progress=never)
    np.testing.assert_array_equal(turned[::-1], encode(params, pixels))
    encode(params, pixels, sides=(1,), folder=tmp_path, progress=never)


def test_encoding_that_is_killed_goes_on_where_it_was(params, tmp_path, monkeypatch):
    pixels, done = random_pixels(6), []
    on_devices(monkeypatch, 2)

    def killed_after_five(pictures):
        for picture in pictures:
            if len(done) == 5:
                raise KeyboardInterrupt
            done.append(picture)
            yield picture

    with pytest.raises(KeyboardInterrupt):
        encode(params, pixels, folder=tmp_path, progress=killed_after_five)
    counted = Counted()
    posteriors = encode(params, pixels, folder=tmp_path, progress=counted)
    assert counted.pictures == [12 - 5]
    np.testing.assert_array_equal(posteriors, encode(params, pixels))


def test_whatever_changes_the_moments_changes_the_key(params, pixels, tmp_path):
    counted = Counted()

    def encodes_anew(vae=VAE, params=params, pixels=pixels, dtype=jnp.float32):
        before = len(counted.pictures)
        encode(params, pixels, vae=vae, dtype=dtype, folder=tmp_path, progress=counted)
        return len(counted.pictures) > before

    assert encodes_anew()
    assert not encodes_anew()
    assert encodes_anew(pixels=255 - pixels)
    assert encodes_anew(pixels=pixels.reshape(3, 8, 32, 3))
    assert encodes_anew(dtype=jnp.bfloat16)
    other_config = AutoencoderKLConfig(**{**CONFIG.__dict__, "norm_num_groups": 2})
    assert encodes_anew(vae=FlaxAutoencoderKL(other_config))
    nudged = jax.tree.map(lambda leaf: leaf, params)
    nudged["encoder"]["conv_in"] = {**nudged["encoder"]["conv_in"]}
    nudged["encoder"]["conv_in"]["bias"] = nudged["encoder"]["conv_in"]["bias"] + np.float32(1e-3)
    assert encodes_anew(params=nudged)
    assert not encodes_anew(params=params | {"decoder": {}})  # another decoder is another's business


def test_no_cache_unless_asked_for(params, pixels, tmp_path, monkeypatch):
    monkeypatch.setenv("TI_FLAX_CACHE", str(tmp_path))
    encode(params, pixels)
    assert list(tmp_path.iterdir()) == []


def test_shapes_are_known_without_encoding(params, pixels):
    assert posterior_shape(CONFIG, 16, 24) == (8, 12, 8)
    with pytest.raises(
        ConfigError, match="resolution: expected a multiple of 2.*found 17. The nearest is 16"
    ):
        encode(params, np.zeros((1, 17, 17, 3), np.uint8))


@pytest.mark.parametrize(("names", "named"), [(("a.png", "b.png", "c.png"), "b.png"), ((), "image 2")])
def test_overflow_names_the_image_and_is_not_kept(params, pixels, tmp_path, monkeypatch, names, named):
    original = FlaxAutoencoderKL.encode

    def overflowing(self, images):
        # Of these three images the second alone begins with a red over 0.
        moments = original(self, images)
        return jnp.where(images[:, :1, :1, :1] > 0, jnp.inf, moments)

    chosen = pixels.copy()
    chosen[:, 0, 0, 0], chosen[:, 0, -1, 0] = (0, 255, 0), 0
    monkeypatch.setattr(FlaxAutoencoderKL, "encode", overflowing)
    with pytest.raises(DataError, match=rf"^{named}: expected finite latents, .*float32\. Use float32"):
        encode(params, chosen, names=names, folder=tmp_path)
    assert len(entries(tmp_path)) == 2  # of the first image


@pytest.fixture
def exchanging(monkeypatch):
    """Lets hosts that are threads exchange arrays; gives the number of exchanges of each."""
    brought, exchanges, barrier = {}, {}, threading.Barrier(3)

    def exchange(what, array):
        host = hosts.index()
        exchanges[host] = exchanges.get(host, 0) + 1
        brought[host] = array
        barrier.wait(20)
        everyones = np.stack([brought[each] for each in range(3)])
        barrier.wait(20)
        return everyones

    monkeypatch.setattr(hosts, "exchange", exchange)
    return exchanges


def test_hosts_share_what_no_cache_has_and_each_ends_with_all(params, tmp_path, exchanging):
    pixels = random_pixels(20)
    expected = encode(params, pixels)
    encode(params, pixels[:2], folder=tmp_path / "0")  # which the first host alone has
    encode(params, pixels[2:3], folder=tmp_path / "2")
    counts = [Counted() for _ in range(3)]

    def work(host):
        return encode(params, pixels, folder=tmp_path / str(host.index), progress=counts[host.index])

    for found in together(group_of(3), work):
        np.testing.assert_array_equal(found, expected)
    assert [count.pictures for count in counts] == [[12], [11], [11]]
    assert exchanging == {0: 1, 1: 1, 2: 1}
    for host in range(3):
        encode(params, pixels, folder=tmp_path / str(host), progress=never)


def test_hosts_that_have_all_encode_and_exchange_nothing(params, pixels, tmp_path, exchanging):
    expected = encode(params, pixels, folder=tmp_path)
    for found in together(group_of(3), lambda host: encode(params, pixels, folder=tmp_path, progress=never)):
        np.testing.assert_array_equal(found, expected)
    assert exchanging == {}


def test_caches_of_hosts_that_hold_other_numbers_are_refused(params, pixels, tmp_path):
    encode(params, pixels, folder=tmp_path / "0")

    class Others(Encoder):
        def encode(self, pictures):
            return (each + 1 for each in super().encode(pictures))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiny_vae.Encoder", Others)
        encode(params, pixels, folder=tmp_path / "1")
    errors = together(group_of(2), lambda host: encode(params, pixels, folder=tmp_path / str(host.index)))
    assert [type(error) for error in errors] == [ConfigError] * 2
    assert "encoded images: expected the same on all hosts, found posteriors " in str(errors[0])
