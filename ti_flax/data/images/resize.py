"""How an image of any size gets the shape it is trained in; its mask goes the same way."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from ti_flax.data.images.buckets import Shape
from ti_flax.data.images.focal_crop import Box


class Fit(NamedTuple):
    """A way of bringing images into a shape.

    Attributes:
      pixels: from an image, the shape and a filter to `[height, width, ...]` uint8.
      box: from the image's width and height, and the shape, to the part of the image that is seen then.
    """

    pixels: Callable[[Image.Image, Shape, Image.Resampling], np.ndarray]
    box: Callable[[tuple[int, int], Shape], Box]


def fit_to_shape(image: Image.Image, shape: Shape, resample: Image.Resampling) -> np.ndarray:
    """Resize an image so that it just covers a shape, the middle of it: `[height, width, ...]` uint8.

    Where the ratio is the shape's these are the values of `squeezed`.
    """
    return resized_part(image, shape, resample, middle_box(image.size, shape))


def resized_part(image: Image.Image, shape: Shape, resample: Image.Resampling, box: Box) -> np.ndarray:
    """Resize a part of an image to a shape: `[height, width, ...]` uint8."""
    return np.asarray(image.resize((shape.width, shape.height), resample, box=box.edges))


def middle_box(size: tuple[int, int], shape: Shape) -> Box:
    """The middle of an image of this width and height, as large as the shape's ratio allows."""
    width, height = size
    wide = min(width, height * shape.width / shape.height)
    high = min(height, width * shape.height / shape.width)
    left, top = (width - wide) / 2, (height - high) / 2
    return Box(left, top, left + wide, top + high)


def squeezed(image: Image.Image, shape: Shape, resample: Image.Resampling) -> np.ndarray:
    """Resize the whole image, the values of diffusers' script: `[height, width, ...]` uint8."""
    return np.asarray(image.resize((shape.width, shape.height), resample))


def whole_box(size: tuple[int, int], shape: Shape) -> Box:
    """All of an image, whatever the shape."""
    return Box(0, 0, *size)


def cropped(image: Image.Image, shape: Shape, resample: Image.Resampling) -> np.ndarray:
    """Cut out the central square, then resize it, the values of diffusers' script."""
    return squeezed(image.crop(central_square(image.size, shape).edges), shape, resample)


def central_square(size: tuple[int, int], shape: Shape) -> Box:
    """The central square of an image of this width and height, in whole pixels, whatever the shape."""
    width, height = size
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return Box(left, top, left + side, top + side)


COVERED = Fit(fit_to_shape, middle_box)
SQUEEZED = Fit(squeezed, whole_box)
CROPPED = Fit(cropped, central_square)


def in_frame(pixels: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    """A whole image in the middle of a white frame of this height and width."""
    if pixels.shape[:2] == frame:
        return pixels
    height, width = pixels.shape[:2]
    if width * frame[0] >= height * frame[1]:
        size = frame[1], max(1, round(height * frame[1] / width))
    else:
        size = max(1, round(width * frame[0] / height)), frame[0]
    framed = Image.new("RGB", (frame[1], frame[0]), "white")
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    framed.paste(resized, ((frame[1] - size[0]) // 2, (frame[0] - size[1]) // 2))
    return np.asarray(framed)
