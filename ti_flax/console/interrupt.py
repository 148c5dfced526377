"""Signals that ask a run to end, heard at once from its start to its end.

SIGTERM is what schedulers, containers and machines that are taken back send before they kill; SIGINT is
Ctrl-C; SIGHUP comes when a terminal or its connection is gone. What one of them does depends on what would be
lost:

- Nothing: it raises an exception in the main thread, so that everything is left in order. Python raises it
  only between two of its own instructions, and a compilation is one call that lasts for minutes; a main
  thread that does not end in time is ended from the thread that listens.
- The updates since the last checkpoint: the run stops after those under way, and saves.
- A result that is being written: it is obeyed when that is done.

The kernel of a notebook holds more than the run, so there nothing ends the process: a compilation is waited
for, and a second interruption of the updates raises its exception at once.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Self

from ti_flax.console.notebook import in_notebook
from ti_flax.errors import START_AGAIN, Stopped

_ON_CTRL_C = "\nstopping after the updates under way, then saving; Ctrl-C again stops at once\n"
_IN_A_CALL = "\nstopping as soon as what is under way returns\n"
_ON_OTHERS = "\n{}: stopping after the updates under way, then saving\n"
_SHOW_CURSOR = "\x1b[?25h"
# Seconds that the main thread gets to end by itself.
GRACE = 1.2
# What the main thread writes to the listening one to have its own end watched; no signal has this number.
_WATCH_ME = 0


class _Phase(enum.Enum):
    FREE = enum.auto()
    UPDATES = enum.auto()
    UNBROKEN = enum.auto()


def ending_signals() -> list[signal.Signals]:
    """The signals that ask this process to end; SIGHUP not where it is ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


class Interrupt:
    """Listens for signals from the beginning of its `with` block to the end.

    A thread waits for the byte that the operating system's side of Python writes for each signal at once.
    Where signals cannot be listened for, in any thread but the main one, it does nothing: there the run
    belongs to a larger program.

    Attributes:
      asked: whether the updates are to end. A second Ctrl-C ends the process; other signals may come
        repeatedly.
      situation: what a signal means for the run where nothing would be lost, for the line that says so.
    """

    def __init__(self, *, grace: float = GRACE):
        """Takes the seconds that the main thread gets to end by itself."""
        self.asked = False
        self.situation = "stopped before the first update; nothing is lost, the same command starts again"
        self._grace, self._phase, self._ending = grace, _Phase.FREE, False
        self._noted: int | None = None
        self._by_ctrl_c = False
        self._in_notebook, self._interruptions = in_notebook(), 0
        self._read = self._write = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        numbers = ending_signals()
        self._before = {number: signal.getsignal(number) for number in numbers}
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        for number in numbers:
            signal.signal(number, self._in_main_thread)
        return self

    def __exit__(self, *error: object) -> None:
        if self._write < 0:
            return
        self._ending = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    @contextlib.contextmanager
    def updates(self) -> Iterator[None]:
        """Only notes signals inside, in `asked`: whoever makes the updates saves them and then ends."""
        self._phase = _Phase.UPDATES
        try:
            yield
        except BaseException:
            self._ending = True  # no signal breaks what is put in order now
            raise
        finally:
            self.situation = "stopped; --resume_from_checkpoint auto goes on"
            self._phase = _Phase.FREE

    @contextlib.contextmanager
    def unbroken(self) -> Iterator[None]:
        """Does what is inside to its end, and then obeys a signal that has come meanwhile or before.

        Raises:
          Stopped: one came.
          KeyboardInterrupt: it was Ctrl-C.
        """
        self._phase = _Phase.UNBROKEN
        try:
            yield
        finally:
            self._phase = _Phase.FREE
        if self._noted is not None and not self._ending:
            self._ending = True
            with contextlib.suppress(OSError):
                os.write(self._write, bytes([_WATCH_ME]))
            raise self._error(self._noted)

    def _in_main_thread(self, number: int, frame: object) -> None:
        self._interruptions += number == signal.SIGINT
        at_once = self._in_notebook and self._phase is _Phase.UPDATES and self._interruptions > 1
        if self._phase is not _Phase.FREE and not at_once:
            self._noted = self._noted or number
        elif not self._ending:
            self._noted, self._ending = number, True
            raise self._error(number)

    def _error(self, number: int) -> KeyboardInterrupt:
        if number == signal.SIGINT:
            return KeyboardInterrupt()
        return Stopped(f"{signal.Signals(number).name}: {self.situation}")

    def _listen(self) -> None:
        deadline: float | None = None
        number: int | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._read], [], [], left)[0]:
                deadline = None
                self._late(number or signal.SIGTERM)
                continue
            received = os.read(self._read, 1)
            if not received:
                return
            if received[0] != _WATCH_ME:
                if received[0] not in self._before:
                    continue
                self._heard(received[0])
            number = number or received[0] or self._noted
            if self._phase is _Phase.FREE and deadline is None:
                deadline = time.monotonic() + self._grace

    def _heard(self, number: int) -> None:
        if number == signal.SIGINT:
            if self._by_ctrl_c:
                self._end("", 128 + signal.SIGINT)
                return
            self._by_ctrl_c = True
        if self._phase is not _Phase.FREE:
            self._noted = self._noted or number
        if self._phase is _Phase.UPDATES:
            if number == signal.SIGINT:
                _tell(_ON_CTRL_C)
            elif not self.asked:
                _tell(_ON_OTHERS.format(signal.Signals(number).name))
            self.asked = True

    def _late(self, number: int) -> None:
        """Ends the process, unless the main thread is where something would be lost."""
        if self._phase is not _Phase.FREE:
            self._noted, self.asked = self._noted or number, True
            return
        error = self._error(number)
        code = START_AGAIN if isinstance(error, Stopped) else 128 + number
        self._end(str(error) or "interrupted", code)

    def _end(self, text: str, code: int) -> None:
        if self._in_notebook:
            _tell(_IN_A_CALL)
            return
        # On a terminal a line may be under way, with the cursor hidden.
        _tell(f"{_SHOW_CURSOR}\n" if os.isatty(2) else "")
        _tell(f"{text}\n" if text else "")
        os._exit(code)


_CURRENT: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)


@contextlib.contextmanager
def listening() -> Iterator[Interrupt]:
    """Listens for signals inside; what is inside of that again goes on with the same listener.

    Raises:
      Stopped: one came where nothing would be lost.
    """
    current = _CURRENT.get()
    if current is not None:
        yield current
        return
    with Interrupt() as interrupt:
        token = _CURRENT.set(interrupt)
        try:
            yield interrupt
        finally:
            _CURRENT.reset(token)


def end_process(code: int) -> int:
    """Ends a program that was asked to end, at once and with this exit code; returns any other code.

    The interpreter's own end would wait for threads of libraries, such as a download that its server has
    forgotten, and for XLA, which finishes a compilation before it lets go of its devices.
    """
    if code in (START_AGAIN, 128 + signal.SIGINT):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or read by nobody
                stream.flush()
        os._exit(code)
    return code


def _tell(text: str) -> None:
    """Writes past all buffers, which another thread may be about to fill."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
