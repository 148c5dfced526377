"""Variants of images on their way to buckets: options, encoding, cache, masks and sizes."""

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
from ti_flax.errors import ConfigError


@pytest.fixture
def options(tmp_path, image_options):
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 256, (40, 60, 4)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.png")

    return image_options


def bucket_of(params, options, *, cache=None, class_images=None, **more):
    images = read_images(options, "none", **more)
    encoder = Encoder(VAE, params, jnp.float32)
    encoding = settle_encoding(encoder, images, class_images, flip_p=options.flip_p, cache=cache)
    count = len(images.names)
    made = make_buckets(options, images, encoding, prompts=[0] * count, weights=[1] * count, sizes=True)
    [bucket] = made
    return images, bucket._replace(posteriors=in_memory(bucket.posteriors))


@pytest.mark.parametrize(
    ("given", "strengths", "variants"),
    [
        ({}, (0, 0, 0, 0), 1),
        ({"color_jitter": 0.0}, (0, 0, 0, 0), 1),
        ({"crop_jitter": 0.1}, (0, 0, 0, 0), 8),
        ({"color_jitter": 0.2, "augmentations_per_image": 3}, (0.2, 0.2, 0.2, 0), 3),
        ({"color_jitter": [0.1, 0, 0.3, 0.05]}, (0.1, 0, 0.3, 0.05), 8),
    ],
)
def test_what_the_options_mean(options, given, strengths, variants):
    found = options(**given)
    assert found.strengths == strengths and found.variants == variants


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"color_jitter": [0.1, 0.2]}, "color_jitter: expected one number, or four: .* found 2 numbers"),
        ({"color_jitter": [0.1, 0.1, 0.1, 0.6]}, "color_jitter: expected at most half a turn of hue"),
        ({"crop_jitter": 1}, "crop_jitter: expected a number >= 0 and < 1"),
        ({"augmentations_per_image": 4}, "augmentations_per_image requires crop_jitter or color_jitter"),
    ],
)
def test_what_cannot_be_is_said(options, given, message):
    with pytest.raises(ConfigError, match=message):
        options(**given)


def test_variants_are_encoded_once_each_beside_what_is_there(params, options, tmp_path):
    cache = LatentCache(tmp_path / "cache", 2**30)
    _, plain = bucket_of(params, options(), cache=cache)
    before = entries(tmp_path / "cache")
    assert len(before) == 6
    jitter = {"crop_jitter": 0.3, "color_jitter": 0.2, "augmentations_per_image": 4, "alpha_mask": True}
    images, bucket = bucket_of(params, options(**jitter), cache=cache)
    assert bucket.variants == 4 and bucket.posteriors.shape[:2] == (3, 8)
    assert bucket.time_ids.shape == (3, 8, 6) and bucket.loss_weights.shape[:2] == (3, 8)
    _, unmasked = bucket_of(params, options(**{**jitter, "alpha_mask": False}), cache=cache)
    np.testing.assert_array_equal(unmasked.posteriors[:, :2], plain.posteriors)
    assert set(before) < set(entries(tmp_path / "cache"))
    [group] = images.groups
    # Variant after variant, each with its mirror image.
    encoder = Encoder(VAE, params, jnp.float32)
    for variant, each in enumerate(group.variants):
        expected = list(encoder.encode([each.pixels[1], each.pixels[1][:, ::-1]]))
        np.testing.assert_array_equal(bucket.posteriors[1, 2 * variant : 2 * variant + 2], expected)
        np.testing.assert_array_equal(bucket.time_ids[1, 2 * variant : 2 * variant + 2], each.time_ids[1])
        weights = bucket.loss_weights[1, 2 * variant]
        cells = each.masks[1].reshape(8, 2, 8, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(weights, cells / cells.mean(), rtol=1e-4)
        np.testing.assert_array_equal(bucket.loss_weights[1, 2 * variant + 1], weights[:, ::-1])


def test_without_jitter_nothing_is_another(params, options, tmp_path):
    cache = LatentCache(tmp_path / "cache", 2**30)
    found = [bucket_of(params, options(), cache=cache, seed=seed)[1] for seed in (0, 5)]
    assert found[0].variants == 1 and found[0].posteriors.tobytes() == found[1].posteriors.tobytes()
    assert len(entries(tmp_path / "cache")) == 6


def test_class_images_have_variants_too(params, options, tmp_path):
    chosen = options(crop_jitter=0.2, augmentations_per_image=3)
    images = read_images(chosen, "none", seed=1)
    classes = read_class_images(str(tmp_path / "pictures"), chosen, images, seed=1)
    assert [len(group.variants) for group in classes.groups] == [3]
    for one, other in zip(classes.groups[0].variants, images.groups[0].variants, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_what_is_shown_of_images_is_as_it_is(options):
    images = read_images(options(crop_jitter=0.2), "none")
    few = images.with_pixels_of(2)
    assert few.groups[0].augmented == () and len(few.groups[0].pixels) == 2
