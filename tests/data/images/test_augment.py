"""Variants of images: where they are cropped, how they are coloured, and what goes with the crop."""

import dataclasses

import numpy as np
import pytest
from drawn_images import photograph, save
from PIL import Image

from ti_flax.data.images.augment import Augmentation
from ti_flax.data.images.buckets import ShapeRules
from ti_flax.data.images.focal_crop import Box
from ti_flax.data.images.load import load_images
from ti_flax.data.images.masks import MaskRules

CROPS = Augmentation(variants=5, crop=0.3, seed=7)
COLOURS = Augmentation(variants=3, colours=(0.3, 0.0, 0.0, 0.0), seed=7)


def numbered(height=60, width=80):
    """`[height, width, 3]` uint8 whose red is the column and whose green is the row, so that crops show."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 3, rows * 4, np.zeros_like(rows)], axis=-1).astype(np.uint8)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    save(folder, "a.png", numbered())
    save(folder, "b.png", photograph())
    return folder


def variants_of(folder, augmentation, image=0, **options):
    """Pixels, micro-conditioning and masks of the variants of an image."""
    [group] = load_images(folder, resolution=32, augmentation=augmentation, **options).groups
    return [
        (each.pixels[image], each.time_ids[image], None if each.masks is None else each.masks[image])
        for each in group.variants
    ]


@pytest.mark.parametrize("whole", [Box(0, 0, 80, 60), Box(10, 0, 70, 60), Box(20.5, 0, 60.5, 60)])
def test_crops_keep_their_aspect_and_stay_inside_and_within_the_share(whole):
    found = [CROPS.box(whole, (80, 60), np.random.default_rng(seed)) for seed in range(300)]
    width, height = whole.right - whole.left, whole.bottom - whole.top
    sizes = [((box.right - box.left) / width, (box.bottom - box.top) / height) for box in found]
    np.testing.assert_allclose(*np.transpose(sizes))
    assert 0.7 <= np.min(sizes) < 0.72 and 0.98 < np.max(sizes) <= 1
    for box in found:
        assert 0 <= box.left < box.right <= 80 and 0 <= box.top < box.bottom <= 60
        assert box.left >= whole.left - 0.3 * width - 1e-9 and box.right <= whole.right + 0.3 * width + 1e-9
    if whole.left:  # an image that is wider than its crop: crops move beyond it, to both sides
        assert min(box.left for box in found) < whole.left and max(b.right for b in found) > whole.right


@pytest.mark.parametrize(
    "options", [{}, {"center_crop": True}, {"shapes": ShapeRules(reso_steps=8, max_shapes=1)}]
)
def test_the_first_variant_is_the_image_as_it_is_and_sizes_follow_the_crops(pictures, options):
    plain = load_images(pictures, resolution=32, **options)
    [group] = load_images(pictures, resolution=32, augmentation=CROPS, **options).groups
    np.testing.assert_array_equal(group.pixels, plain.groups[0].pixels)
    np.testing.assert_array_equal(group.time_ids, plain.groups[0].time_ids)
    assert len(group.augmented) == 4
    assert len({each.pixels[0].tobytes() for each in group.variants}) == 5
    for each in group.augmented:
        pixels, (told, mirrored) = each.pixels[0].astype(float), each.time_ids[0]
        assert told[:2].tolist() == mirrored[:2].tolist() == [60, 80]
        # A pixel of the shape is so many of the image, and the first ones show where the crop begins.
        across, down = ((pixels[-4, -4] - pixels[4, 4]) / (np.array(pixels.shape[1::-1] + (9,)) - 8))[:2]
        left, top = pixels[4, 4, 0] / across - 4.5, pixels[4, 4, 1] / down - 4.5
        assert told[3] == pytest.approx(left, abs=1.5) and told[2] == pytest.approx(top, abs=1.5)
        assert mirrored[2] == told[2]


def test_a_variant_depends_on_the_seed_the_image_and_its_number_alone(pictures):
    expected = variants_of(pictures, CROPS, image=1)
    (pictures / "a.png").unlink()  # the second image is the first now
    more = variants_of(pictures, dataclasses.replace(CROPS, variants=7))
    assert all((one[0] == other[0]).all() for one, other in zip(expected, more))
    one, other = (CROPS.draws(pixels, 1).random() for pixels in (numbered(), photograph()))
    assert one != other
    others = variants_of(pictures, dataclasses.replace(CROPS, seed=8))
    assert (others[0][0] == expected[0][0]).all() and not (others[1][0] == expected[1][0]).all()


def test_a_mask_moves_with_its_image_and_colours_leave_it_alone(tmp_path):
    pixels = np.dstack([numbered(), np.where(numbered()[..., 0] < 120, 255, 0).astype(np.uint8)])
    save(tmp_path, "a.png", Image.fromarray(pixels))
    both = dataclasses.replace(CROPS, colours=(0.2, 0.0, 0.0, 0.0))
    masks = MaskRules(alpha=True)
    crops = variants_of(tmp_path, CROPS, masks=masks)
    coloured = variants_of(tmp_path, both, masks=masks)
    for (pixels, _, mask), (_, _, same) in zip(crops, coloured, strict=True):
        np.testing.assert_array_equal(mask, same)
        assert (pixels[mask == 255][:, 2] < 60).all() and (pixels[mask == 0].min(axis=-1) > 200).all()
        assert 0 < (mask == 255).mean() < 1
    assert len({mask.tobytes() for _, _, mask in crops}) > 3


def test_a_crop_that_shows_nothing_that_counts_is_not_taken(tmp_path):
    alpha = np.zeros((60, 80), np.uint8)
    alpha[:, :2] = 255  # most crops leave these columns out
    save(tmp_path, "a.png", Image.fromarray(np.dstack([numbered(), alpha])))
    itself, *others = variants_of(tmp_path, CROPS, masks=MaskRules(alpha=True))
    assert all(mask.any() for _, _, mask in others)
    assert any((mask == itself[2]).all() and (told == itself[1]).all() for _, told, mask in others)


def test_brightness_contrast_saturation_and_hue_change_what_they_say():
    pixels = photograph(16, 16)
    rng = np.random.default_rng

    def change(*colours, seed=1):
        return Augmentation(variants=2, colours=colours).coloured(pixels, rng(seed)).astype(float)

    def spread(of):
        return np.ptp(of, axis=-1).mean()

    before = pixels.astype(float)
    np.testing.assert_array_equal(change(0, 0, 0, 0), before)
    means = [change(0.5, 0, 0, 0, seed=seed).mean() / before.mean() for seed in range(20)]
    assert 0.5 <= min(means) < 0.7 and 1.2 < max(means) <= 1.5
    deviations = [change(0, 0.5, 0, 0, seed=seed).std() / before.std() for seed in range(20)]
    assert min(deviations) < 0.7 and max(deviations) > 1.1
    greyer = [spread(change(0, 0, 0.9, 0, seed=seed)) / spread(before) for seed in range(20)]
    assert min(greyer) < 0.4
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    turned = Augmentation(variants=2, colours=(0, 0, 0, 0.5)).coloured(red, rng(3))
    assert turned.max() == 200 and turned.min() == 0 and (turned[0, 0] != red[0, 0]).any()


def test_nothing_is_drawn_for_images_that_stay_as_they_are(pictures, monkeypatch):
    monkeypatch.setattr(Augmentation, "draws", lambda *_: 1 / 0)
    [group] = load_images(pictures, resolution=32).groups
    assert group.augmented == () and group.variants[0].pixels is group.pixels


def test_colours_leave_the_crop_where_it_is(pictures):
    itself, *others = variants_of(pictures, COLOURS, center_crop=True)
    assert all((told == itself[1]).all() for _, told, _ in others)
    ratios = [pixels.mean() / itself[0].mean() for pixels, _, _ in others]
    assert all(0.69 < ratio < 1.31 and abs(ratio - 1) > 0.01 for ratio in ratios)
