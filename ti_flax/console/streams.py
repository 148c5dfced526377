"""Standard output and standard error, which may be closed, full, or read by nobody any more."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

_NAMES = ("stdin", "stdout", "stderr")


class Patient:
    """A text stream on which a failure ends nothing.

    Attributes:
      lost: the first error of what could not be written; None if a reader has gone, as `| head` does.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        with self._noting():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # letters that the stream's encoding does not have
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._noting():
            self._stream.flush()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.lost = self.lost or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def patient_streams() -> Iterator[Patient]:
    """Lets nothing that is done inside fail because of what it prints; yields standard output.

    Streams that are closed lead nowhere inside, and their numbers do so for good: without that, the next file
    that is opened gets the number, and what a library prints goes into it.
    """
    before = [getattr(sys, name) for name in _NAMES]
    with contextlib.ExitStack() as opened:
        streams = [
            opened.enter_context(_nowhere(number)) if stream is None else stream
            for number, stream in enumerate(before)
        ]
        sys.stdin, out, err = streams
        output = Patient(out)
        sys.stdout, sys.stderr = output, Patient(err)
        try:
            yield output
        finally:
            sys.stdin, sys.stdout, sys.stderr = before
            output.flush()
            if not _flushed(out):
                _lead_nowhere(out)  # or Python tries again at the end, and complains


def _nowhere(number: int) -> Any:
    try:
        os.fstat(number)
    except OSError:
        _open_nowhere(number)
    return open(os.devnull, "w" if number else "r", encoding="utf-8")


def _open_nowhere(number: int) -> None:
    descriptor = os.open(os.devnull, os.O_RDWR)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.set_inheritable(number, True)


def _flushed(stream: Any) -> bool:
    try:
        stream.flush()
    except OSError:
        return False
    except ValueError:  # it was closed meanwhile
        return True
    return True


def _lead_nowhere(stream: Any) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        _open_nowhere(stream.fileno())
