"""Downloads over http and https, within limits on size, time, redirects and addresses."""

import contextlib
import io
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx2

from ti_flax.console.versions import __version__
from ti_flax.data.sources.addresses import CheckedConnections, NotPublicError, addresses_of, require_public
from ti_flax.errors import DataError

_REMEDY = "Download it by hand, or take the link out."
_PRIVATE_REMEDY = f"{_REMEDY} If you trust it, set allow_private_links."
_HEADERS = {
    "User-Agent": f"ti_flax/{__version__}",
    "Accept": "image/*, */*;q=0.5",
    "Accept-Encoding": "identity",  # images are packed already, and what unfolds may do so without end
}
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,40}/[a-z0-9][a-z0-9!#$&^_.+-]{0,40}", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """What links may cost: each, and after the first ones those that follow.

    Attributes:
      content_bytes: of an image.
      silence: seconds to wait for a connection, and for any next part of an answer.
      whole: seconds that an image may take altogether, redirects included.
      redirects: that are followed.
      all_links: downloaded for one set of images.
      all_bytes: of them together, from which on no more are downloaded.
      all_seconds: the same.
    """

    content_bytes: int = 64 * 2**20
    silence: float = 30.0
    whole: float = 300.0
    redirects: int = 5
    all_links: int = 10_000
    all_bytes: int = 4 * 2**30
    all_seconds: float = 3600.0


@dataclass(frozen=True)
class Answer:
    """What a link leads to, and the media type that its server gives it."""

    content: bytes
    media_type: str


@dataclass
class _Exchange:
    """One download: its rules, and how far it has come."""

    where: str
    limits: Limits
    only_public: bool
    until: float
    received: io.BytesIO = field(default_factory=io.BytesIO)
    announced: int | None = None


def download(link: str, where: str, limits: Limits, *, only_public: bool) -> Answer:
    """Download what a link leads to.

    With a proxy in the environment, it is the proxy that looks hosts up and connects to them. Then a host
    that is not public is refused as far as this machine knows it; what the proxy makes of a name is not seen.

    Args:
      link: http or https.
      where: the link with its place, for errors.
      limits: on size, time and redirects.
      only_public: refuse addresses of this machine and its network.

    Raises:
      DataError: no answer, a status other than success, an address that is not public, or a limit.
    """
    exchange = _Exchange(where, limits, only_public, time.monotonic() + limits.whole)
    with _told(exchange):
        url = httpx2.URL(link)
        for _ in range(limits.redirects + 1):
            with _client(url, exchange) as client, client.stream("GET", url) as answer:
                if not answer.has_redirect_location:
                    return Answer(_content(answer, exchange), _media_type(answer))
                url = answer.url.join(answer.headers["location"])
            require_scheme(str(url), where, redirected=True)
    expected = f"at most {limits.redirects} redirects"
    raise DataError(where, expected=expected, found="more", remedy=_REMEDY)


def require_scheme(link: str, where: str, *, redirected: bool = False) -> None:
    """Refuse links that are not http or https, have no host, or hold a password.

    Raises:
      DataError: which does not show the password, nor what a server redirects to.
    """
    try:
        parts = urllib.parse.urlsplit(link)
        host, scheme = parts.hostname, parts.scheme
    except ValueError:  # brackets that are no address
        raise DataError(
            where, expected="a link with a host", found="none", remedy="Check the link."
        ) from None
    if scheme.lower() not in ("http", "https"):
        remedy = "A file is named by its path, a dataset of the Hub by owner/name."
        found = "a redirect to another kind of link" if redirected else scheme
        raise DataError(where, expected="a link with http or https", found=found, remedy=remedy)
    if not host:
        raise DataError(where, expected="a link with a host", found="none", remedy="Check the link.")
    if "@" in parts.netloc:
        shown = where.replace(parts.netloc, parts.netloc.rpartition("@")[2])
        found = "a redirect to one with them" if redirected else "them in it"
        raise DataError(shown, expected="a link without user name and password", found=found, remedy=_REMEDY)


def amount(size: int) -> str:
    """Write a number of bytes for people."""
    if size < 2**10:
        return f"{size} bytes"
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB"
    return f"{size / 2**20:.3g} MiB" if size < 2**30 else f"{size / 2**30:.3g} GiB"


def _client(url: httpx2.URL, exchange: _Exchange) -> httpx2.Client:
    """Return a client for one request, which neither follows redirects nor reads the user's `.netrc`."""
    proxy = _proxy_of(url)
    if proxy is not None and exchange.only_public:
        with contextlib.suppress(OSError):  # a name that only the proxy knows
            require_public(addresses_of(url.host, url.port or 443))
    transport = httpx2.HTTPTransport(proxy=proxy)
    # The library has no argument for what its pool connects with, though the pool itself does.
    transport._pool._network_backend = CheckedConnections(
        until=exchange.until,
        only_public=exchange.only_public,
        proxy=None if proxy is None else proxy.url.host,
    )
    return httpx2.Client(
        transport=transport,
        headers=_HEADERS,
        timeout=exchange.limits.silence,
        follow_redirects=False,
        trust_env=False,
    )


def _proxy_of(url: httpx2.URL) -> httpx2.Proxy | None:
    """Return the proxy that the environment names for a host."""
    proxy = urllib.request.getproxies().get(url.scheme)
    if not proxy or urllib.request.proxy_bypass(url.host):
        return None
    return httpx2.Proxy(proxy if "://" in proxy else f"http://{proxy}")


def _content(answer: httpx2.Response, exchange: _Exchange) -> bytes:
    """Read an answer in portions, so that its size is watched."""
    where, most = exchange.where, exchange.limits.content_bytes
    if not answer.is_success:
        found = f"HTTP status {answer.status_code}"
        raise DataError(where, expected="an image", found=found, remedy=_REMEDY)
    if answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise DataError(
            where, expected="an image as it is", found="one that the server has packed", remedy=_REMEDY
        )
    announced = answer.headers.get("Content-Length", "")
    size = int(announced) if re.fullmatch(r"[0-9]{1,18}", announced, re.ASCII) else None
    exchange.announced = size
    if (size or 0) <= most:
        for portion in answer.iter_raw():
            exchange.received.write(portion)
            if exchange.received.tell() > most:
                break
        else:
            return exchange.received.getvalue()
    raise DataError(
        where,
        expected=f"an image of at most {amount(most)}",
        found=amount(size) if size else "more",
        remedy="Scale it down.",
    )


def _media_type(answer: httpx2.Response) -> str:
    """Return what a header says, if it is a media type at all."""
    said = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return said if _MEDIA_TYPE.fullmatch(said) else "no media type"


@contextlib.contextmanager
def _told(exchange: _Exchange) -> Iterator[None]:
    """Turn what goes wrong in a download into an error that repeats nothing of the answer."""
    where, limits, received = exchange.where, exchange.limits, exchange.received
    expected, remedy = "an image", _REMEDY
    try:
        yield
        return
    except NotPublicError as error:
        expected, remedy = "a link to a public address", _PRIVATE_REMEDY
        found = f"{error}, which belongs to this machine, its network or a special use"
    except httpx2.TimeoutException:
        found = f"silence for {limits.silence:g} s"
        if time.monotonic() >= exchange.until:
            expected, found = f"an image within {limits.whole:g} s", f"{received.tell()} bytes by then"
        else:
            remedy = f"Check the network and the link. {_REMEDY}"
    except httpx2.NetworkError as error:
        found = f"no connection ({_reason(error)})"
        remedy = f"Check the network and the link. {_REMEDY}"
    except httpx2.InvalidURL:
        expected, found, remedy = "a link", "one, or a redirect, that is written wrongly", "Check the link."
    except (httpx2.HTTPError, OSError, ValueError, ImportError) as error:
        found = f"no proper answer ({type(error).__name__})"
        if exchange.announced is not None and received.tell() < exchange.announced:
            expected = "a whole image"
            found = f"only {received.tell()} of its {exchange.announced} bytes"
    raise DataError(where, expected=expected, found=found, remedy=remedy)


def _reason(error: BaseException) -> str:
    """Return what the operating system says of a connection, in its own words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
