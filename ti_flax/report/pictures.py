"""Pictures inside a page: each as a data link, in the smaller of PNG and JPEG where they are large."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

# PNG files up to this stay what they are: pixels of small pictures should not be touched.
_LARGE = 600_000
# The longest side of a picture in a page.
_LONGEST = 2400


def picture(path: Path, text: str) -> str:
    """An `img` of a PNG file, for readers who cannot see it described by a text; empty without the file."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    kind = "png"
    if len(content) > _LARGE:
        content, kind = _smaller(content), "jpeg"
    link = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img src="{link}" alt="{escape(text)}" loading="lazy">'


def _smaller(content: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_LONGEST, 4 * _LONGEST), Image.Resampling.LANCZOS)
    made = io.BytesIO()
    image.save(made, format="JPEG", quality=88)
    return made.getvalue()
