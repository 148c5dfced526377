"""Where a prepared image comes from: how large the original was, and which part of it the file shows.

`ti-flax prepare` writes it into each file, as text in the EXIF field ImageHistory, such as

    ti_flax prepare: of 4000x3000 took 500,0,3500,3000 as 512x512

These are the upright original's width and height, left, top, right and bottom of the part that was cut out,
in the original's pixels, and the width and height that the part was resized to. For a mirror image the
original is mirrored too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import ExifTags, Image

from ti_flax.data.images.focal_crop import Box

_PROGRAM = "ti_flax prepare"
_NUMBER = r"(\d{1,7}(?:\.\d{1,4})?)"
_HISTORY = re.compile(
    rf"{_PROGRAM}: of (\d{{1,7}})x(\d{{1,7}}) took {','.join([_NUMBER] * 4)} as (\d{{1,5}})x(\d{{1,5}})"
)
# Decimals of a pixel that are written, and what they may be off by.
_DECIMALS, _OFF = 4, 1e-3
# What a part's proportions may differ from the file's, as parts are cut to them.
_UNEVEN = 0.01
UNUSABLE = "what it says of the image it was cut from cannot be used, so SDXL is told the file's own size"


@dataclass(frozen=True)
class Origin:
    """An image and the part of it that a file shows.

    Attributes:
      size: width and height of the whole upright image, in pixels.
      box: the part, in the whole image's pixels.
    """

    size: tuple[int, int]
    box: Box

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Origin:
        """That of a file which was cut from nothing."""
        return cls(size, Box(0, 0, *size))

    def part(self, box: Box, size: tuple[int, int]) -> Box:
        """The part of the whole image that a box of the file shows.

        Args:
          box: in the file's pixels.
          size: width and height of the file.
        """
        across = (self.box.right - self.box.left) / size[0]
        down = (self.box.bottom - self.box.top) / size[1]
        return Box(
            self.box.left + box.left * across,
            self.box.top + box.top * down,
            self.box.left + box.right * across,
            self.box.top + box.bottom * down,
        )

    def mirrored(self) -> Origin:
        """That of the mirror image."""
        width, box = self.size[0], self.box
        return Origin(self.size, Box(width - box.right, box.top, width - box.left, box.bottom))


def exif_of(origin: Origin, size: tuple[int, int]) -> Image.Exif:
    """What a file of this width and height says of where it comes from."""
    edges = ",".join(f"{round(edge, _DECIMALS):.11g}" for edge in origin.box.edges)
    exif = Image.Exif()
    exif[ExifTags.Base.ImageHistory] = (
        f"{_PROGRAM}: of {origin.size[0]}x{origin.size[1]} took {edges} as {size[0]}x{size[1]}"
    )
    return exif


def read_origin(image: Image.Image) -> tuple[Origin | None, str]:
    """What an opened file says of where it comes from, and a note if that cannot be used.

    It cannot if it is damaged or impossible, or if the file has been cut, resized or turned since.
    """
    exif = image.getexif()
    history = exif.get(ExifTags.Base.ImageHistory)
    if not isinstance(history, str) or not history.startswith(_PROGRAM):
        return None, ""
    found = _parsed(history.rstrip("\0 "), image.size)
    if found is None or exif.get(ExifTags.Base.Orientation, 1) != 1:
        return None, UNUSABLE
    return found, ""


def _parsed(history: str, size: tuple[int, int]) -> Origin | None:
    """The origin of a file of this width and height; None if the text does not fit."""
    match = _HISTORY.fullmatch(history)
    if match is None:
        return None
    width, height = int(match[1]), int(match[2])
    left, top, right, bottom = map(float, match.groups()[2:6])
    wide, high = right - left, bottom - top
    possible = (
        width * height <= (Image.MAX_IMAGE_PIXELS or 0)  # larger ones are not read
        and high > 0  # and then wide is too, by the proportions
        and right <= width + _OFF
        and bottom <= height + _OFF
        and abs(wide * size[1] - high * size[0]) <= _UNEVEN * wide * size[1]
    )
    if not possible or (int(match[7]), int(match[8])) != size:
        return None
    return Origin((width, height), Box(left, top, min(right, width), min(bottom, height)))
