"""An embedding inside an image, as the Stable Diffusion Web UI keeps it: as text, and in the pixels.

The text is base64 of JSON. The pixels carry the same JSON, deflated: the low halves of its bytes in the low
four bits of a block left of the image, the high halves in a block right of it, each behind a black column,
so that it survives programs that drop a file's text (modules/textual_inversion/image_embedding.py there).
"""

from __future__ import annotations

import base64
import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.errors import WeightsError
from ti_flax.files.regular import open_regular
from ti_flax.models.weights.tensor_files import reason

TEXT_CHUNK = "sd-ti-embedding"
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"RIFF")
_TENSOR = "TORCHTENSOR"
# The generator that the Web UI scrambles pixels with (Numerical Recipes' constants), from seed 0.
_SCRAMBLE_FACTOR, _SCRAMBLE_STEP, _SCRAMBLE_RANGE = 1664525, 1013904223, 2**32
# What some 700 vectors of 1,024 numbers take; an image can be made to unfold into any length.
_LONGEST_TEXT = 2**24
# Of images that are looked into: beyond any that a program draws upon.
_MOST_PIXELS = 2**25
_MOST_TEXT_BYTES = 2 * _LONGEST_TEXT


def is_image(beginning: bytes) -> bool:
    """Tell a PNG or WebP file from its first 12 bytes."""
    return beginning.startswith(_BEGINNINGS[0]) or (
        beginning.startswith(_BEGINNINGS[1]) and beginning[8:12] == b"WEBP"
    )


def read_image(path: Path) -> Any:
    """Read the tree that an image carries, as text or else in its pixels; tensors are float32 arrays.

    Raises:
      WeightsError: it carries none.
    """
    from PIL import Image

    try:
        with (
            warnings.catch_warnings(),
            open_regular(path) as file,
            Image.open(file, formats=("PNG", "WEBP")) as image,
        ):
            warnings.simplefilter("ignore")
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than are looked through")
            image.load()
            text = image.info.get(TEXT_CHUNK)
            if isinstance(text, str):
                content = _decoded(text)
            else:
                content = hidden_bytes(np.asarray(image.convert("RGB")))
        return json.loads(content, object_hook=_tensor_or_mapping)
    except Exception as error:  # Pillow's plugins raise whatever their parser stumbled upon
        raise WeightsError(
            path,
            expected="an image of the Web UI that carries an embedding",
            found=f"an image that carries none ({reason(error)})",
            remedy="Saved again as JPEG, or made smaller, an image loses it.",
        ) from None


def tree_bytes(tree: Any) -> bytes:
    """Write a tree of mappings, text, numbers and arrays as JSON; float32 numbers keep their bits."""
    return json.dumps(tree, default=lambda array: {_TENSOR: array.tolist()}).encode()


def hide_bytes(pixels: np.ndarray, content: bytes) -> np.ndarray:
    """Put blocks that carry bytes left and right of an image.

    Args:
      pixels: `[height, width, 3]` uint8.
      content: what to carry.

    Returns:
      `[height, width + 2 + data, 3]` uint8.
    """
    height = len(pixels)
    packed = np.frombuffer(zlib.compress(content, 9), np.uint8)
    low, high = (_block(half, height) for half in (packed & 0x0F, packed >> 4))
    wall = np.zeros((height, 1, 3), np.uint8)
    return np.concatenate([low, wall, pixels, wall, high], axis=1)


def hidden_bytes(pixels: np.ndarray) -> bytes:
    """Find what is hidden in the blocks left and right of an image.

    Args:
      pixels: `[height, width, 3]` uint8, possibly with a black border.

    Raises:
      ValueError: nothing is.
    """
    nibbles = pixels & 0x0F
    lit = nibbles.max(axis=2) > 0
    if not lit.any():
        raise ValueError("black")
    rows, columns = np.flatnonzero(lit.max(axis=1)), np.flatnonzero(lit.max(axis=0))
    nibbles = nibbles[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    walls = np.flatnonzero(nibbles.max(axis=(0, 2)) == 0)
    if len(walls) < 2:
        raise ValueError("no columns of black between pixels and data")
    low, high = nibbles[:, : walls[0]], nibbles[:, walls[-1] + 1 :]
    if low.shape != high.shape:
        raise ValueError("two blocks of different size")
    pattern = _pattern(low.size)
    packed = ((high.reshape(-1) ^ pattern) << 4) | (low.reshape(-1) ^ pattern)
    inflated = zlib.decompressobj()
    content = inflated.decompress(packed.tobytes(), _LONGEST_TEXT)
    if not inflated.eof:
        raise ValueError("data without an end")
    return content


def _decoded(text: str) -> bytes:
    if len(text) > _MOST_TEXT_BYTES:
        raise ValueError("a text without an end")
    return base64.b64decode(text, validate=True)


def _tensor_or_mapping(tree: dict[str, Any]) -> Any:
    if set(tree) != {_TENSOR}:
        return tree
    try:
        with np.errstate(over="ignore"):
            return np.array(tree[_TENSOR], np.float64).astype(np.float32)
    except (ValueError, TypeError, OverflowError):
        raise ValueError("rows of numbers that are none, too large, or of different lengths") from None


def _block(nibbles: np.ndarray, height: int) -> np.ndarray:
    """Lay nibbles out as `[height, columns, 3]`, repeated to fill it, under a pattern of soft stripes."""
    length = len(nibbles) + height - len(nibbles) % height
    length += 3 * height - length % (3 * height)
    scrambled = (np.resize(nibbles, length) ^ _pattern(length)).reshape(height, -1, 3)
    rows, columns, _ = np.indices(scrambled.shape)
    # Nowhere black, so that what cuts a black border off leaves the block whole.
    shade = (5 + 3 * np.sin((rows + 3 * columns) / 9)).astype(np.uint8)
    return scrambled | (shade << 4)


def _pattern(count: int) -> np.ndarray:
    """The Web UI's fixed pattern of `[count]` nibbles."""
    values = np.zeros(count + 1, np.uint32)
    factor, step, known = _SCRAMBLE_FACTOR, _SCRAMBLE_STEP, 1
    # A step done twice leads over two values, so all that are known give as many more.
    while known <= count:
        more = min(known, count + 1 - known)
        values[known : known + more] = values[:more] * np.uint32(factor) + np.uint32(step)
        factor, step = factor * factor % _SCRAMBLE_RANGE, (factor * step + step) % _SCRAMBLE_RANGE
        known += more
    return (values[1:] % 255 & 0x0F).astype(np.uint8)
