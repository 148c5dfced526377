"""Ctrl-C while it trains: once ends the run after the updates under way, twice at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Self

_ONCE = "\nstopping after the updates under way, then saving; Ctrl-C again stops at once\n"
_SHOW_CURSOR = "\x1b[?25h"


class Interrupt:
    """Listens for Ctrl-C (SIGINT) from the beginning of its `with` block to the end.

    Python sees a signal only between two of its own instructions, and a call of the device program lasts for
    seconds. So a thread waits for the byte that the operating system's side of Python writes at once.

    Attributes:
      asked: whether the person wants the run to end.
    """

    def __init__(self):
        self.asked = False
        self._read = self._write = -1

    def __enter__(self) -> Self:
        # Only there can signals be listened for; in another thread the run belongs to a larger program.
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.signal(signal.SIGINT, _nothing)
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._write < 0:
            return
        signal.set_wakeup_fd(self._fd_before)
        signal.signal(signal.SIGINT, self._before)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def _listen(self) -> None:
        while received := os.read(self._read, 1):
            if received[0] != signal.SIGINT:
                continue
            if self.asked:
                _tell(f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}\n")
                os._exit(128 + signal.SIGINT)
            self.asked = True
            _tell(_ONCE)


def _nothing(number: int, frame: object) -> None:
    """Takes the place of KeyboardInterrupt."""


def _tell(text: str) -> None:
    """Writes past all buffers, which another thread may be about to fill."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
