"""Pictures behind http(s) links: downloaded once, within limits, and kept."""

import hashlib
import http.client
import io
import logging
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ti_flax import __version__
from ti_flax.cache import default_cache_dir, is_private, why_not_default
from ti_flax.errors import DataError
from ti_flax.sources.formats import (
    OTHER_FORMATS,
    SIGNED_FORMATS,
    available,
    is_named_as_picture,
    strict_about_size,
)
from ti_flax.whole_files import written_whole

_PORTION = 2**16
_REMEDY = "Download it by hand, or take the link out."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a link may cost.

    Attributes:
      content_bytes: of a picture.
      silence: seconds to wait for a connection, and for any next part of an answer.
      whole: seconds that a picture may take altogether.
      redirects: that are followed.
    """

    content_bytes: int = 64 * 2**20
    silence: float = 30.0
    whole: float = 300.0
    redirects: int = 5


LIMITS = Limits()


def is_link(text: str) -> bool:
    """Tell a link, of any scheme, from a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def link_name(link: str) -> str:
    """Return the last part of a link's path, as a file name."""
    parts = urllib.parse.urlsplit(link)
    last = urllib.parse.unquote(parts.path.rstrip("/").rpartition("/")[2])
    return last or parts.netloc.rpartition("@")[2]


def kept_file(link: str) -> Path:
    """Return the file in which the picture of a link is kept."""
    return default_cache_dir() / "links" / hashlib.sha256(link.encode()).hexdigest()


def fetch_picture(link: str, *, where: str, limits: Limits = LIMITS) -> str | bytes:
    """Return the picture behind a link: the file it is kept in, or its bytes where it cannot be kept.

    Args:
      link: http or https.
      where: the link with its place, for errors.
      limits: on size, time and redirects.

    Raises:
      DataError: another scheme, no answer, a limit, or something that is no picture.
    """
    _require_scheme(link, where)
    path = kept_file(link)
    distrust = why_not_default("links")
    if not distrust and is_private(path):
        return str(path)
    content, media_type = _downloaded(link, where, limits)
    _require_picture(content, media_type, link, where)
    if distrust:
        _log.warning("Linked pictures are not kept: %s.", distrust)
        return content
    try:
        with written_whole(path) as file:
            file.write(content)
    except OSError as error:
        _log.warning("Linked pictures are not kept: %s.", error)
        return content
    return str(path)


def _require_scheme(link: str, where: str) -> None:
    parts = urllib.parse.urlsplit(link)
    if parts.scheme.lower() not in ("http", "https"):
        remedy = "A file is named by its path, a dataset of the Hub by owner/name."
        raise DataError(where, expected="a link with http or https", found=parts.scheme, remedy=remedy)
    if not parts.hostname:
        raise DataError(where, expected="a link with a host", found="none", remedy="Check the link.")
    if "@" in parts.netloc:
        shown = where.replace(parts.netloc, parts.netloc.rpartition("@")[2])
        raise DataError(
            shown, expected="a link without user name and password", found="them in it", remedy=_REMEDY
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, a few of them."""

    # The library's own limits, which are not to be met before the one that is given.
    max_repeats = max_redirections = 1000

    def __init__(self, where: str, limit: int):
        self.where, self.limit, self.followed = where, limit, 0

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        self.followed += 1
        if self.followed > self.limit:
            fp.close()
            found = f"more, the last to {newurl}"
            raise DataError(
                self.where, expected=f"at most {self.limit} redirects", found=found, remedy=_REMEDY
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(where: str, limits: Limits) -> urllib.request.OpenerDirector:
    """Return what opens http and https, and no file or other scheme."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(where, limits.redirects),
    ):
        opener.add_handler(handler)
    return opener


def _downloaded(link: str, where: str, limits: Limits) -> tuple[bytes, str]:
    """Return what a link leads to, and the media type that its header says."""
    agent = {"User-Agent": f"ti_flax/{__version__}", "Accept": "image/*, */*;q=0.5"}
    try:
        request = urllib.request.Request(_ascii(link), headers=agent)
        with _opener(where, limits).open(request, timeout=limits.silence) as answer:
            return _content(answer, where, limits), answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        with error:
            found = f"HTTP status {error.code} ({error.reason})"
        raise DataError(where, expected="a picture", found=found, remedy=_REMEDY) from None
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            found = f"silence for {limits.silence:g} s"
        else:
            found = f"no connection ({reason})"
        remedy = f"Check the network and the link. {_REMEDY}"
        raise DataError(where, expected="a picture", found=found, remedy=remedy) from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        found = f"no proper answer ({type(error).__name__}: {error})"
        raise DataError(where, expected="a picture", found=found, remedy=_REMEDY) from None


def _content(answer: http.client.HTTPResponse, where: str, limits: Limits) -> bytes:
    """Read an answer in portions, so that size and time are watched."""
    announced = answer.headers.get("Content-Length", "")
    size = int(announced) if announced.isascii() and announced.isdigit() else None
    received = io.BytesIO()
    ends = time.monotonic() + limits.whole
    while (size or 0) <= limits.content_bytes and received.tell() <= limits.content_bytes:
        portion = answer.read1(_PORTION)
        if not portion:
            if size is not None and received.tell() < size:
                found = f"only {received.tell()} of its {size} bytes"
                raise DataError(where, expected="a whole picture", found=found, remedy=_REMEDY)
            return received.getvalue()
        received.write(portion)
        if time.monotonic() > ends:
            found = f"{received.tell()} bytes by then"
            raise DataError(
                where, expected=f"a picture within {limits.whole:g} s", found=found, remedy=_REMEDY
            )
    raise DataError(
        where,
        expected=f"a picture of at most {_amount(limits.content_bytes)}",
        found=_amount(size) if size else "more",
        remedy="Scale it down.",
    )


def _ascii(link: str) -> str:
    """Return a link with spaces and letters such as é in the form that travels."""
    parts = urllib.parse.urlsplit(link)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    quoted = [urllib.parse.quote(part, safe="%/:=&?~+!$,;'@()*[]|") for part in (parts.path, parts.query)]
    return urllib.parse.urlunsplit((parts.scheme, host, *quoted, ""))


def _require_picture(content: bytes, media_type: str, link: str, where: str) -> None:
    """Refuse what is no picture, whatever its header says, before it is kept."""
    named = is_named_as_picture(Path(link_name(link)))
    formats = available(SIGNED_FORMATS + OTHER_FORMATS if named else SIGNED_FORMATS)
    try:
        with strict_about_size(), Image.open(io.BytesIO(content), formats=formats) as image:
            image.load()
            return
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return  # a picture that is refused where all are decoded
    except Exception:  # Pillow's plugins raise whatever their parser stumbled upon
        found = f"{_kind(content, media_type)} ({media_type}, {_amount(len(content))})"
    remedy = "Give the link of the picture itself, not of the page that shows it."
    raise DataError(where, expected="a picture", found=found, remedy=remedy)


def _kind(content: bytes, media_type: str) -> str:
    start = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not content:
        return "nothing"
    if media_type in ("text/html", "application/xhtml+xml") or start.startswith(
        (b"<!doctype html", b"<html")
    ):
        title = re.search(rb"<title[^>]*>(.*?)</title>", content[:_PORTION], re.IGNORECASE | re.DOTALL)
        text = " ".join(title[1].decode(errors="replace").split())[:60] if title else ""
        return f'the HTML page "{text}"' if text else "an HTML page"
    return "something that cannot be decoded as one"


def _amount(size: int) -> str:
    if size < 2**10:
        return f"{size} bytes"
    return f"{size / 2**10:.0f} KiB" if size < 2**20 else f"{size / 2**20:.3g} MiB"
