"""Images that are there twice are noted, others are not."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from ti_flax.data.images.load import load_images
from ti_flax.data.sources import duplicates
from ti_flax.data.sources.duplicates import duplicate_notes, duplicate_pairs


def scene(seed, size=(96, 64)):
    """An image with large shapes and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8))


def pairs(*images):
    return duplicate_pairs([np.asarray(image.convert("RGB").resize((64, 64))) for image in images])


def test_the_same_pixels(tmp_path):
    for name, seed in (("a.png", 1), ("b.png", 2), ("c.png", 1), ("d.png", 1)):
        scene(seed).save(tmp_path / name)
    loaded = load_images(tmp_path, resolution=64)
    assert loaded.notes == (
        "images that are there twice: c.png is the same as a.png, d.png is the same as a.png",
    )
    assert len(loaded.names) == 4


@pytest.mark.parametrize("kind", ["smaller", "jpeg", "brighter", "cropped"])
def test_nearly_the_same(tmp_path, kind):
    original = scene(3)
    changed = {
        "smaller": lambda: original.resize((60, 40), Image.Resampling.LANCZOS),
        "jpeg": lambda: original,
        "brighter": lambda: ImageEnhance.Brightness(original).enhance(1.04),
        "cropped": lambda: original.crop((1, 1, 95, 63)),
    }[kind]()
    path = tmp_path / f"a.{'jpg' if kind == 'jpeg' else 'png'}"
    changed.save(path, **({"quality": 40} if kind == "jpeg" else {}))
    with Image.open(path) as again:
        assert pairs(original, scene(4), again) == [(0, 2, False)]


def test_different_images_are_not_noted():
    assert pairs(*(scene(seed) for seed in range(40))) == []
    # No edges at all: told apart by colour alone.
    shades = [Image.new("RGB", (64, 64), (shade, 90, 90)) for shade in range(0, 250, 50)]
    assert pairs(*shades) == []
    assert pairs(scene(1), scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == []


def test_a_few_are_named():
    (note,) = duplicate_notes(np.zeros((9, 8, 8, 3), np.uint8), [f"{n}.png" for n in range(9)])
    assert note.count("the same as 0.png") == 5 and note.endswith("5.png is the same as 0.png, and 3 more")
    assert duplicate_notes(np.zeros((1, 8, 8, 3), np.uint8), ["a.png"]) == []


def compared(monkeypatch, images):
    """How many images are compared with how many others altogether, and the pairs."""
    counts, compare = [], duplicates._first_near
    monkeypatch.setattr(
        duplicates, "_first_near", lambda looks, *others: counts.append(len(looks)) or compare(looks, *others)
    )
    return duplicate_pairs(images), sum(counts)


@pytest.mark.parametrize("kind", ["same", "alike", "different", "flat"])
def test_each_image_is_compared_with_a_few_others(monkeypatch, kind):
    rng, first, levels = np.random.default_rng(0), np.asarray(scene(0, (32, 32))), range(0, 250, 31)
    shades = [(red, green, blue) for red in levels for green in levels for blue in levels]
    images = [
        {
            "same": lambda: first,
            "alike": lambda: np.clip(first + rng.integers(-2, 3, first.shape), 0, 255).astype(np.uint8),
            "different": lambda number=number: np.asarray(scene(number, (32, 32))),
            # The same shapes, which is none, in colours that differ.
            "flat": lambda shade=shade: np.full((32, 32, 3), shade, np.uint8),
        }[kind]()
        for number, shade in enumerate(shades[:700])
    ]
    monkeypatch.setattr(duplicates, "_MOST_ALIKE", 3)
    pairs, comparisons = compared(monkeypatch, images)
    assert comparisons <= 700 * 3 * 11  # of the square it would be 244,650
    expected = [(0, late, kind == "same") for late in range(1, 700)]
    assert pairs == (expected if kind in ("same", "alike") else [])


@pytest.mark.parametrize("seed", range(20))
def test_images_that_differ_in_few_bits_are_found_wherever_these_are(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (40, 128)).astype(bool)
    near = bits.copy()
    for row in near:
        row[rng.choice(128, 10, replace=False)] ^= True
    hashes = iter([*bits, *near])
    monkeypatch.setattr(duplicates, "_difference_bits", lambda image: next(hashes))
    images = [np.full((8, 8, 3), number, np.uint8) for number in range(80)]
    monkeypatch.setattr(duplicates, "_thumbnail", lambda image: np.zeros((8, 8, 3), np.float32))
    assert duplicate_pairs(images) == [(number, 40 + number, False) for number in range(40)]
