"""The server of a live page: for browsers on this machine alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ti_flax.errors import OutputError
from ti_flax.monitoring.watch.pages import Answer, digest_of

ADDRESS, PORT = "127.0.0.1", 8765
# How a browser may name this machine: any other name may be one that a page elsewhere has made to lead here
# (DNS rebinding). The port may be another, as behind `ssh -L`.
_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_PLAIN = "text/plain; charset=utf-8"
_REFUSED = b"This page is for browsers on the machine itself: ask for http://127.0.0.1.\n"


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; `answer` is set on the class that a server is made of."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ti_flax", ""
    timeout = 60  # seconds that a browser may keep a connection without asking for anything
    answer: Callable[[str], Answer]

    def do_GET(self) -> None:
        self._respond(with_content=True)

    def do_HEAD(self) -> None:
        self._respond(with_content=False)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: a page that refreshes itself would fill the terminal."""

    def _respond(self, *, with_content: bool) -> None:
        code, answer = self._answer_to()
        tag = ""
        if code == 200 and answer.kind.startswith("image/"):
            tag = f'"{answer.digest or digest_of(answer.content)}"'
            code = 304 if self.headers.get("If-None-Match") == tag else 200
        self._send(code, answer, tag, with_content=with_content and code != 304)

    def _answer_to(self) -> tuple[int, Answer]:
        """The code and what is sent with it."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or _HOST.fullmatch(hosts[0].strip()) is None:
            return 403, Answer(_REFUSED, _PLAIN)
        try:
            answer = type(self).answer(self.path)
        except ValueError:
            return 400, Answer(b"This is no address.\n", _PLAIN)
        return (200 if answer.found else 404), answer

    def _send(self, code: int, answer: Answer, tag: str, *, with_content: bool) -> None:
        self.send_response(code)
        self.send_header("Content-Type", answer.kind)
        if code != 304:
            self.send_header("Content-Length", str(len(answer.content)))
        # What is in an image is in its address, or is asked about each time; a page is made anew.
        kept = "no-cache" if tag else "no-store"
        self.send_header("Cache-Control", "private, max-age=86400, immutable" if answer.lasting else kept)
        if tag:
            self.send_header("ETag", tag)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(answer.content)


class Server(ThreadingHTTPServer):
    """A server of answers on this machine alone.

    Args:
      answer: from an address, path and query, to what is sent.
      port: to listen on; None: the usual one, or a free one where that is taken. 0: a free one.

    Raises:
      OutputError: the port is taken, or may not be listened on.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: Callable[[str], Answer], port: int | None):
        handler = type("WatchHandler", (Handler,), {"answer": staticmethod(answer)})
        try:
            super().__init__((ADDRESS, PORT if port is None else port), handler)
        except OSError as error:
            if port is None:
                super().__init__((ADDRESS, 0), handler)
                return
            raise OutputError(
                f"--port {port}",
                expected="a port that is free",
                found=(error.strerror or str(error)).lower(),
                remedy="Leave it out, and a free one is taken.",
            ) from None

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of browsers that went away; what else fails is shown as always."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]
