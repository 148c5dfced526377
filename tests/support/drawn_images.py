"""Images that the tests draw, save and load again."""

import io

import numpy as np
from PIL import Image

from ti_flax.data.images.load import load_images


def checkered(height=8, width=8):
    """`[height, width, 3]` uint8: red, green, blue and gray quarters, so that every turn and mirror shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (200, 20, 30)
    pixels[: height // 2, width // 2 :] = (10, 180, 40)
    pixels[height // 2 :, : width // 2] = (20, 30, 220)
    pixels[height // 2 :, width // 2 :] = (120, 120, 120)
    return pixels


def photograph(height=37, width=53):
    """`[height, width, 3]` uint8, smooth with noise, as a resizing filter sees photographs."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 5, columns * 4, (rows + columns) * 2], axis=-1) % 256
    return np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)


def only(folder, resolution=8, **options):
    """Load a folder of one image at its own size: `[resolution, resolution, 3]`."""
    loaded = load_images(folder, resolution=resolution, interpolation="nearest", **options)
    assert len(loaded.names) == 1
    return loaded.pixels[0]


def save(folder, name, image, **options):
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(folder / name, **options)


def encoded(pixels, image_format):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()
