"""Files from outside, opened so that none of them is waited for and none is read without a limit.

A folder can hold what looks like a file and is none: a pipe that nobody writes to, a socket, a device that
never ends.
"""

import errno
import hashlib
import io
import os
import select
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_PORTION = 2**16


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
      OSError: it cannot be opened, or is no file but a folder, pipe, socket or device.
    """
    _require_plain(os.stat(path).st_mode, path)
    # What the name stands for may have changed by now; an open pipe is not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_plain(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, most: int, *, silence: float | None = None) -> bytes:
    """Read a whole file of a limited length.

    Args:
      path: of the file.
      most: bytes that it may have.
      silence: seconds that a pipe, as a shell makes of `<(command)`, may say nothing; None: no pipe.

    Raises:
      OSError: it cannot be read, is no file, or is longer.
    """
    if silence is not None and stat.S_ISFIFO(os.stat(path).st_mode):
        return _from_pipe(path, most, silence)
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise _too_long(path, most)
    return content


def file_digest(path: str | Path) -> tuple[int, str]:
    """Return a file's length in bytes and its SHA-256, in hexadecimal; little of it is held at a time.

    Raises:
      OSError: it cannot be read, or is no file.
    """
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while portion := file.read(_PORTION):
            digest.update(portion)
            size += len(portion)
    return size, digest.hexdigest()


def _from_pipe(path: str | Path, most: int, silence: float) -> bytes:
    received = io.BytesIO()
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while waiting.poll(1000 * silence):
            portion = os.read(descriptor, _PORTION)
            if not portion:
                return received.getvalue()
            received.write(portion)
            if received.tell() > most:
                raise _too_long(path, most)
    finally:
        os.close(descriptor)
    raise OSError(errno.ETIMEDOUT, f"a pipe that says nothing for {silence:g} s", str(path))


def _require_plain(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    for asked, kind in _KINDS:
        if asked(mode):
            raise OSError(errno.EINVAL, f"{kind}, which is no file", str(path))


def _too_long(path: str | Path, most: int) -> OSError:
    amount = f"{most / 2**20:g} MiB" if most >= 2**20 else f"{most // 2**10} KiB"
    return OSError(errno.EFBIG, f"more than {amount}", str(path))
