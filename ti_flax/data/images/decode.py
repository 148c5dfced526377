"""Images from files and bytes: upright, in RGB, whatever mode they are kept in, and within limits."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ti_flax.data.sources.formats import (
    OTHER_FORMATS,
    SIGNED_FORMATS,
    UNREADABLE_SUFFIXES,
    available,
    cause,
    strict_about_size,
)
from ti_flax.errors import DataError
from ti_flax.files.regular import open_regular

# Pixels that are brought over a ground at once.
_STRIP = 2**22


def decode_image(content: str | bytes, where: str) -> Image.Image:
    """Return the upright RGB image of a file, given by path or by content.

    Raises:
      DataError: it cannot be decoded, or is too large.
    """
    return decoded(content, where, lambda image: upright_alone(image)[0])


def decoded(content: str | bytes, where: str, convert: Callable[[Image.Image], Any]) -> Any:
    """Open an image, given by path or by content, and return what is made of it.

    Raises:
      DataError: it cannot be decoded, or is too large.
    """
    if Path(where).suffix.lower() in UNREADABLE_SUFFIXES:
        raise DataError(where, found="a format that is not read", remedy="Save it as PNG or JPEG.")
    try:
        formats = available(SIGNED_FORMATS + OTHER_FORMATS)
        opened = io.BytesIO(content) if isinstance(content, bytes) else open_regular(content)
        with opened, strict_about_size(), Image.open(opened, formats=formats) as image:
            return convert(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"at most {Image.MAX_IMAGE_PIXELS} pixels"
        raise DataError(where, expected=limit, found="a larger image", remedy="Scale it down.") from error
    except Exception as error:  # Pillow's plugins raise whatever their parser stumbled upon
        raise DataError(
            where,
            found=f"an image that cannot be decoded ({cause(error)})",
            remedy="Replace it or take it out of the folder.",
        ) from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width after the orientation from EXIF; of most formats only the header is read."""
    width, height = image.size
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def _upright(image: Image.Image) -> Image.Image:
    """The image itself, turned as its EXIF says; no second copy of a large one is held."""
    ImageOps.exif_transpose(image, in_place=True)
    return image


def upright_alone(image: Image.Image) -> tuple[Image.Image, None]:
    """The upright RGB image."""
    return _rgb(_upright(image)), None


def upright_with_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The upright RGB image, and what is opaque of it in gray, or None if it has no transparency."""
    upright = _upright(image)
    alpha = None
    if upright.has_transparency_data and not _is_deep_gray(upright):
        alpha = upright.convert("RGBA").getchannel("A")
    return _rgb(upright), alpha


def gray(image: Image.Image) -> Image.Image:
    """The upright image in gray, transparent parts over black."""
    upright = _upright(image)
    if upright.has_transparency_data and not _is_deep_gray(upright):
        return _over(upright, "black", "L")
    return _rgb(upright).convert("L")


def _over(image: Image.Image, ground: str, mode: str) -> Image.Image:
    """An image over a ground of one colour, in strips, as copies of a large one take gigabytes."""
    made = Image.new(mode, image.size)
    height = max(1, _STRIP // image.width)
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height))).convert("RGBA")
        under = Image.new("RGBA", strip.size, ground)
        under.alpha_composite(strip)
        made.paste(under.convert(mode), (0, top))
    return made


def _is_deep_gray(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _rgb(image: Image.Image) -> Image.Image:
    """Return any of Pillow's modes as RGB, transparent parts over white."""
    if _is_deep_gray(image):
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        return _over(image, "white", "RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale gray values of more than 8 bits to 0..255; Pillow itself would cut them off at 255.

    Integers fill 16 bits. Floats fill the first of [0, 1], [0, 255] and [0, 65535] that holds them. Values
    outside fill their own range.
    """
    values = np.asarray(image, np.float32 if image.mode == "F" else np.int32)
    if not np.isfinite(values).all():
        raise ValueError("gray values that are not finite")
    scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    low, top = min(float(values.min()), 0.0), float(values.max())
    high = next((scale for scale in scales if top <= scale), top)
    gray = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):  # one by one, as in 64 bits a large image takes gigabytes
        gray[row] = np.rint((line.astype(np.float64) - low) * (255 / (high - low)))
    return Image.fromarray(gray)
