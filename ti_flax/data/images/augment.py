"""Variants of an image, cropped and coloured at random, which are encoded beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from ti_flax.data.images.buckets import Shape
from ti_flax.data.images.decode import Decoded
from ti_flax.data.images.focal_crop import Box
from ti_flax.data.images.resize import resized_part

# Tells these draws from others of the same seed.
_STREAM = 2


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is drawn for the variants of every image.

    Attributes:
      variants: of each image, the image as it is among them.
      crop: share of a crop's sides by which a variant's are smaller, at most, and by which it may move.
      colours: the most by which brightness, contrast and saturation change, as shares, and hue, in turns.
      seed: of the run.
    """

    variants: int = 1
    crop: float = 0.0
    colours: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    seed: int = 0

    def draws(self, pixels: np.ndarray, variant: int) -> np.random.Generator:
        """What a variant is drawn from: the seed, its image's own pixels and its number, and nothing else."""
        image = int.from_bytes(hashlib.sha256(np.ascontiguousarray(pixels).data).digest()[:8], "big")
        return np.random.default_rng([self.seed, _STREAM, image, variant])

    def box(self, whole: Box, size: tuple[int, int], rng: np.random.Generator) -> Box:
        """Draw a variant's crop, of the aspect of the image's own and inside the image.

        Args:
          whole: the image's own crop.
          size: width and height of the image.
          rng: of the variant.
        """
        share, across, down = rng.random(3)
        smaller = 1 - self.crop * share
        left, right = _moved(whole.left, whole.right, size[0], smaller, self.crop, across)
        top, bottom = _moved(whole.top, whole.bottom, size[1], smaller, self.crop, down)
        return Box(left, top, right, bottom)

    def coloured(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a variant's colours, `[height, width, 3]` uint8: one change after the other, in Pillow's ways.

        Args:
          pixels: `[height, width, 3]` uint8.
          rng: of the variant.
        """
        *factors, turn = rng.uniform(-1, 1, 4) * np.asarray(self.colours)
        image = Image.fromarray(pixels)
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for kind, factor in zip(kinds, factors, strict=True):
            image = kind(image).enhance(1 + factor) if factor else image
        return np.asarray(_turned(image, turn) if turn else image)


AS_IT_IS = Augmentation()


class Variant(NamedTuple):
    """An image cropped and coloured at random.

    Attributes:
      pixels: `[height, width, 3]` uint8.
      box: the part of the image that it shows.
      mask: `[height, width]` uint8, of that part; None if the image has none.
    """

    pixels: np.ndarray
    box: Box
    mask: np.ndarray | None


def augmented(
    augmentation: Augmentation,
    decoded: Decoded,
    box: Box,
    shape: Shape,
    resample: Image.Resampling,
    *,
    pixels: np.ndarray,
    mask: np.ndarray | None,
) -> Iterator[Variant]:
    """Draw the variants of an image that are to be trained on beside it.

    A crop that shows nothing of what the mask lets count is not taken: the variant has the image's own.

    Args:
      augmentation: what is drawn.
      decoded: the image, with its mask as alpha.
      box: the image's own crop.
      shape: that all get.
      resample: the filter of images.
      pixels: `[height, width, 3]` uint8, the image in this shape.
      mask: `[height, width]` uint8, its mask in this shape; None if it has none.
    """
    for variant in range(1, augmentation.variants):
        rng = augmentation.draws(pixels, variant)
        crop, shown, counts = augmentation.box(box, decoded.image.size, rng), pixels, mask
        if decoded.alpha is not None:
            counts = resized_part(decoded.alpha, shape, Image.Resampling.BOX, crop)
        if augmentation.crop and (counts is None or counts.any()):
            shown = resized_part(decoded.image, shape, resample, crop)
        else:
            crop, counts = box, mask
        yield Variant(augmentation.coloured(shown, rng), crop, counts)


def _moved(
    start: float, end: float, length: int, smaller: float, share: float, place: float
) -> tuple[float, float]:
    """Where a shorter crop begins and ends: anywhere up to a share of the side beyond the image's own crop.

    Args:
      start, end: of the image's own crop.
      length: of the image.
      smaller: the crop's length by the own crop's.
      share: of the own crop's length.
      place: in [0, 1), where between the first place and the last.
    """
    side = end - start
    first, last = max(0.0, start - share * side), min(float(length), end + share * side)
    begins = first + place * (last - first - smaller * side)
    return begins, min(float(length), begins + smaller * side)


def _turned(image: Image.Image, turn: float) -> Image.Image:
    """The image with every hue moved by so many turns of the circle of hues."""
    hue, saturation, value = image.convert("HSV").split()
    moved = np.asarray(hue) + np.uint8(round(turn * 256) % 256)  # uint8 goes round
    return Image.merge("HSV", (Image.fromarray(moved), saturation, value)).convert("RGB")
