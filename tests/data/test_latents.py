"""Posteriors are those of the VAE, for image and mirror image, and the cache is never trusted blindly."""

import io
import os
import resource
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.data.latents import encode_posteriors, params_hash, split_moments
from ti_flax.errors import ConfigError, DataError
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL

CONFIG = AutoencoderKLConfig(
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(8, 8),
    norm_num_groups=4,
)


@pytest.fixture(scope="module")
def vae():
    return FlaxAutoencoderKL(CONFIG)


@pytest.fixture(scope="module")
def params(vae):
    shapes = jax.eval_shape(lambda: vae.init(jax.random.key(0), jnp.zeros((1, 2, 2, 3))))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture
def warned(caplog):
    """Return a function that gives the warnings logged since it was last called."""

    def messages():
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return found

    return messages


def never(batches):
    raise AssertionError("encoded although cached")


class CountedBatches:
    """Stands in for tqdm, and says how often images were encoded."""

    def __init__(self):
        self.batches = []

    def __call__(self, batches):
        self.batches.append(len(batches))
        yield from batches


def encode(vae, params, pixels, **options):
    return encode_posteriors(vae, params, pixels, **{"dtype": jnp.float32, **options})


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_moments_of_image_and_mirror_image(vae, params, pixels, batch_size):
    posteriors = encode(vae, params, pixels, batch_size=batch_size)
    assert posteriors.shape == (3, 2, 8, 8, 8)
    assert posteriors.dtype == np.float32
    for side, turned in enumerate([pixels, pixels[:, :, ::-1]]):
        scaled = turned.astype(np.float32) / 127.5 - 1.0
        expected = vae.apply({"params": params}, scaled, method="encode")
        np.testing.assert_allclose(posteriors[:, side], expected, atol=2e-5)
    # Or the mirror images would show nothing.
    assert np.abs(posteriors[:, 1] - posteriors[:, 0, :, ::-1]).max() > 1e-2


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_one_compilation(vae, params, pixels, batch_size, monkeypatch):
    traced = []
    original = FlaxAutoencoderKL.encode

    def counted(self, images):
        traced.append(images.shape)
        return original(self, images)

    monkeypatch.setattr(FlaxAutoencoderKL, "encode", counted)
    encode(vae, params, pixels, batch_size=batch_size)
    assert traced == [(batch_size, 16, 16, 3)]


def test_dtype_of_the_computation(vae, params, pixels, monkeypatch):
    seen = []
    original = FlaxAutoencoderKL.encode

    def watched(self, images):
        moments = original(self, images)
        seen.append((images.dtype, moments.dtype))
        return moments

    monkeypatch.setattr(FlaxAutoencoderKL, "encode", watched)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    posteriors = encode(vae, half, pixels, dtype=jnp.bfloat16)
    assert seen == [(jnp.bfloat16, jnp.bfloat16)]
    assert posteriors.dtype == np.float32
    np.testing.assert_allclose(posteriors, encode(vae, params, pixels), atol=0.2)


def test_split_moments():
    moments = np.arange(16).reshape(2, 8)
    mean, log_variance = split_moments(moments)
    assert mean.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert log_variance.tolist() == [[4, 5, 6, 7], [12, 13, 14, 15]]


def test_second_time_comes_from_the_cache(vae, params, pixels, tmp_path):
    counted = CountedBatches()
    first = encode(vae, params, pixels, cache_dir=tmp_path / "new" / "folder", batch_size=4, progress=counted)
    assert counted.batches == [2]
    second = encode(vae, params, pixels, cache_dir=tmp_path / "new" / "folder", progress=never)
    np.testing.assert_array_equal(first, second)
    assert [path.suffix for path in (tmp_path / "new" / "folder").iterdir()] == [".npz"]


def test_whatever_changes_the_moments_changes_the_key(vae, params, pixels, tmp_path):
    counted = CountedBatches()

    def encodes_anew(vae=vae, params=params, pixels=pixels, dtype=jnp.float32):
        before = len(counted.batches)
        encode(vae, params, pixels, dtype=dtype, cache_dir=tmp_path, progress=counted)
        return len(counted.batches) > before

    assert encodes_anew()
    assert not encodes_anew()
    assert encodes_anew(pixels=255 - pixels)
    assert encodes_anew(pixels=pixels[::-1])
    assert encodes_anew(pixels=pixels.reshape(3, 8, 32, 3))
    assert encodes_anew(dtype=jnp.bfloat16)
    other_config = AutoencoderKLConfig(**{**CONFIG.__dict__, "norm_num_groups": 2})
    assert encodes_anew(vae=FlaxAutoencoderKL(other_config))
    nudged = jax.tree.map(lambda leaf: leaf, params)
    nudged["encoder"]["conv_in"] = {**nudged["encoder"]["conv_in"]}
    nudged["encoder"]["conv_in"]["bias"] = nudged["encoder"]["conv_in"]["bias"] + np.float32(1e-3)
    assert encodes_anew(params=nudged)


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


def cache_file(tmp_path):
    (path,) = tmp_path.glob("*.npz")
    return path


def npy_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "one bit": flip_a_byte,
    "another file": lambda path: path.write_bytes(b"a text"),
    "another array": lambda path: np.savez(path, other=np.zeros(3)),
    "another shape": lambda path: np.savez(path, posteriors=np.zeros((3, 2, 8, 8, 4), np.float32)),
    "another dtype": lambda path: np.savez(path, posteriors=np.zeros((3, 2, 8, 8, 8))),
    "not finite": lambda path: np.savez(path, posteriors=np.full((3, 2, 8, 8, 8), np.nan, np.float32)),
    "a pickle": lambda path: np.savez(path, posteriors=np.array([{}], dtype=object)),
    "a bare array": lambda path: path.write_bytes(npy_bytes(np.zeros(3, np.float32))),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_cache_is_computed_again(vae, params, pixels, tmp_path, warned, damage):
    expected = encode(vae, params, pixels, cache_dir=tmp_path)
    DAMAGES[damage](cache_file(tmp_path))
    np.testing.assert_array_equal(encode(vae, params, pixels, cache_dir=tmp_path), expected)
    (message,) = warned()
    assert "computed again" in message
    assert "\n" not in message
    encode(vae, params, pixels, cache_dir=tmp_path, progress=never)
    assert warned() == []


def zipped(header, content=b"", compression=zipfile.ZIP_STORED):
    """A file as `numpy.savez` writes it, of a header and what follows it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        archive.writestr("posteriors.npy", header + content)
    return made.getvalue()


def npy_header(shape):
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"shape": shape, "fortran_order": False, "descr": "<f4"})
    return made.getvalue()


def replaced(path, make):
    path.unlink()
    make(path)


def grown(path):
    with path.open("ab") as file:
        file.truncate(2**40)


HOSTILE = {
    "a shape of terabytes": lambda path: path.write_bytes(zipped(npy_header((2**40,)))),
    "a shape that overflows": lambda path: path.write_bytes(zipped(npy_header((2**62, 8, 8, 8)))),
    "a negative shape": lambda path: path.write_bytes(zipped(npy_header((-3, 2, 8, 8, 8)))),
    "zeros that unfold": lambda path: path.write_bytes(
        zipped(npy_header((3, 2, 8, 8, 8)), bytes(2**28), zipfile.ZIP_DEFLATED)
    ),
    "a terabyte of nothing": grown,
    "brackets in a header": lambda path: path.write_bytes(zipped(b"\x93NUMPY\x01\0\xff\x7f" + b"(" * 0x7FFF)),
    "a pipe": lambda path: replaced(path, os.mkfifo),
    "a device": lambda path: replaced(path, lambda place: place.symlink_to("/dev/zero")),
    "a link to itself": lambda path: replaced(path, lambda place: place.symlink_to(place.name)),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_an_entry_that_was_made_to_do_harm_costs_nothing(vae, params, pixels, tmp_path, warned, name):
    expected = encode(vae, params, pixels, cache_dir=tmp_path)
    HOSTILE[name](cache_file(tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(encode(vae, params, pixels, cache_dir=tmp_path), expected)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB
    (message,) = warned()
    assert "computed again" in message and "\n" not in message
    encode(vae, params, pixels, cache_dir=tmp_path, progress=never)
    assert warned() == [] and cache_file(tmp_path).is_file() and not cache_file(tmp_path).is_symlink()


def test_a_damaged_entry_is_gone_even_if_nothing_can_be_written(
    vae, params, pixels, tmp_path, monkeypatch, warned
):
    encode(vae, params, pixels, cache_dir=tmp_path)
    cache_file(tmp_path).write_bytes(b"a text")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    encode(vae, params, pixels, cache_dir=tmp_path)
    assert len(warned()) == 2 and list(tmp_path.iterdir()) == []


def test_cache_that_cannot_be_written(vae, params, pixels, tmp_path, warned):
    (tmp_path / "file").touch()
    expected = encode(vae, params, pixels)
    np.testing.assert_array_equal(encode(vae, params, pixels, cache_dir=tmp_path / "file"), expected)
    (message,) = warned()
    assert message.startswith("Latents are not cached")


def test_interrupted_write_leaves_nothing(vae, params, pixels, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(vae, params, pixels, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_cache_unless_asked_for(vae, params, pixels, tmp_path, monkeypatch):
    monkeypatch.setenv("TI_FLAX_CACHE", str(tmp_path))
    encode(vae, params, pixels)
    assert list(tmp_path.iterdir()) == []


def test_resolution_that_does_not_fit(vae, params):
    with pytest.raises(
        ConfigError, match="resolution: expected a multiple of 2.*found 17. The nearest is 16"
    ):
        encode(vae, params, np.zeros((1, 17, 17, 3), np.uint8))


@pytest.mark.parametrize(("names", "named"), [(("a.png", "b.png", "c.png"), "b.png"), ((), "image 2")])
def test_overflow_names_the_image(vae, params, pixels, tmp_path, monkeypatch, names, named):
    original = FlaxAutoencoderKL.encode

    def overflowing(self, images):
        # Of these three images the second alone begins with a red over 0.
        moments = original(self, images)
        return jnp.where(images[:, :1, :1, :1] > 0, jnp.inf, moments)

    chosen = pixels.copy()
    chosen[:, 0, 0, 0], chosen[:, 0, -1, 0] = (0, 255, 0), 0
    monkeypatch.setattr(FlaxAutoencoderKL, "encode", overflowing)
    with pytest.raises(DataError, match=rf"^{named}: expected finite latents, .*float32 \(1 images\)"):
        encode(vae, params, chosen, names=names, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
