"""XLA's alarm about a compilation of minutes, which is none: what is compiled, and for how long, is shown."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# Passes on what it reads as it comes, so that lines that are drawn again and again are. XLA writes the head
# of an alarm and what follows it apart from one another. It is a process of its own, so that the last words
# of one that crashes get through.
_FILTER = r"""
import os, re, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
head = rb"[A-Z]\d{4} [^\n]*slow_operation_alarm\.cc:\d+\][^\n]*\n?"
stars = rb"\n?\*{20,}\n?"
alarm = re.compile(head + rb"|" + stars + rb"|\[Compiling module [^\n]*\n?")
while part := os.read(0, 65536):
    part = alarm.sub(b"", part)
    while part:
        part = part[os.write(1, part):]
"""


@contextlib.contextmanager
def without_alarms() -> Iterator[None]:
    """Keeps XLA's alarms about slow operations off standard error; all else comes through."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # standard error is closed, or nothing can be started
            held.enter_context(_filtered())
        yield


@contextlib.contextmanager
def _filtered() -> Iterator[None]:
    before = os.dup(2)
    try:
        command = [sys.executable, "-S", "-E", "-c", _FILTER]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=before) as filter:
            assert filter.stdin is not None
            os.dup2(filter.stdin.fileno(), 2)
            filter.stdin.close()
            try:
                yield
            finally:
                os.dup2(before, 2)  # the last end of the pipe, which ends the filter
    finally:
        os.close(before)
