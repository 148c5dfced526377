"""The image that an embedding travels in: a given one, or a plain card, with its name written on it."""

from __future__ import annotations

import math
from typing import Any

_SIDE = 512
# Text on smaller images cannot be read; they are enlarged by a whole number, so that no pixel is invented.
_LEAST_SIDE = 256
_PAPER, _INK, _EDGE = (244, 240, 232), (38, 36, 33), (176, 92, 62)


def captioned(image: Any, title: str, footer: str) -> Any:
    """Writes a title and a footer on dark bands of a copy of an image.

    Args:
      image: a PIL image.
      title: at the top.
      footer: at the bottom.

    Returns:
      A PIL image, RGB.
    """
    from PIL import Image, ImageDraw

    shown = image.convert("RGB")
    times = math.ceil(_LEAST_SIDE / min(shown.size))
    if times > 1:
        shown = shown.resize((shown.width * times, shown.height * times), Image.Resampling.NEAREST)
    band = max(28, shown.height // 14)
    bands = Image.new("L", shown.size, 0)
    draw = ImageDraw.Draw(bands)
    draw.rectangle((0, 0, shown.width, band), fill=150)
    draw.rectangle((0, shown.height - band, shown.width, shown.height), fill=150)
    shown = Image.composite(Image.new("RGB", shown.size, "black"), shown, bands)
    draw = ImageDraw.Draw(shown)
    for text, middle in ((title, band / 2), (footer, shown.height - band / 2)):
        font = _font(draw, text, shown.width - band, band * 0.62)
        draw.text((band / 2, middle), text, "white", font, anchor="lm")
    return shown


def plain_card(title: str, footer: str) -> Any:
    """Draws a card with a title and a footer, a PIL image."""
    from PIL import Image, ImageDraw

    card = Image.new("RGB", (_SIDE, _SIDE), _PAPER)
    draw = ImageDraw.Draw(card)
    draw.rectangle((24, 24, _SIDE - 25, _SIDE - 25), outline=_EDGE, width=3)
    draw.line((96, 300, _SIDE - 96, 300), fill=_EDGE, width=2)
    for text, height, size in ((title, 250, 64), (footer, 336, 24)):
        font = _font(draw, text, _SIDE - 96, size)
        draw.text((_SIDE / 2, height), text, _INK, font, anchor="mm")
    return card


def _font(draw: Any, text: str, width: float, size: float) -> Any:
    """The largest font up to a size in which a text fits into a width in pixels."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    while size > 8 and draw.textlength(text, font) > width:
        size *= 0.9
        font = ImageFont.load_default(size)
    return font
