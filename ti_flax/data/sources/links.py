"""Images behind http(s) links: downloaded once, within limits, and kept.

What a server says is not repeated in messages: a link in somebody else's list may lead to a page of the
user's own network, and messages end up in logs.
"""

import hashlib
import io
import logging
import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ti_flax.data.sources.downloads import Answer, Limits, amount, download, require_scheme
from ti_flax.data.sources.formats import (
    OTHER_FORMATS,
    SIGNED_FORMATS,
    available,
    is_named_as_image,
    strict_about_size,
)
from ti_flax.data.sources.optional_formats import require_reader
from ti_flax.errors import DataError
from ti_flax.files.atomic import atomic_write
from ti_flax.files.cache import default_cache_dir, is_private, why_not_default

_log = logging.getLogger(__name__)

LIMITS = Limits()

# `fetch_image` with the rules and the sums of a run: what it takes is a link and `where`.
Fetch = Callable[..., str | bytes]


@dataclass
class Spent:
    """What the links of a run have cost so far: how many were downloaded, their bytes and seconds."""

    links: int = 0
    content_bytes: int = 0
    seconds: float = 0.0

    def add(self, content_bytes: int, seconds: float) -> None:
        """Count one more link."""
        self.links += 1
        self.content_bytes += content_bytes
        self.seconds += seconds


def is_link(text: str) -> bool:
    """Tell a link, of any scheme, from a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def link_name(link: str) -> str:
    """Return the last part of a link's path, as a file name."""
    try:
        parts = urllib.parse.urlsplit(link)
    except ValueError:  # brackets that are no address
        return link
    last = urllib.parse.unquote(parts.path.rstrip("/").rpartition("/")[2])
    return last or parts.netloc.rpartition("@")[2]


def kept_file(link: str) -> Path:
    """Return the file in which the image of a link is kept."""
    return default_cache_dir() / "links" / hashlib.sha256(link.encode()).hexdigest()


def fetch_image(
    link: str,
    *,
    where: str,
    limits: Limits = LIMITS,
    allow_private_links: bool = False,
    spent: Spent | None = None,
) -> str | bytes:
    """Return the image behind a link: the file it is kept in, or its bytes where it cannot be kept.

    Args:
      link: http or https.
      where: the link with its place, for errors.
      limits: on size, time and redirects.
      allow_private_links: whether it may lead to this machine and its network.
      spent: what other links of the run have cost, which this one is added to.

    Raises:
      DataError: another scheme, no answer, an address that is not public, a limit, or no image.
    """
    require_scheme(link, where)
    path = kept_file(link)
    distrust = why_not_default("links")
    if not distrust and is_private(path):
        return str(path)
    spent = Spent() if spent is None else spent
    _require_budget(limits, spent, where)
    began = time.monotonic()
    answer = download(link, where, limits, only_public=not allow_private_links)
    spent.add(len(answer.content), time.monotonic() - began)
    _require_image(answer, link, where)
    if distrust:
        _log.warning("Linked images are not kept: %s.", distrust)
        return answer.content
    try:
        with atomic_write(path) as file:
            file.write(answer.content)
    except OSError as error:
        _log.warning("Linked images are not kept: %s.", error)
        return answer.content
    return str(path)


def _require_budget(limits: Limits, spent: Spent, where: str) -> None:
    for most, exceeded in (
        (f"{limits.all_links} links", spent.links >= limits.all_links),
        (amount(limits.all_bytes), spent.content_bytes >= limits.all_bytes),
        (f"{limits.all_seconds:g} s", spent.seconds >= limits.all_seconds),
    ):
        if exceeded:
            raise DataError(
                where,
                expected=f"at most {most} for all links together",
                found="more",
                remedy="Start again, as downloaded ones are kept, or download the rest by hand.",
            )


def _require_image(answer: Answer, link: str, where: str) -> None:
    """Refuse what is no image, whatever its header says, before it is kept."""
    content = answer.content
    require_reader(content, where)
    named = is_named_as_image(Path(link_name(link)))
    formats = available(SIGNED_FORMATS + OTHER_FORMATS if named else SIGNED_FORMATS)
    try:
        with strict_about_size(), Image.open(io.BytesIO(content), formats=formats) as image:
            image.load()
            return
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return  # an image that is refused where all are decoded
    except Exception:  # Pillow's plugins raise whatever their parser stumbled upon
        found = f"{_kind(content, answer.media_type)} ({answer.media_type}, {amount(len(content))})"
    remedy = "Give the link of the image itself, not of the page that shows it."
    raise DataError(where, expected="an image", found=found, remedy=remedy)


def _kind(content: bytes, media_type: str) -> str:
    start = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not content:
        return "nothing"
    if media_type in ("text/html", "application/xhtml+xml") or start.startswith(
        (b"<!doctype html", b"<html")
    ):
        return "an HTML page"
    return "something that cannot be decoded as one"
