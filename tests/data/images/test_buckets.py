"""Which shapes are chosen for which images, and what an image becomes in its shape."""

import itertools

import numpy as np
import pytest
from PIL import Image

from ti_flax.data.images.buckets import (
    Shape,
    ShapeRules,
    choose_shapes,
    lost_area,
    possible_shapes,
    sdxl_shapes,
)
from ti_flax.data.images.resize import cropped, fit_to_shape, in_frame, squeezed

SQUARE, LANDSCAPE, PORTRAIT = (600, 600), (800, 1200), (1200, 800)


def chosen(sizes, resolution=512, **changes):
    rules = ShapeRules(**{"reso_steps": 64, "max_shapes": 4} | changes)
    return choose_shapes(sizes, resolution, rules)


@pytest.mark.parametrize(("resolution", "steps"), [(512, 64), (768, 64), (512, 8), (520, 64), (32, 8)])
def test_possible_shapes_are_no_larger_than_the_square_and_no_longer_than_2_to_1(resolution, steps):
    shapes = possible_shapes(resolution, steps)
    assert Shape(resolution, resolution) in shapes and len(shapes) > 2
    for height, width in shapes:
        assert height * width <= resolution**2
        assert max(height, width) <= 2 * min(height, width)
        assert height == width == resolution or (height % steps == 0 and width % steps == 0)
        # Neither side could be longer.
        assert height == width or (min(height, width) + steps) * max(height, width) > resolution**2
    ratios = [shape.width / shape.height for shape in shapes]
    assert ratios == sorted(set(ratios))
    assert {Shape(shape.width, shape.height) for shape in shapes} == set(shapes)


def test_the_shapes_of_512():
    listed = [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    assert [(shape.width, shape.height) for shape in possible_shapes(512, 64)] == listed


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([SQUARE, (40, 40)], ["512 x 512"]),
        ([LANDSCAPE] * 3, ["640 x 384"]),
        ([LANDSCAPE, SQUARE, PORTRAIT], ["384 x 640", "512 x 512", "640 x 384"]),
        ([(300, 3000)], ["640 x 384"]),
        ([(3000, 300), (100, 101)], ["384 x 640", "512 x 512"]),
    ],
)
def test_shapes_of_known_sets(sizes, expected):
    found = chosen(sizes)
    assert [str(shape) for shape in found.shapes] == expected
    assert found.of_image.tolist() == [
        int(np.argmin(lost_area(np.array([size]), found.shapes)[0])) for size in sizes
    ]


def test_the_most_shapes_is_kept_and_the_rest_are_cropped():
    sizes = [LANDSCAPE] * 5 + [PORTRAIT] * 5 + [SQUARE]
    assert [str(shape) for shape in chosen(sizes, max_shapes=2).shapes] == ["384 x 640", "640 x 384"]
    assert [str(shape) for shape in chosen(sizes, max_shapes=1).shapes] == ["512 x 512"]


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_no_other_set_of_shapes_loses_less(most):
    rng = np.random.default_rng(most)
    for _ in range(20):
        sizes = rng.integers(100, 1000, (rng.integers(1, 9), 2))
        loss = lost_area(sizes, possible_shapes(256, 32))
        sets = itertools.chain(*(itertools.combinations(range(loss.shape[1]), n + 1) for n in range(most)))
        least = min(loss[:, list(some)].min(axis=1).sum() for some in sets)
        found = chosen(sizes, 256, reso_steps=32, max_shapes=most)
        assert found.cropped.sum() == pytest.approx(least, abs=1e-5)
        assert len(found.shapes) <= most
        assert set(found.of_image) == set(range(len(found.shapes)))


def test_lost_area_is_what_covering_leaves_outside():
    assert lost_area(np.array([[100, 200]]), [Shape(64, 64), Shape(64, 128)]).tolist() == [[0.5, 0.0]]
    assert lost_area(np.array([[200, 100]]), [Shape(64, 64), Shape(64, 128)]).tolist() == [[0.5, 0.75]]


def test_one_line_says_shapes_images_losses_and_compilations():
    said = chosen([SQUARE] * 5 + [LANDSCAPE]).describe()
    assert said == (
        "2 shapes: 512 x 512 (5 images), 640 x 384 (1 image); 1.7% of the area cropped, at most 10.0% of "
        "an image; compiled: one program with 2 branches, the encoder once for each of 2 shapes"
    )
    assert "; 1 enlarged, at most 2 times; compiled: " in chosen([SQUARE, (256, 256)]).describe()
    assert chosen([SQUARE]).describe().endswith("compiled: one program, the encoder once")


def test_enlarged_images_are_known():
    assert chosen([(256, 256), (512, 512), (1024, 2048)]).enlarged.tolist() == [2.0, 1.0, 0.375]


def marked(height, width, rows, columns):
    """White, with a black rectangle."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[slice(*rows), slice(*columns)] = 0
    return Image.fromarray(pixels)


def test_the_middle_is_kept_and_nothing_is_squeezed():
    # 400 x 200 into 32 x 24: of the width 266.67 are kept, from 66.67 on; a pixel becomes 0.12 of one.
    found = fit_to_shape(marked(200, 400, (50, 100), (150, 200)), Shape(24, 32), Image.Resampling.BOX)
    assert found.shape == (24, 32, 3)
    rows, columns = np.nonzero(found[..., 0] < 128)
    assert (rows.min(), rows.max() + 1) == (6, 12)
    assert (columns.min(), columns.max() + 1) == (10, 16)
    tall = fit_to_shape(marked(400, 200, (150, 200), (50, 100)), Shape(32, 24), Image.Resampling.BOX)
    np.testing.assert_array_equal(tall, found.transpose(1, 0, 2))


@pytest.mark.parametrize("resample", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
def test_a_image_of_the_same_ratio_is_resized_whole(resample):
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    shape = Shape(16, 24)
    np.testing.assert_array_equal(fit_to_shape(image, shape, resample), squeezed(image, shape, resample))
    square = Image.fromarray(noise[:, :60])
    shape = Shape(16, 16)
    expected = squeezed(square, shape, resample)
    np.testing.assert_array_equal(fit_to_shape(square, shape, resample), expected)
    np.testing.assert_array_equal(cropped(square, shape, resample), expected)


def test_a_image_is_shown_whole_in_a_white_square():
    pixels = np.full((16, 32, 3), 90, np.uint8)
    shown = in_frame(pixels, (32, 32))
    assert (shown[8:24] == 90).all() and (shown[:8] == 255).all() and (shown[24:] == 255).all()
    np.testing.assert_array_equal(in_frame(pixels[:, :16], (16, 16)), pixels[:, :16])
    tall = in_frame(pixels, (64, 16))
    assert tall.shape == (64, 16, 3)
    assert (tall[28:36] == 90).all() and (tall[:28] == 255).all() and (tall[36:] == 255).all()
    wide = in_frame(pixels, (8, 32))
    assert (wide[:, 8:24] == 90).all() and (wide[:, :8] == 255).all() and (wide[:, 24:] == 255).all()


SDXL = ShapeRules(reso_steps=64, max_shapes=4, of_sdxl=True)


def test_the_shapes_of_sdxl_are_those_of_its_paper():
    """arXiv:2307.01952, section 2.3 and appendix I: about 1024^2 pixels, multiples of 64, 1:4 to 4:1."""
    shapes = sdxl_shapes()
    assert len(shapes) == len(set(shapes)) == 40 and Shape(1024, 1024) in shapes
    for height, width in shapes:
        assert height % 64 == width % 64 == 0
        assert 0.9 * 1024**2 < height * width <= 1024**2
    ratios = [shape.height / shape.width for shape in shapes]
    assert ratios == sorted(set(ratios), reverse=True) and (ratios[0], ratios[-1]) == (4, 0.25)
    # The table's column of height by width.
    listed = (
        "0.25 0.26 0.27 0.28 0.32 0.33 0.35 0.4 0.42 0.48 0.5 0.52 0.57 0.6 0.68 0.72 0.78 0.82 0.88 0.94 "
    )
    listed += "1.0 1.07 1.13 1.21 1.29 1.38 1.46 1.67 1.75 2.0 2.09 2.4 2.5 2.89 3.0 3.11 3.62 3.75 3.88 4.0"
    assert [round(ratio, 2) for ratio in reversed(ratios)] == list(map(float, listed.split()))
    # All that the general rule gives, and others.
    assert set(possible_shapes(1024, 64)) < set(shapes)


def test_sdxl_takes_its_own_shapes_where_it_was_trained_and_the_rule_of_all_elsewhere():
    assert SDXL.possible(1024) == sdxl_shapes()
    assert SDXL.possible(768) == possible_shapes(768, 64)
    finer = ShapeRules(reso_steps=32, max_shapes=4, of_sdxl=True)
    assert finer.possible(1024) == possible_shapes(1024, 32)
    other = ShapeRules(reso_steps=64, max_shapes=4)
    assert other.possible(1024) == possible_shapes(1024, 64) != sdxl_shapes()


def test_long_images_keep_more_in_the_shapes_of_sdxl():
    sizes = [(1000, 3000), (2000, 1000), (1500, 1500)]
    found = choose_shapes(sizes, 1024, SDXL)
    assert found.shapes == (Shape(1408, 704), Shape(1024, 1024), Shape(576, 1728))
    assert found.of_image.tolist() == [2, 0, 1] and found.cropped.max() == 0
    assert chosen(sizes, 1024).cropped.max() > 0.3
