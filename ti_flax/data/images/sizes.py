"""What SDXL is told of an image beside its pixels: how large it was, where it was cut, and to which size."""

from __future__ import annotations

import numpy as np

from ti_flax.data.images.buckets import Shape
from ti_flax.data.images.focal_crop import Box


def conditioning_of(size: tuple[int, int], box: Box, shape: Shape) -> np.ndarray:
    """The micro-conditioning of an image and of its mirror image, `[2, 6]` float32.

    As SDXL was trained (arXiv:2307.01952, sections 2.2 and 2.3), the size is that of the upright file, and
    the corner is the crop's, counted in whole pixels of the resized image. The mirror image's crop begins
    where the image's ends, so its left is what the image has to the right of the crop.
    `textual_inversion_sdxl.py` counts the corner in pixels of the file and keeps it when it mirrors.

    Args:
      size: width and height of the upright image, in pixels; of a prepared one, those of its original.
      box: the part of it that is trained on, in its pixels.
      shape: that the part is resized to.

    Returns:
      For the image, then its mirror image: original height and width, crop top and left, target height and
      width, all in pixels.
    """
    top, _ = _outside(size[1], box.top, box.bottom, shape.height)
    before, behind = _outside(size[0], box.left, box.right, shape.width)
    return np.asarray([[size[1], size[0], top, left, *shape] for left in (before, behind)], np.float32)


def _outside(length: int, start: float, end: float, side: int) -> tuple[int, int]:
    """Whole pixels of a resized image before and behind a crop of `side` pixels."""
    scale = side / (end - start)
    beyond = max(0, round(length * scale) - side)
    before = min(round(start * scale), beyond)
    return before, beyond - before
