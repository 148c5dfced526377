"""Boxes hold what stands out, and cover what they should."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ti_flax.data.images.focal_crop import center_box, covering_boxes, focal_box, importance


def scene(size, thing, colour, noise=0):
    """A gray image, noisy if asked to, with an ellipse of a colour in a box."""
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(128, noise, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).ellipse(thing, fill=colour)
    return image


@pytest.mark.parametrize("noise", [0, 25])
@pytest.mark.parametrize("colour", ["red", "white", "black", (90, 128, 140)])
@pytest.mark.parametrize("where", [40, 500, 930])
@pytest.mark.parametrize("tall", [False, True])
def test_the_thing_is_inside_whole(where, colour, noise, tall):
    image = scene((1200, 400), (where, 100, where + 220, 320), colour, noise)
    image = image.transpose(Image.Transpose.TRANSPOSE) if tall else image
    box = focal_box(image, 1.0)
    start, end, fixed = (
        (box.top, box.bottom, box.edges[::2]) if tall else (box.left, box.right, box.edges[1::2])
    )
    assert fixed == (0, 400) and end - start == pytest.approx(400)
    assert 0 <= start <= where and where + 220 <= end <= 1200
    middle = min(max(where + 110, 200), 1000)
    assert abs((start + end) / 2 - middle) < 30


def test_nothing_stands_out():
    assert focal_box(Image.new("RGB", (900, 300), "gray"), 1.0).edges == pytest.approx(
        (300, 0, 600, 300), abs=3
    )


@pytest.mark.parametrize("aspect", [1.0, 1.5, 0.25, 4.0])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (7, 500), (256, 256), (1, 1)])
def test_a_box_is_the_largest_of_its_aspect(size, aspect):
    image = Image.new("RGB", size, "gray")
    for box in (focal_box(image, aspect), center_box(image, aspect)):
        width, height = box.right - box.left, box.bottom - box.top
        assert width / height == pytest.approx(aspect)
        assert width == pytest.approx(size[0]) or height == pytest.approx(size[1])
        assert box.left >= 0 and box.top >= 0
        assert box.right <= size[0] + 1e-6 and box.bottom <= size[1] + 1e-6


def test_importance_is_shares():
    shares = importance(scene((320, 160), (10, 10, 60, 60), "red"))
    assert shares.shape == (80, 160)
    assert shares.sum() == pytest.approx(1, abs=1e-4) and shares.min() >= 0
    assert shares[2:33, 2:33].sum() > 0.97


@pytest.mark.parametrize(
    ("size", "box", "overlap", "columns", "rows"),
    [
        ((1200, 400), (400, 400), 0.0, 3, 1),
        ((1200, 400), (400, 400), 0.2, 4, 1),
        ((400, 1000), (400, 400), 0.0, 1, 3),
        ((400, 400), (400, 400), 0.5, 1, 1),
        ((1000, 700), (400, 300), 0.25, 3, 3),
    ],
)
def test_boxes_cover_a_image(size, box, overlap, columns, rows):
    boxes = covering_boxes(size, box, overlap)
    assert len(boxes) == columns * rows
    covered = np.zeros(size[::-1], bool)
    for each in boxes:
        left, top, right, bottom = (round(edge) for edge in each.edges)
        covered[top:bottom, left:right] = True
    assert covered.all()
    for first, second in zip(boxes[: columns - 1], boxes[1:columns]):
        assert first.right - second.left >= overlap * box[0] - 1e-6
