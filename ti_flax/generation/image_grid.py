"""Images side by side: a plain grid, or rows with a line of text beside each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_BORDER, _GAP, _BETWEEN = 12, 4, 16
# The names of rows and columns, in pixels and signs of the font.
_FONT, _LINE, _NAME, _HEAD = 14, 18, 150, 36
# Images smaller than this are enlarged by a whole number, so that no pixel is invented.
_LEAST_SIDE = 112
# Dark, as images are looked at, on a page that is light or dark.
_PAPER, _INK = (27, 30, 36), (222, 225, 231)


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray]], *, heads: Sequence[tuple[str, int]] = (), above: int = 0
) -> Any:
    """Lays out rows of images beside their names, as one PIL image.

    Args:
      rows: a name and `[images, height, width, 3]` uint8 for each row; all images of one size.
      heads: names of columns, each with how many images it is over; there is room between two columns.
      above: the first of the rows that have these columns.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = shown_size(rows[0][1].shape[1:3])
    columns, counts = max(len(images) for _, images in rows), [count for _, count in heads]
    plain, lefts = _lefts(columns, width), _lefts(columns, width, counts)
    tops = [_top(index, height, above if heads else None) for index in range(len(rows))]
    size = sheet_size(rows[0][1].shape[1:3], len(rows), columns, counts)
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for head, (left, right) in zip(heads, _spans(lefts, width, heads), strict=True):
        line = _fitted(head[0], right - left, 1, draw, font)
        draw.text((left, tops[above] - _LINE - 4), line, _INK, font)
    for index, ((name, images), top) in enumerate(zip(rows, tops, strict=False)):
        text = _fitted(name, _NAME, max(1, height // _LINE), draw, font)
        draw.multiline_text((_BORDER, top), text, _INK, font, spacing=_LINE - _FONT)
        for image, left in zip(images, lefts if index >= above else plain, strict=False):
            enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, top))
    return sheet


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image on a contact sheet."""
    times = math.ceil(_LEAST_SIDE / min(size))
    return size[0] * times, size[1] * times


def sheet_size(size: tuple[int, int], rows: int, columns: int, counts: Sequence[int] = ()) -> tuple[int, int]:
    """Width and height of a contact sheet.

    Args:
      size: height and width of the images that it is made of.
      rows: how many it has.
      columns: images of its longest row.
      counts: how many images each of its heads is over; none without heads.
    """
    height, width = shown_size(size)
    foot = _top(rows, height, 0 if counts else None) - _GAP
    return _lefts(columns, width, counts)[-1] + width + _BORDER, foot + _BORDER


def first_row_places(size: tuple[int, int], columns: int) -> list[tuple[int, int, int, int]]:
    """Where the images of a contact sheet's first row lie, if no heads are over it: left, top, right, bottom.

    Args:
      size: height and width of the images that it was made of.
      columns: how many images the row has.
    """
    height, width = shown_size(size)
    return [(left, _BORDER, left + width, _BORDER + height) for left in _lefts(columns, width)]


def _lefts(columns: int, width: int, counts: Sequence[int] = ()) -> list[int]:
    """The left ends of images in a row, with room after so many of them each."""
    ends = np.cumsum(counts).tolist()
    return [
        2 * _BORDER + _NAME + column * (width + _GAP) + _BETWEEN * sum(end <= column for end in ends[:-1])
        for column in range(columns)
    ]


def _top(index: int, height: int, above: int | None) -> int:
    """The upper end of a row."""
    return _BORDER + index * (height + _GAP) + (_HEAD if above is not None and index >= above else 0)


def _spans(lefts: Sequence[int], width: int, heads: Sequence[tuple[str, int]]) -> list[tuple[int, int]]:
    ends = np.cumsum([count for _, count in heads]).tolist()
    return [(lefts[end - count], lefts[end - 1] + width) for end, (_, count) in zip(ends, heads, strict=True)]


def _fitted(text: str, width: int, lines: int, draw: Any, font: Any) -> str:
    """The text in at most so many lines of a width in pixels, cut if it is longer."""
    found, words = [], text.split()
    while words and len(found) < lines:
        line = ""
        while words and draw.textlength(f"{line} {words[0]}".strip(), font) <= width:
            line = f"{line} {words.pop(0)}".strip()
        if not line:  # a word that is longer than a line
            line = _shortened(words.pop(0), draw, font, width)
        found.append(line)
    if words:
        found[-1] = _shortened(f"{found[-1]} {words[0]} ...", draw, font, width)
    return "\n".join(found)


def _shortened(text: str, draw: Any, font: Any, width: int) -> str:
    """The text, cut so that it fits into a width in pixels."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..."


def image_grid_of(images: np.ndarray, columns: int | None = None) -> Any:
    """Lays `[images, height, width, 3]` uint8 out in rows, as one PIL image."""
    from PIL import Image

    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    lines = math.ceil(count / columns)
    grid = np.full((lines * columns, height, width, channels), 255, np.uint8)
    grid[:count] = images
    grid = grid.reshape(lines, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(lines * height, columns * width, channels))
