"""Images side by side with a line of text over each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_BORDER, _LABEL, _GAP = 8, 22, 4
# Images smaller than this are enlarged by a whole number, so that no pixel is invented.
_LEAST_SIDE = 112


def contact_sheet(rows: Sequence[tuple[str, np.ndarray]]) -> Any:
    """Lays out rows of images under their labels, as one PIL image.

    Args:
      rows: a label and `[images, height, width, 3]` uint8 for each row; all images of one size.
    """
    from PIL import Image, ImageDraw, ImageFont

    _, height, width, _ = rows[0][1].shape
    times = math.ceil(_LEAST_SIDE / min(height, width))
    height, width = height * times, width * times
    columns = max(len(images) for _, images in rows)
    line = _LABEL + height + _BORDER
    size = (2 * _BORDER + columns * (width + _GAP) - _GAP, _BORDER + len(rows) * line)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, (label, images) in enumerate(rows):
        top = _BORDER + index * line
        draw.text((_BORDER, top), _shortened(label, draw, font, size[0] - 2 * _BORDER), "black", font)
        for column, image in enumerate(images):
            enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (_BORDER + column * (width + _GAP), top + _LABEL))
    return sheet


def _shortened(label: str, draw: Any, font: Any, width: int) -> str:
    """The label, cut so that it fits into a width in pixels."""
    label = " ".join(label.split())
    if draw.textlength(label, font) <= width:
        return label
    while label and draw.textlength(f"{label}...", font) > width:
        label = label[:-1]
    return f"{label}..."


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
