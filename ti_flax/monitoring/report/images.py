"""Images inside a page: each as a data link, in the smaller of PNG and JPEG where they are large."""

from __future__ import annotations

import base64
import io
import os
import struct
import warnings
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ti_flax.console.messages import warn
from ti_flax.files.regular import open_regular
from ti_flax.monitoring.report.files import read_inside

# A kind, `png` or `jpeg`, and the bytes of a file of it.
Encoded = tuple[str, bytes]
# Left, top, right and bottom of a part of an image, in pixels.
Box = tuple[int, int, int, int]

# PNG files up to this stay what they are: pixels of small images should not be touched.
_LARGE = 600_000
# The longest side of an image in a page, and that up to which a part of one keeps its pixels.
_LONGEST, _SMALL = 2400, 128
# Bytes and pixels that a file may have: a contact sheet of many prompts at 1024 pixels has a part of it.
_LARGEST_FILE = 2**28
_MOST_PIXELS = 2**27
# The beginning of a PNG file, and the longest side that one may have; those of a run are far below.
_HEADER = struct.Struct(">16sII")
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_LONGEST_SIDE = 2**20


class Images:
    """The images of one page, which holds them itself.

    A page that is made again and again, of the same object, decodes no file a second time.
    """

    # Where the page's images come from, as its security policy says it.
    source = "data:"

    def __init__(self) -> None:
        self._made: dict[object, list[Encoded]] = {}
        self._used: set[object] = set()

    def link(self, encoded: Encoded) -> str:
        """What the page names an image by."""
        kind, content = encoded
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    def whole(self, folder: Path, name: str, text: str) -> str:
        """An `img` of a PNG file, for readers who cannot see it described by a text.

        Args:
          folder: a run's.
          name: of the file, inside of the folder; nothing else goes into a page.
          text: what it shows.

        Returns:
          The element; empty without the file, and, after a warning, where it is no PNG.
        """
        found = self._of_file(folder, name, _shown, ())
        return f'<img src="{self.link(found[0])}" alt="{escape(text)}" loading="lazy">' if found else ""

    def parts(
        self,
        folder: Path,
        name: str,
        boxes_of: Callable[[int, int], Sequence[Box]],
        *,
        side: int,
        key: object = (),
    ) -> list[str]:
        """Links of parts of a PNG file.

        Args:
          folder: a run's.
          name: of the file, inside of the folder.
          boxes_of: from width and height to the parts; none where it is laid out in another way.
          side: the longest that a part may have.
          key: what else the parts depend on.

        Returns:
          A link for each part; none without the file, and, after a warning, where it is no PNG.
        """

        def cut(content: bytes) -> list[Encoded]:
            image = _opened(content).convert("RGB")
            return [_part(image, box, side) for box in boxes_of(image.width, image.height)]

        return [self.link(each) for each in self._of_file(folder, name, cut, (side, key))]

    def forget_unused(self) -> None:
        """Lets go of what was not asked for since the last call."""
        self._made = {key: made for key, made in self._made.items() if key in self._used}
        self._used = set()

    def _of_file(
        self, folder: Path, name: str, make: Callable[[bytes], list[Encoded]], key: object
    ) -> list[Encoded]:
        file = (str(folder), name, changed(folder / name))
        for known in (file, (file, key)):  # the file alone, if it could not be read
            if known in self._made:
                self._used.add(known)
                return self._made[known]
        made = _made_of(folder, name, make)
        known = file if made is None else (file, key)
        self._used.add(known)
        self._made[known] = made or []
        return self._made[known]


def changed(path: Path) -> tuple[int, int] | None:
    """What is another number once a file has changed; None where there is none."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return stat.st_mtime_ns, stat.st_size


def png_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a PNG file by its first bytes; None if it is none.

    Raises:
      OSError: it cannot be read, or is no file.
    """
    with open_regular(path) as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, width, height = _HEADER.unpack(header)
    fits = magic == _PNG and 0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE
    return (width, height) if fits else None


def _made_of(folder: Path, name: str, make: Callable[[bytes], list[Encoded]]) -> list[Encoded] | None:
    """What is made of a file; None, after a warning unless it is not there, of one that cannot be read."""
    content = read_inside(folder, name, _LARGEST_FILE)
    if content is None:
        return None
    try:
        return make(content)
    except Exception as error:  # Pillow's plugins raise whatever their parser stumbled upon
        warn(f"{folder / name} is left out of the page: it is no PNG that can be read ({_named(error)})")
        return None


def _opened(content: bytes) -> Any:
    """The image, decoded once as a whole."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels")
            opened.load()
            return opened


def _shown(content: bytes) -> list[Encoded]:
    """The kind and the bytes that go into the page for a whole file."""
    from PIL import Image

    image = _opened(content)
    if len(content) <= _LARGE:
        return [("png", content)]
    image = image.convert("RGB")
    image.thumbnail((_LONGEST, 4 * _LONGEST), Image.Resampling.LANCZOS)
    return [_as_jpeg(image)]


def _part(image: Any, box: Box, side: int) -> Encoded:
    from PIL import Image

    cut = image.crop(box)
    if max(cut.size) <= min(side, _SMALL):
        made = io.BytesIO()
        cut.save(made, format="PNG")
        return "png", made.getvalue()
    cut.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _as_jpeg(cut)


def _as_jpeg(image: Any) -> Encoded:
    made = io.BytesIO()
    image.save(made, format="JPEG", quality=88)
    return "jpeg", made.getvalue()


def _named(error: BaseException) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # which names an object in memory
        return "another format"
    return str(error) or type(error).__name__
