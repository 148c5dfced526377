"""Images inside a page: each as a data link, in the smaller of PNG and JPEG where they are large."""

from __future__ import annotations

import base64
import io
import warnings
from html import escape
from pathlib import Path

from ti_flax.console.messages import warn
from ti_flax.monitoring.report.files import read_inside

# PNG files up to this stay what they are: pixels of small images should not be touched.
_LARGE = 600_000
# The longest side of an image in a page.
_LONGEST = 2400
# Bytes and pixels that a file may have: a contact sheet of many prompts at 1024 pixels has a part of it.
_LARGEST_FILE = 2**28
_MOST_PIXELS = 2**27


def image(folder: Path, name: str, text: str) -> str:
    """An `img` of a PNG file, for readers who cannot see it described by a text.

    Args:
      folder: a run's.
      name: of the file, inside of the folder; nothing else goes into a page.
      text: what it shows.

    Returns:
      The element; empty without the file, and, after a warning, where it is no PNG.
    """
    content = read_inside(folder, name, _LARGEST_FILE)
    if content is None:
        return ""
    try:
        kind, content = _shown(content)
    except Exception as error:  # Pillow's plugins raise whatever their parser stumbled upon
        warn(f"{folder / name} is left out of the page: it is no PNG that can be read ({_named(error)})")
        return ""
    link = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<img src="{link}" alt="{escape(text)}" loading="lazy">'


def _shown(content: bytes) -> tuple[str, bytes]:
    """The kind and the bytes that go into the page, after the whole image has been decoded once."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels")
            opened.load()
            if len(content) <= _LARGE:
                return "png", content
            image = opened.convert("RGB")
    image.thumbnail((_LONGEST, 4 * _LONGEST), Image.Resampling.LANCZOS)
    made = io.BytesIO()
    image.save(made, format="JPEG", quality=88)
    return "jpeg", made.getvalue()


def _named(error: BaseException) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # which names an object in memory
        return "another format"
    return str(error) or type(error).__name__
