import io

import numpy as np
import pytest
import world
from judge import NONE, judge
from PIL import Image, ImageFilter

ATTRIBUTES = ("background", "shape", "colour", "texture")


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    return [world.random_scene(rng) for _ in range(count)]


def shares_right(scenes, images):
    verdicts = [judge(image) for image in images]
    return {
        name: np.mean([getattr(s, name) == getattr(v, name) for s, v in zip(scenes, verdicts, strict=True)])
        for name in ATTRIBUTES
    }


def test_clean_renderings_are_read_right():
    scenes = drawn(300, seed=0)
    shares = shares_right(scenes, world.render_batch(scenes))
    assert all(share >= 0.99 for share in shares.values()), shares


def blurred_noisy_jpeg(image, rng):
    """Worse than what a good autoencoder does: soft edges, grain, and block artefacts."""
    soft = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.6))
    grain = np.asarray(soft, np.float32) + rng.normal(0, 4, image.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def test_degraded_renderings_are_mostly_read_right():
    scenes, rng = drawn(150, seed=1), np.random.default_rng(0)
    images = [blurred_noisy_jpeg(image, rng) for image in world.render_batch(scenes)]
    shares = shares_right(scenes, images)
    least = {"background": 0.99, "shape": 0.97, "colour": 0.93, "texture": 0.87}
    assert all(shares[name] >= least[name] for name in least), shares


@pytest.mark.parametrize("background", world.BACKGROUNDS)
def test_an_empty_background_has_no_object(background):
    scene = world.random_scene(np.random.default_rng(0), background=background)
    empty = np.round(world._backdrop(scene)).astype(np.uint8)
    verdict = judge(np.broadcast_to(empty, (64, 64, 3)))
    assert (verdict.background, verdict.shape, verdict.colour) == (background, NONE, NONE)


def test_noise_is_nothing():
    rng = np.random.default_rng(0)
    for _ in range(5):
        verdict = judge(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
        assert NONE in (verdict.background, verdict.shape)


def test_an_unknown_colour_is_said_to_be_one():
    scene = world.random_scene(np.random.default_rng(0), shape="circle", texture="plain", background="gray")
    image = world.render(scene)
    painted = (np.abs(image.astype(int) - world.RGB[scene.colour]) <= 1).all(axis=-1)
    image[painted] = (0, 0, 90)  # navy
    assert judge(image).colour == NONE
    assert judge(image).shape == "circle"
