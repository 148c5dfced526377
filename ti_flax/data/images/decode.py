"""Images from files and bytes: upright, in sRGB, whatever mode they are kept in, and within limits."""

import dataclasses
import io
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ti_flax.data.images.colours import Conversion, conversion_of
from ti_flax.data.images.origin import Origin, read_origin
from ti_flax.data.sources.formats import (
    OTHER_FORMATS,
    SIGNED_FORMATS,
    UNREADABLE_SUFFIXES,
    available,
    cause,
    strict_about_size,
)
from ti_flax.data.sources.optional_formats import require_reader
from ti_flax.errors import DataError
from ti_flax.files.regular import open_regular

AS_IT_IS = Conversion()
# Pixels that are brought over a ground at once.
_STRIP = 2**22
# The brightest value of 16 bits.
_FULL = 65535.0
_SCALED = "gray of {} bits in a file of 16, brought to full brightness"
# The brightest level of an image that is nearly black.
_DARK = 63
_CUT_OFF = "nearly black, as the colours fill a small part of the 16 bits of the file (scale them up)"


@dataclasses.dataclass(frozen=True)
class Decoded:
    """An upright image.

    Attributes:
      image: RGB, in sRGB.
      alpha: what is opaque of it, in gray; None if it has no transparency, or was not asked for.
      origin: of which image it is a part; itself if the file does not say.
      notes: what the user should know, without the image's name.
    """

    image: Image.Image
    origin: Origin
    alpha: Image.Image | None = None
    notes: tuple[str, ...] = ()


def notes_on_images(noted: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """Return a line for each kind of note, with the count and the first name of the images that have it.

    Args:
      noted: names of images, and the notes of each.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for name, notes in noted:
        for note in notes:
            names[note].append(name)
    return [
        f"{note}: {found[0]}" if len(found) == 1 else f"{note}: {len(found)} images, such as {found[0]}"
        for note, found in names.items()
    ]


def decode_image(content: str | bytes, where: str) -> Image.Image:
    """Return the upright RGB image of a file, given by path or by content.

    Raises:
      DataError: it cannot be decoded, or is too large.
    """
    return decoded(content, where, upright_alone).image


def decoded(content: str | bytes, where: str, convert: Callable[[Image.Image], Any]) -> Any:
    """Open an image, given by path or by content, and return what is made of it.

    Raises:
      DataError: it cannot be decoded, or is too large.
    """
    if Path(where).suffix.lower() in UNREADABLE_SUFFIXES:
        raise DataError(where, found="a format that is not read", remedy="Save it as PNG or JPEG.")
    try:
        require_reader(content, where)
        formats = available(SIGNED_FORMATS + OTHER_FORMATS)
        opened = io.BytesIO(content) if isinstance(content, bytes) else open_regular(content)
        with opened, strict_about_size(), Image.open(opened, formats=formats) as image:
            return convert(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"at most {Image.MAX_IMAGE_PIXELS} pixels"
        raise DataError(where, expected=limit, found="a larger image", remedy="Scale it down.") from error
    except DataError:
        raise
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


def upright_alone(image: Image.Image) -> Decoded:
    """The upright RGB image."""
    halved, said = _is_halved(image), read_origin(image)
    return _rgb(_upright(image), said, halved=halved)


def upright_with_alpha(image: Image.Image) -> Decoded:
    """The upright RGB image, and what is opaque of it."""
    halved, said, alpha = _is_halved(image), read_origin(image), None
    upright = _upright(image)
    if upright.has_transparency_data and not _is_deep_gray(upright):
        alpha = upright.convert("RGBA").getchannel("A")
    return dataclasses.replace(_rgb(upright, said, halved=halved), alpha=alpha)


def gray(image: Image.Image) -> Image.Image:
    """The upright image in gray, transparent parts over black.

    This is for masks. Their levels are weights and no light, so a colour profile is left out of account.
    """
    upright = _upright(image)
    if _is_deep_gray(upright):
        return _eight_bit(upright)[0]
    if upright.has_transparency_data:
        return _over(upright, "black", "L")
    return AS_IT_IS.rgb(upright).convert("L")


def _over(image: Image.Image, ground: str, mode: str, conversion: Conversion = AS_IT_IS) -> Image.Image:
    """An image over a ground of one colour, in strips, as copies of a large one take gigabytes."""
    made = Image.new(mode, image.size)
    height = max(1, _STRIP // image.width)
    for top in range(0, image.height, height):
        strip = conversion.rgba(image.crop((0, top, image.width, min(top + height, image.height))))
        under = Image.new("RGBA", strip.size, ground)
        under.alpha_composite(strip)
        made.paste(under.convert(mode), (0, top))
    return made


def _is_deep_gray(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _rgb(image: Image.Image, said: tuple[Origin | None, str], *, halved: bool) -> Decoded:
    """Return any of Pillow's modes as RGB in sRGB, transparent parts over white.

    Args:
      image: upright.
      said: what `read_origin` found.
      halved: see `_is_halved`.
    """
    origin, note_on_origin = said
    if _is_deep_gray(image):
        shallow, note = _eight_bit(image)
        conversion = conversion_of(image, shallow.mode)
        made, notes = conversion.rgb(shallow), [conversion.note, note]
    else:
        conversion = conversion_of(image)
        if image.has_transparency_data:
            made = _over(image, "white", "RGB", conversion)
        else:
            made = conversion.rgb(image)
        dark = halved and int(np.max(image.getextrema())) <= _DARK
        notes = [conversion.note, _CUT_OFF if dark else ""]
    made.info.pop("icc_profile", None)  # Pillow would write it into what is made of the image
    origin = origin or Origin.whole(made.size)
    return Decoded(made, origin, notes=tuple(filter(None, [*notes, note_on_origin])))


def _is_halved(image: Image.Image) -> bool:
    """Whether an image of 16 bits a colour, not yet loaded, is one of which Pillow reads the upper 8."""
    tiles = () if _is_deep_gray(image) else getattr(image, "tile", ())
    return any(";16" in str(tile.args) for tile in tiles)


def _eight_bit(image: Image.Image) -> tuple[Image.Image, str]:
    """Scale gray values of more than 8 bits to 0..255, as Pillow itself would cut them off at 255.

    Returns:
      the image, and a note if its values have fewer bits than its file.
    """
    values = np.asarray(image, np.float32 if image.mode == "F" else np.int32)
    if not np.isfinite(values).all():
        raise ValueError("gray values that are not finite")
    low, top = min(float(values.min()), 0.0), float(values.max())
    high = next((scale for scale in _scales(values) if top <= scale), top)
    gray = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):  # one by one, as in 64 bits a large image takes gigabytes
        gray[row] = np.rint((line.astype(np.float64) - low) * (255 / (high - low)))
    scaled = image.mode != "F" and top > 0 and high < _FULL
    return Image.fromarray(gray), _SCALED.format(round(np.log2(high + 1))) if scaled else ""


def _scales(values: np.ndarray) -> tuple[float, ...]:
    """The ranges of gray values, of which they fill the first that holds them; beyond the last, their own.

    Cameras and scanners keep 10, 12 or 14 bits in files of 16. What was made of 8 bits by a factor of 257 (or
    256) fills 16, however dark it is. Floats fill [0, 1], [0, 255] or [0, 65535].
    """
    if values.dtype == np.float32:
        return 1.0, 255.0, _FULL
    if any(all(not (line % factor).any() for line in values) for factor in (257, 256)):
        return (_FULL,)
    return tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))
