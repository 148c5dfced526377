"""Signals that ask a run to end: heard at once, obeyed after the updates under way.

SIGTERM is what schedulers, containers and machines that are taken back send before they kill; SIGINT is
Ctrl-C; SIGHUP comes when a terminal or its connection is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Self

from ti_flax.errors import Stopped

_ON_CTRL_C = "\nstopping after the updates under way, then saving; Ctrl-C again stops at once\n"
_ON_OTHERS = "\n{}: stopping after the updates under way, then saving\n"
_SHOW_CURSOR = "\x1b[?25h"


def ending_signals() -> list[signal.Signals]:
    """The signals that ask this process to end; SIGHUP not where it is ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


class Interrupt:
    """Listens for signals from the beginning of its `with` block to the end.

    Python sees a signal only between two of its own instructions, and a call of the device program lasts for
    seconds. So a thread waits for the byte that the operating system's side of Python writes at once.

    Attributes:
      asked: whether the run is to end. A second Ctrl-C ends the process; other signals may come repeatedly.
    """

    def __init__(self):
        self.asked = False
        self._by_ctrl_c = False
        self._read = self._write = -1

    def __enter__(self) -> Self:
        # Only there can signals be listened for; in another thread the run belongs to a larger program.
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, _nothing) for number in ending_signals()}
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._write < 0:
            return
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def _listen(self) -> None:
        while received := os.read(self._read, 1):
            if received[0] not in self._before:
                continue
            if received[0] != signal.SIGINT:
                if not self.asked:
                    _tell(_ON_OTHERS.format(signal.Signals(received[0]).name))
            elif self._by_ctrl_c:
                _tell(f"{_SHOW_CURSOR if sys.stderr.isatty() else ''}\n")
                os._exit(128 + signal.SIGINT)
            else:
                self._by_ctrl_c = True
                _tell(_ON_CTRL_C)
            self.asked = True


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Lets signals other than Ctrl-C end what is done inside by an exception, so that it is left in order.

    Raises:
      Stopped: one came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise Stopped(f"{signal.Signals(number).name}: stopped; --resume_from_checkpoint auto goes on")

    before = {number: signal.signal(number, end) for number in ending_signals() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing(number: int, frame: object) -> None:
    """Takes the place of what would end the process."""


def _tell(text: str) -> None:
    """Writes past all buffers, which another thread may be about to fill."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
