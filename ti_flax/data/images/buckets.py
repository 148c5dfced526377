"""Shapes that images of many aspect ratios are trained in: few, because each is compiled by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# The longer side of a shape over its shorter one, at most; what is longer than that is cropped.
LARGEST_RATIO = 2
# The square and the steps of the shapes that SDXL was trained in, and their longer sides by the shorter one
# (arXiv:2307.01952, appendix I); there are all upright too, but for one.
SDXL_RESOLUTION, SDXL_STEPS = 1024, 64
_SDXL_SIDES = {
    512: (2048, 1984, 1920, 1856),
    576: (1792, 1728, 1664),
    640: (1600, 1536),
    704: (1472, 1408, 1344),
    768: (1344, 1280),
    832: (1216, 1152),
    896: (1152, 1088),
    960: (1088, 1024),
    1024: (1024,),
}
_ONLY_WIDE = (704, 1344)
# Area that another shape has to save, in images, before it is worth a compilation.
_WORTH = 1e-6


class Shape(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


@dataclass(frozen=True, kw_only=True)
class ShapeRules:
    """Which shapes there may be.

    Attributes:
      reso_steps: pixels by which sides differ.
      max_shapes: how many at most.
      of_sdxl: whether they are for an SDXL model. Those that it was trained in are then the possible ones at
        its resolution and steps, as long as 4 to 1; elsewhere the rule is the same for all models.
    """

    reso_steps: int
    max_shapes: int
    of_sdxl: bool = False

    def possible(self, resolution: int) -> list[Shape]:
        """The shapes to choose from, tallest first."""
        if self.of_sdxl and (resolution, self.reso_steps) == (SDXL_RESOLUTION, SDXL_STEPS):
            return sdxl_shapes()
        return possible_shapes(resolution, self.reso_steps)


@dataclass(frozen=True)
class ChosenShapes:
    """Shapes, and which of them each image takes.

    Attributes:
      shapes: from the tallest to the widest; each is some image's.
      of_image: `[images]` int, indices of `shapes`.
      cropped: `[images]` float, the part of each image's area that does not fit into its shape.
      enlarged: `[images]` float, pixels of the shape along a pixel of the image; above 1 none is gained.
    """

    shapes: tuple[Shape, ...]
    of_image: np.ndarray
    cropped: np.ndarray
    enlarged: np.ndarray

    def describe(self) -> str:
        """One line: the shapes with their images, what is cropped, and what is compiled."""
        counts = np.bincount(self.of_image, minlength=len(self.shapes))
        listed = ", ".join(
            f"{shape} ({count} image{'s' if count > 1 else ''})" for shape, count in zip(self.shapes, counts)
        )
        lost = f"{self.cropped.mean():.1%} of the area cropped, at most {self.cropped.max():.1%} of an image"
        if (self.enlarged > 1).any():
            lost += f"; {(self.enlarged > 1).sum()} enlarged, at most {self.enlarged.max():.2g} times"
        several = len(self.shapes) > 1
        program = f"one program with {len(self.shapes)} branches" if several else "one program"
        encoder = f"the encoder once for each of {len(self.shapes)} shapes" if several else "the encoder once"
        return f"{len(self.shapes)} shape{'s' * several}: {listed}; {lost}; compiled: {program}, {encoder}"


def possible_shapes(resolution: int, reso_steps: int) -> list[Shape]:
    """The square, and for every width the highest shape of no more than the square's area, tallest first.

    Args:
      resolution: side of the square.
      reso_steps: sides of the other shapes are multiples of it.

    Returns:
      Shapes of different ratios of at most `LARGEST_RATIO`.
    """
    shapes = {1.0: Shape(resolution, resolution)}
    for width in range(reso_steps, LARGEST_RATIO * resolution, reso_steps):
        height = resolution**2 // width // reso_steps * reso_steps
        for shape in (Shape(height, width), Shape(width, height)):
            if height == width or max(shape) > LARGEST_RATIO * min(shape):
                continue
            ratio = shape.width / shape.height
            shapes[ratio] = max(shape, shapes.get(ratio, shape))
    return [shapes[ratio] for ratio in sorted(shapes)]


def sdxl_shapes() -> list[Shape]:
    """The shapes that SDXL was trained in, tallest first (arXiv:2307.01952, appendix I)."""
    wide = {Shape(height, width) for height, widths in _SDXL_SIDES.items() for width in widths}
    upright = {Shape(*reversed(shape)) for shape in wide if shape != _ONLY_WIDE}
    return sorted(wide | upright, key=lambda shape: shape.width / shape.height)


def lost_area(sizes: np.ndarray, shapes: Sequence[Shape]) -> np.ndarray:
    """The part of each image that is outside, once it covers a shape: `[images, shapes]` in [0, 1).

    Args:
      sizes: `[images, 2]` height and width.
      shapes: to be covered.
    """
    heights, widths = np.asarray(sizes, np.float64).T[:, :, None]
    targets = np.asarray(shapes, np.float64)
    ratio = (widths * targets[:, 0]) / (heights * targets[:, 1])
    return 1 - np.minimum(ratio, 1 / ratio)


def choose_shapes(sizes: Sequence[tuple[int, int]], resolution: int, rules: ShapeRules) -> ChosenShapes:
    """Chooses the shapes that lose least to cropping, and no more of them than lessen the loss.

    The least loss is found exactly: ratios lie on a line, and an image loses least in the nearest shape on
    one of its sides, so that the best set that ends in a shape extends the best that ends in an earlier one.

    Args:
      sizes: height and width of each image.
      resolution: side of the square; no shape has more area.
      rules: which shapes there may be.
    """
    possible = rules.possible(resolution)
    loss = lost_area(np.asarray(sizes), possible)
    found = _best_sets(loss, np.asarray(sizes, np.float64), possible, rules.max_shapes)
    least = min(total for _, total in found)
    best = next(shapes for shapes, total in found if total <= least + _WORTH)
    kept = loss[:, list(best)]
    taken, of_image = np.unique(kept.argmin(axis=1), return_inverse=True)
    shapes = tuple(possible[best[index]] for index in taken)
    covering = np.asarray(shapes, np.float64)[of_image] / np.asarray(sizes)
    return ChosenShapes(shapes, of_image, kept.min(axis=1), covering.max(axis=1))


def _best_sets(
    loss: np.ndarray, sizes: np.ndarray, possible: Sequence[Shape], most: int
) -> list[tuple[tuple[int, ...], float]]:
    """The best sets of 1, 2, ... `most` shapes, each with its loss summed over the images."""
    ratios = np.array([shape.width / shape.height for shape in possible])
    # Shapes below this index are taller than the image, and it is at least as tall as all others.
    place = np.searchsorted(ratios, sizes[:, 1] / sizes[:, 0])
    count = len(possible)
    first = np.array([loss[place <= b, b].sum() for b in range(count)])
    last = np.array([loss[place > b, b].sum() for b in range(count)])
    between = np.full((count, count), np.inf)
    for a in range(count):
        for b in range(a + 1, count):
            inside = (place > a) & (place <= b)
            between[a, b] = np.minimum(loss[inside, a], loss[inside, b]).sum()
    sets: list[tuple[int, ...]] = [(b,) for b in range(count)]
    ends = first
    found = []
    for _ in range(min(most, count)):
        end = int(np.argmin(ends + last))
        found.append((sets[end], float(ends[end] + last[end])))
        extended = ends[:, None] + between
        before = extended.argmin(axis=0)
        ends = extended.min(axis=0)
        sets = [(*sets[a], b) for b, a in enumerate(before)]
    return found
