"""What SDXL is told of an image is where its pixels come from, for the image and for its mirror image."""

import numpy as np
import pytest
from drawn_images import encoded, photograph, save
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ti_flax.data.images.buckets import Shape, ShapeRules
from ti_flax.data.images.load import load_images
from ti_flax.data.images.resize import COVERED, CROPPED, SQUEEZED
from ti_flax.data.images.sizes import conditioning_of

FITS = {"covered": COVERED, "squeezed": SQUEEZED, "cropped": CROPPED}
SIDES = st.integers(1, 6000)
SHAPES = st.builds(Shape, st.integers(1, 32).map(lambda n: 64 * n), st.integers(1, 32).map(lambda n: 64 * n))


def told(fit, size, shape):
    """Crop top and left of the image, and left of its mirror image, after checks of the rest."""
    found = conditioning_of(size, fit.box(size, shape), shape)
    assert found.shape == (2, 6) and found.dtype == np.float32
    image, mirror = found.tolist()
    assert image[:2] == mirror[:2] == [size[1], size[0]]
    assert image[4:] == mirror[4:] == list(shape) and image[2] == mirror[2]
    return image[2], image[3], mirror[3]


@pytest.mark.parametrize("name", FITS)
@given(width=SIDES, height=SIDES, shape=SHAPES)
def test_the_crop_lies_in_the_resized_image_on_both_sides(name, width, height, shape):
    fit, size = FITS[name], (width, height)
    if name == "cropped":
        shape = Shape(shape.height, shape.height)  # what the loader crops to
    top, left, mirrored = told(fit, size, shape)
    box = fit.box(size, shape)
    across = shape.width / (box.right - box.left)
    down = shape.height / (box.bottom - box.top)
    resized_width, resized_height = width * across, height * down
    assert all(value == int(value) and value >= 0 for value in (top, left, mirrored))
    # Of an image of whole pixels, rounded once: what is left of the crop, the crop, what is right of it.
    assert abs(left + shape.width + mirrored - resized_width) <= 0.5
    assert top + shape.height <= resized_height + 0.5
    assert abs(top - box.top * down) <= 1 and abs(left - box.left * across) <= 1
    assert abs(mirrored - (width - box.right) * across) <= 1
    if name == "squeezed":
        assert top == left == mirrored == 0
    else:  # one scale for both sides, as the image keeps its proportions; cut along one side at most
        assert across == pytest.approx(down) and min(top, left + mirrored) == 0


@pytest.mark.parametrize("name", FITS)
@settings(max_examples=40)
@given(
    scale=st.integers(1, 5), extra=st.integers(0, 20), side=st.integers(2, 24), upright=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_pixel_at_the_corner_is_that_of_the_resized_image(name, scale, extra, side, upright, seed):
    resized = (side, side + 2 * extra)[:: -1 if upright else 1]  # height, width
    size = (scale * resized[1], scale * resized[0])
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image, shape = Image.fromarray(pixels), Shape(side, side)
    found = FITS[name].pixels(image, shape, Image.Resampling.NEAREST)
    top, left, mirrored = map(int, told(FITS[name], size, shape))
    if name == "squeezed":
        resized = (side, side)
    whole = np.asarray(image.resize((resized[1], resized[0]), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(found, whole[top : top + side, left : left + side])
    np.testing.assert_array_equal(
        found[:, ::-1], whole[:, ::-1][top : top + side, mirrored : mirrored + side]
    )


def test_known_crops():
    assert told(COVERED, (4000, 3000), Shape(1024, 1024)) == (0, 171, 170)  # 1365.3 wide: 170.7
    assert told(CROPPED, (3000, 4000), Shape(512, 512)) == (85, 0, 0)
    assert told(SQUEEZED, (4000, 3000), Shape(1024, 1024)) == (0, 0, 0)
    assert told(COVERED, (1216, 832), Shape(832, 1216)) == (0, 0, 0)
    assert told(COVERED, (256, 300), Shape(1024, 1024)) == (88, 0, 0)  # enlarged: a file of 300 x 256


def test_the_loader_tells_of_the_upright_file(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees when shown
    save(tmp_path, "a.jpg", photograph(40, 80), exif=exif)
    save(tmp_path, "b.png", photograph(40, 80))
    [group] = load_images(tmp_path, resolution=16, center_crop=True).groups
    assert group.time_ids.dtype == np.float32
    assert group.time_ids.tolist() == [
        [[80, 40, 8, 0, 16, 16]] * 2,
        [[40, 80, 0, 8, 16, 16]] * 2,
    ]
    [squeezed] = load_images(tmp_path, resolution=16).groups
    assert squeezed.time_ids[0].tolist() == [[80, 40, 0, 0, 16, 16]] * 2


def test_in_shapes_the_target_is_the_shape_and_the_order_that_of_the_group(tmp_path):
    for name, size in {"a.png": (60, 90), "b.png": (50, 50), "c.png": (31, 45)}.items():
        save(tmp_path, name, photograph(*size))
    loaded = load_images(tmp_path, resolution=32, shapes=ShapeRules(reso_steps=8, max_shapes=2))
    square, wide = loaded.groups
    assert square.time_ids[:, 0].tolist() == [[50, 50, 0, 0, 32, 32]]
    # 31 x 45 becomes 27.6 x 40: one row before the crop or two, and the middle is 1.8.
    assert wide.time_ids[:, 0].tolist() == [[60, 90, 1, 0, 24, 40], [31, 45, 2, 0, 24, 40]]
    into = load_images(tmp_path, resolution=32, into=[Shape(24, 40), Shape(32, 32)])
    np.testing.assert_array_equal(into.groups[0].time_ids[[0, 2]], wide.time_ids)
    assert into.groups[1].time_ids[0].tolist() == [[60, 90, 0, 8, 32, 32]] * 2
    kept = loaded.with_pixels_of(1)
    assert [len(group.time_ids) for group in kept.groups] == [1]
    np.testing.assert_array_equal(kept.groups[0].time_ids, wide.time_ids[:1])


def test_images_of_datasets_have_sizes_too(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    rows = [{"image": {"path": None, "bytes": encoded(photograph(30, 60), "PNG")}}]
    table = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image()}))
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name: {"train": table})
    [group] = load_images("someone/cats", resolution=24, center_crop=True).groups
    assert group.time_ids.tolist() == [[[30, 60, 0, 12, 24, 24]] * 2]
