"""The page's server: for this machine unless told otherwise, and for the page's own requests alone."""

from __future__ import annotations

import contextlib
import hmac
import io
import os
import re
import shutil
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ti_flax.console.messages import warn
from ti_flax.errors import OutputError, TiFlaxError
from ti_flax.web.image_sets import LARGEST_FILE
from ti_flax.web.runs.waiting import Queue
from ti_flax.web.work_folder import WorkFolder

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::\d{1,5})?")
# What the page asks for; whatever else Gradio serves is not there.
_PATHS = re.compile(
    r"/(login/?|logout/?|config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/.*"
    r"|gradio_api/(upload|upload_progress|queue/(join|data)|cancel|reset/?|login_check/?|user/?|token/?|app_id/?"
    r"|startup-events|theme\.css|heartbeat/.*|file=.*))?"
)
_UPLOAD = "/gradio_api/upload"
# Bytes of all that one request may bring: of images, and of anything else.
LARGEST_UPLOAD, _LARGEST_REQUEST = 2**30, 2**24
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "font-src 'self' data:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Door:
    """Who may come in, and what they may bring.

    Attributes:
      any_host: whether the page goes by other names than this machine's own: then there is a password, which
        a page elsewhere that leads here under a name of its own (DNS rebinding) does not have.
      largest_upload: bytes.
    """

    any_host: bool = False
    largest_upload: int = LARGEST_UPLOAD

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Why a request is refused, with its code; None lets it in."""
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        given = dict(headers)
        hosts = [value for name, value in headers if name == b"host"]
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or not (self.any_host or found[1].strip("[]").lower() in (*_LOOPBACK, "0.0.0.0")):
            return 403, "This page is for browsers on the machine itself: ask for http://127.0.0.1."
        if not _PATHS.fullmatch(scope["path"]):
            return 404, "There is nothing here."
        origin = given.get(b"origin")
        if origin is not None and urlsplit(origin).netloc.lower() != hosts[0].lower():
            return 403, "This request comes from another page."
        foreign = given.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if foreign and (scope["method"] != "GET" or given.get(b"sec-fetch-mode") != "navigate"):
            return 403, "This request comes from another page."
        return None

    def most(self, scope: Scope) -> int:
        """Bytes that a request may bring."""
        return self.largest_upload if scope["path"].startswith(_UPLOAD) else _LARGEST_REQUEST


class Guard:
    """Lets the page's own requests through to an ASGI application, and no others.

    Args:
      app: the application.
      door: who may come in.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], door: Door):
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None  # there are no sockets here
        refusal = self._door.refusal(scope)
        if refusal is not None:
            return await _refuse(send, *refusal)
        most, length = self._door.most(scope), _content_length(scope)
        if length is not None and length > most:
            return await _refuse(send, 413, f"More than {most} bytes.")
        sending = _Answer(send)
        try:
            return await self._app(scope, _limited(receive, most), sending)
        except _TooLongError:
            return None if sending.begun else await _refuse(send, 413, f"More than {most} bytes.")


def _content_length(scope: Scope) -> int | None:
    texts = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    return int(texts[0]) if len(texts) == 1 and texts[0].isdigit() else None


class _TooLongError(Exception):
    """A request that says no length brings too much."""


def _limited(receive: Receive, most: int) -> Receive:
    """Receives up to so many bytes."""
    count = 0

    async def limited() -> MutableMapping[str, Any]:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise _TooLongError
        return message

    return limited


class _Answer:
    """Sends an answer, with the headers of all.

    Attributes:
      begun: whether it has begun.
    """

    def __init__(self, send: Send):
        self._send, self.begun = send, False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in _HEADERS]
            message = {**message, "headers": [*kept, *_HEADERS.items()]}
        await self._send(message)


async def _refuse(send: Send, code: int, text: str) -> None:
    content = f"{text}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(content)).encode()),
    ]
    start = {"type": "http.response.start", "status": code, "headers": [*headers, *_HEADERS.items()]}
    await send(start)
    await send({"type": "http.response.body", "body": content})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on an address."""
    return host.strip("[]").lower() in _LOOPBACK


def require_free(host: str, port: int) -> None:
    """Refuses a port that cannot be listened on.

    Raises:
      OutputError: says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host.strip("[]"), port))
    except OSError as error:
        raise OutputError(
            f"--host {host} --port {port}",
            expected="an address of this machine and a port that is free",
            found=(error.strerror or str(error)).lower(),
            remedy="Choose another, such as --port 7861.",
        ) from None


@dataclass(frozen=True)
class Serving:
    """How the page is served.

    Attributes:
      host: address to listen on.
      port: to listen on.
      share: whether Gradio's servers lead to it as well.
      password: that browsers must give; None: none.
      door: who may come in.
    """

    host: str
    port: int
    share: bool = False
    password: str | None = None
    door: Door = Door()


def launched(work: WorkFolder, serving: Serving) -> tuple[Any, str, str | None]:
    """Starts to serve the page, in threads of its own; the page, its address and that of Gradio's servers.

    Nothing is sent to anybody else: no statistics, no look for newer versions, no fonts.

    Args:
      work: the page's folder.
      serving: how.
    """
    shutil.rmtree(work.temporary, ignore_errors=True)
    work.temporary.mkdir(mode=0o700, exist_ok=True)
    # Read when Gradio is imported.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(work.temporary)}
    from starlette.middleware import Middleware

    from ti_flax.web.events import blocks_of
    from ti_flax.web.style import STYLES, theme

    password = serving.password

    def let_in(_: str, given: str) -> bool:
        return password is not None and hmac.compare_digest(given.encode(), password.encode())

    blocks = blocks_of(work)
    with contextlib.redirect_stdout(io.StringIO()) as said:  # what Gradio prints whatever `quiet` says
        _, address, shared = blocks.launch(
            server_name=serving.host,
            server_port=serving.port,
            share=serving.share,
            auth=None if password is None else let_in,
            auth_message="Any name, and the password that ti-flax web printed when it started.",
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            max_file_size=LARGEST_FILE,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=theme(),
            head=STYLES,
            app_kwargs={"middleware": [Middleware(Guard, door=serving.door)]},
        )
    try:
        Queue(work.root).wake()
    except TiFlaxError as error:
        warn(str(error))
    if serving.share and not shared:
        warn(_no_link(said.getvalue()))
    return blocks, address, shared


def _no_link(said: str) -> str:
    """Why there is no public link, in a line, by what Gradio has printed."""
    reason = "the program that makes it could not be downloaded" if "Missing file" in said else ""
    reason = reason or "the servers of Gradio's makers did not make one"
    return f"--share: there is no public link, as {reason}. The page is served without it."
