"""How an image of any size gets the shape it is trained in; its mask goes the same way."""

import numpy as np
from PIL import Image

from ti_flax.data.images.buckets import Shape


def fit_to_shape(image: Image.Image, shape: Shape, resample: Image.Resampling) -> np.ndarray:
    """Resize an image so that it just covers a shape, the middle of it: `[height, width, ...]` uint8.

    Where the ratio is the shape's these are the values of `squeezed`.
    """
    width, height = image.size
    wide = min(width, height * shape.width / shape.height)
    high = min(height, width * shape.height / shape.width)
    left, top = (width - wide) / 2, (height - high) / 2
    box = (left, top, left + wide, top + high)
    return np.asarray(image.resize((shape.width, shape.height), resample, box=box))


def squeezed(image: Image.Image, shape: Shape, resample: Image.Resampling) -> np.ndarray:
    """Resize the whole image, the values of diffusers' script: `[height, width, ...]` uint8."""
    return np.asarray(image.resize((shape.width, shape.height), resample))


def cropped(image: Image.Image, shape: Shape, resample: Image.Resampling) -> np.ndarray:
    """Cut out the central square, then resize it, the values of diffusers' script."""
    width, height = image.size
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return squeezed(image.crop((left, top, left + side, top + side)), shape, resample)


def in_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """A whole image in the middle of a white square."""
    if pixels.shape[:2] == (side, side):
        return pixels
    height, width = pixels.shape[:2]
    longest = max(height, width)
    size = (max(1, round(width * side / longest)), max(1, round(height * side / longest)))
    square = Image.new("RGB", (side, side), "white")
    smaller = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    square.paste(smaller, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(square)
