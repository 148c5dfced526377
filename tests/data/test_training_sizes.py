"""Buckets carry the sizes of the pictures they hold, and what is encoded does not depend on them."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_vae import VAE, entries

from ti_flax.data.encoding import settle_encoding
from ti_flax.data.latent_cache import LatentCache
from ti_flax.data.latents import Encoder
from ti_flax.data.posteriors import in_memory
from ti_flax.data.training_images import make_buckets, read_class_images, read_images


@pytest.fixture
def options(tmp_path, image_options):
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for name, size in {"a": (42, 32), "b": (24, 24), "c": (48, 96)}.items():  # width, height
        pixels = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.png")

    return image_options


def buckets_of(params, images, options, *, flip_p=0.5, cache=None, **more):
    encoder = Encoder(VAE, params, jnp.float32)
    encoding = settle_encoding(encoder, images, None, flip_p=flip_p, cache=cache)
    count = len(images.names)
    return make_buckets(options, images, encoding, prompts=[0] * count, weights=[1] * count, **more)


@pytest.mark.parametrize(("flip_p", "sides"), [(0.0, [0]), (1.0, [1]), (0.5, [0, 1])])
def test_sizes_are_those_of_the_sides_that_are_drawn(params, options, flip_p, sides):
    chosen = options(center_crop=True)
    images = read_images(chosen, "none")
    [bucket] = buckets_of(params, images, chosen, flip_p=flip_p, sizes=True)
    assert bucket.time_ids.shape == (*bucket.posteriors.shape[:2], 6)
    # 42 x 32 becomes 21 x 16, of which 5 columns are cropped; 48 x 96 becomes 16 x 32.
    lefts = [2, 3]
    for place, side in enumerate(sides):
        assert bucket.time_ids[:, place].tolist() == [
            [32, 42, 0, lefts[side], 16, 16],
            [24, 24, 0, 0, 16, 16],
            [96, 48, 8, 0, 16, 16],
        ]


def test_a_model_that_takes_no_sizes_gets_none(params, options):
    chosen = options()
    [bucket] = buckets_of(params, read_images(chosen, "none"), chosen)
    assert bucket.time_ids is None


def test_class_images_have_sizes_for_every_shape(tmp_path, options):
    chosen = options(enable_bucket=True, bucket_reso_steps=8, resolution=32)
    images = read_images(chosen, "none")
    classes = read_class_images(str(tmp_path / "pictures"), chosen, images)
    assert len(classes.groups) == len(images.groups) > 1
    for group, own in zip(classes.groups, images.groups, strict=True):
        np.testing.assert_array_equal(group.time_ids[own.indices], own.time_ids)
        assert (group.time_ids[:, :, 4:] == group.pixels.shape[1:3]).all()


def test_files_of_other_sizes_with_the_same_pixels_are_encoded_once(params, options, tmp_path):
    """What the cache keeps of a picture depends on its pixels at the resolution alone."""
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    found = []
    for side in (20, 40):
        Image.new("RGB", (side, side), "red").save(tmp_path / "pictures" / "a.png")
        images, cache = read_images(options(), "none"), LatentCache(tmp_path / "cache", 2**30)
        for sizes in (False, True):
            [bucket] = buckets_of(params, images, options(), cache=cache, sizes=sizes)
            found.append(bucket._replace(posteriors=in_memory(bucket.posteriors)))
            assert len(entries(tmp_path / "cache")) == 2
    assert len({bucket.posteriors.tobytes() for bucket in found}) == 1
    assert [bucket.time_ids is None for bucket in found] == [True, False, True, False]
    assert [bucket.time_ids[0, 0, 0] for bucket in found[1::2]] == [20, 40]


def test_sdxl_is_read_in_its_own_shapes(options, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "ti_flax.data.training_images.load_images", lambda *_, shapes, **__: seen.append(shapes)
    )
    chosen = options(enable_bucket=True, resolution=1024)
    for of_sdxl in (False, True):
        with pytest.raises(AttributeError):  # of nothing that was read
            read_images(chosen, "none", of_sdxl=of_sdxl)
    assert [rules.of_sdxl for rules in seen] == [False, True]
