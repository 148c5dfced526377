"""Training pictures: files of any common kind -> square RGB arrays."""

import dataclasses
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ti_flax.errors import ConfigError, DataError
from ti_flax.sources.duplicates import duplicate_notes
from ti_flax.sources.find import Found, find_pictures
from ti_flax.sources.formats import (
    OTHER_FORMATS,
    SIGNED_FORMATS,
    UNREADABLE_SUFFIXES,
    available,
    cause,
    strict_about_size,
)
from ti_flax.sources.table_options import ALL_AS_FOUND, TableOptions

# The names diffusers gives to Pillow's filters; its "linear" and "bilinear" are one filter.
_FILTERS = {
    "linear": Image.Resampling.BILINEAR,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages:
    """Square pictures in the order of their sources and, in a folder, of their names.

    Attributes:
      pixels: `[images, resolution, resolution, 3]` uint8 RGB.
      names: such as the file's, one for each picture.
      passed_over: names of files in the folders that are no picture.
      captions: from a dataset's column or a metadata file, None for a picture that has none.
      weights: how often an epoch shows each picture.
      paths: full path of each picture's file; None for links and rows of datasets.
      notes: what the user should know of them, in lines.
    """

    pixels: np.ndarray
    names: tuple[str, ...]
    passed_over: tuple[str, ...] = ()
    captions: tuple[str | None, ...] = ()
    weights: tuple[int, ...] = ()
    paths: tuple[str | None, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for name, value in (("captions", None), ("weights", 1), ("paths", None)):
            if not getattr(self, name):  # left out: the same for all
                object.__setattr__(self, name, (value,) * len(self.names))

    def content_hash(self) -> str:
        """Return the SHA-256, in hexadecimal, of shape and pixels: equal for equal training pictures."""
        return pixels_hash(self.pixels)


def pixels_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the shape and values of a uint8 array."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def load_images(
    train_data_dir: str | Path | Sequence[str | Path],
    *,
    resolution: int,
    center_crop: bool = False,
    interpolation: str = "bicubic",
    repeats: Sequence[int] = (1,),
    table: TableOptions = ALL_AS_FOUND,
) -> TrainingImages:
    """Read pictures from one or several sources, as squares.

    Orientation from EXIF is applied; transparent parts become white; of an animation the first frame counts.

    Args:
      train_data_dir: of each source: a folder, with its sub-folders; a picture; a text file that lists paths
        or links; an http(s) link; a dataset on disk; or, where there is no such folder, a Hub dataset id
        `owner/name`.
      resolution: side of the squares in pixels.
      center_crop: cut out the central square; otherwise the whole picture is squeezed into a square.
      interpolation: "linear", "bilinear" (the same), "bicubic", "lanczos" or "nearest".
      repeats: how often an epoch shows each picture: of all sources, or one number for each.
      table: columns, configuration and split of datasets and metadata files.

    Raises:
      ConfigError: the interpolation is unknown, or an option of `table` has nothing it could apply to.
      DataError: no such source, no pictures, or a picture that cannot be had or decoded.
    """
    if interpolation not in _FILTERS:
        raise ConfigError("interpolation", expected=", ".join(_FILTERS), found=repr(interpolation))
    sources = [train_data_dir] if isinstance(train_data_dir, str | Path) else list(train_data_dir)
    found = [find_pictures(str(source), table) for source in sources]
    _refuse_unused(table, found)
    pictures = [picture for each in found for picture in each.pictures]
    pixels = np.empty((len(pictures), resolution, resolution, 3), np.uint8)
    for index, picture in enumerate(pictures):
        decoded = decode_picture(picture.read(), picture.where)
        pixels[index] = _square(decoded, resolution, center_crop, _FILTERS[interpolation])
    names = [picture.name for picture in pictures]
    counts = list(repeats) * len(found) if len(repeats) == 1 else repeats
    return TrainingImages(
        pixels,
        tuple(names),
        passed_over=tuple(name for each in found for name in each.passed_over),
        captions=tuple(picture.caption for picture in pictures),
        weights=tuple(count for count, each in zip(counts, found, strict=True) for _ in each.pictures),
        paths=tuple(picture.path for picture in pictures),
        notes=(*(note for each in found for note in each.notes), *duplicate_notes(pixels, names)),
    )


def _refuse_unused(table: TableOptions, found: Iterable[Found]) -> None:
    used = {name for each in found for name in each.used}
    for name in table.given():
        if name not in used:
            kind = "dataset or metadata file" if name.endswith("column") else "dataset"
            expected = f"a {kind} in train_data_dir"
            raise ConfigError(name, expected=expected, found="none", remedy=f"Leave {name} out.")


def decode_picture(content: str | bytes, where: str) -> Image.Image:
    """Return the upright RGB picture of a file, given by path or by content.

    Raises:
      DataError: it cannot be decoded, or is too large.
    """
    opened = io.BytesIO(content) if isinstance(content, bytes) else content
    if Path(where).suffix.lower() in UNREADABLE_SUFFIXES:
        raise DataError(where, found="a format that is not read", remedy="Save it as PNG or JPEG.")
    try:
        formats = available(SIGNED_FORMATS + OTHER_FORMATS)
        with strict_about_size(), Image.open(opened, formats=formats) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"at most {Image.MAX_IMAGE_PIXELS} pixels"
        raise DataError(where, expected=limit, found="a larger picture", remedy="Scale it down.") from error
    except Exception as error:  # Pillow's plugins raise whatever their parser stumbled upon
        raise DataError(
            where,
            found=f"a picture that cannot be decoded ({cause(error)})",
            remedy="Replace it or take it out of the folder.",
        ) from error


def _rgb(image: Image.Image) -> Image.Image:
    """Return any of Pillow's modes as RGB, transparent parts over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert("RGB")
    if image.has_transparency_data:
        over_white = Image.new("RGBA", image.size, "white")
        over_white.alpha_composite(image.convert("RGBA"))
        return over_white.convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale gray values of more than 8 bits to 0..255; Pillow itself would cut them off at 255.

    Integers fill 16 bits. Floats fill the first of [0, 1], [0, 255] and [0, 65535] that holds them. Values
    outside fill their own range.
    """
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("gray values that are not finite")
    scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    low = min(values.min(), 0.0)
    high = next((scale for scale in scales if values.max() <= scale), values.max())
    return Image.fromarray(np.rint((values - low) * (255 / (high - low))).astype(np.uint8))


def _square(image: Image.Image, resolution: int, center_crop: bool, resample: Image.Resampling) -> np.ndarray:
    """Crop if asked to, then resize: `[resolution, resolution, 3]` uint8, the values of diffusers' script."""
    pixels = np.asarray(image)
    if center_crop:
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    return np.asarray(Image.fromarray(pixels).resize((resolution, resolution), resample))
