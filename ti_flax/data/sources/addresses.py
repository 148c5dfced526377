"""Which addresses links may lead to: those of the public internet, checked where the connection is made.

A name can stand for one address when it is checked and for another when it is used (DNS rebinding), and
`2130706433` or `0x7f.1` for this machine. So names are looked up once, and what was checked is connected to.
"""

import ipaddress
import socket
import time
from collections.abc import Iterable
from typing import Any

import httpcore2

# IPv4 addresses within IPv6 (RFC 6052; RFC 4291, section 2.5.5.1), which `ipaddress` does not unwrap.
_WRAPPINGS = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
# For special use, though some versions of `ipaddress` call them global (RFC 6890, RFC 8215, RFC 3879).
_SPECIAL = tuple(ipaddress.ip_network(each) for each in ("192.0.0.0/24", "64:ff9b:1::/48", "fec0::/10"))


class NotPublicError(Exception):
    """An address of this machine, of its network, or for special use; the text is the address."""


def is_public(address: str) -> bool:
    """Tell an address of the public internet, whatever IPv6 wraps it in."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        wrapped = [parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())]
        wrapped += [ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF) for each in _WRAPPINGS if parsed in each]
        inner = [each for each in wrapped if each is not None]
        if inner:
            return all(_is_plain_public(each) for each in inner)
    return _is_plain_public(parsed)


def _is_plain_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    special = address.is_multicast or address.is_reserved or any(address in each for each in _SPECIAL)
    return address.is_global and not special


def addresses_of(host: str, port: int) -> list[str]:
    """Look up a host, given by name or by address in any spelling.

    Raises:
      OSError: there is no such host.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that is empty or too long
        raise OSError("no such name") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def require_public(addresses: Iterable[str]) -> None:
    """Refuse a host with even one address that is not public.

    Raises:
      NotPublicError: it names the address.
    """
    for address in addresses:
        if not is_public(address):
            raise NotPublicError(address)


class CheckedConnections(httpcore2.SyncBackend):
    """Connects to hosts whose addresses were checked, and ends each exchange when its time is over."""

    def __init__(self, *, until: float, only_public: bool, proxy: str | None = None):
        """Take the rules.

        Args:
          until: of `time.monotonic`, when all has to be over.
          only_public: whether hosts have to be public.
          proxy: host that need not be, as the user named it and it makes the connections.
        """
        self._until, self._only_public, self._proxy = until, only_public, proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            addresses = addresses_of(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        if self._only_public and host != self._proxy:
            require_public(addresses)
        for address in addresses:
            try:
                left = time_left(self._until, timeout, httpcore2.ConnectTimeout)
                made = super().connect_tcp(address, port, left, local_address, socket_options)
                return _UntilStream(made, self._until)
            except httpcore2.ConnectError:
                if address == addresses[-1]:
                    raise
        raise httpcore2.ConnectError("no address")


class _UntilStream(httpcore2.NetworkStream):
    """A connection that waits no longer than until a given time, however little at a time arrives."""

    def __init__(self, stream: httpcore2.NetworkStream, until: float):
        self._stream, self._until = stream, until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, time_left(self._until, timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, time_left(self._until, timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        left = time_left(self._until, timeout, httpcore2.ConnectTimeout)
        return _UntilStream(self._stream.start_tls(ssl_context, server_hostname, left), self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def time_left(until: float, timeout: float | None, kind: type[Exception]) -> float:
    """Return the seconds that an operation may take; raises the given error if there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise kind("the time is over")
    return left if timeout is None else min(left, timeout)
