"""What a run tells the person who started it, on stderr: lines, and how far the current stage is."""

from __future__ import annotations

import contextlib
import enum
import sys
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol, Self, TypeVar

from ti_flax.errors import printable

Item = TypeVar("Item")


class Level(enum.IntEnum):
    """Who sees a line: everybody, everybody but with `--quiet`, or with `--verbose` alone."""

    ALWAYS = -1
    NORMAL = 0
    DETAIL = 1


class Stage(Protocol):
    """Something that takes a while, from the beginning of its `with` block to the end."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def advance(self, count: int, parts: Sequence[str] = (), *, seconds: float | None = None) -> None:
        """Counts on; `parts` say how it goes, the most important first.

        What is left takes as long as what was counted, the first time left out, which also warms up: it took
        `seconds`, or all the time since the last call.
        """
        ...


class Pace:
    """How long what is left will take, once the second of two measured parts is over."""

    def __init__(self) -> None:
        self._count, self._seconds, self._first = 0, 0.0, True
        self._last = time.perf_counter()

    def add(self, count: int, seconds: float | None) -> None:
        """Notes that so much took so long, or the time since the last call."""
        now = time.perf_counter()
        if not self._first:
            self._count += count
            self._seconds += now - self._last if seconds is None else seconds
        self._first, self._last = False, now

    def left(self, count: int) -> float | None:
        """Seconds that so much more will take; None as long as that is not known."""
        return count * self._seconds / self._count if self._count else None


class Display:
    """Plain lines, for files and for terminals that cannot move the cursor."""

    def __init__(self, level: Level = Level.NORMAL):
        self._level = level
        self.times: dict[str, float] = {}

    def line(self, text: str, level: Level) -> None:
        """Prints one line, if it is for these eyes."""
        if level <= self._level:
            with contextlib.suppress(OSError):  # nobody listens any more, which ends no run
                self._print(printable(text))

    def ended(self, title: str, done: str, seconds: float, level: Level) -> None:
        """Notes how long a stage took, and says it."""
        self.times[title] = self.times.get(title, 0.0) + seconds
        self.line(f"{f'{done} in' if done else f'{title}:'} {seconds:.1f} s", level)

    def stage(self, title: str, *, done: str = "", total: int | None = None, start: int = 0) -> Stage:
        """Begins to show a stage; see `stage`."""
        return PlainStage(self, title, done=done, total=total, start=start)

    def _print(self, text: str) -> None:
        if sys.stderr is not None:  # as where the program was started with it closed
            print(text, file=sys.stderr, flush=True)


class PlainStage:
    """A stage in lines: at its beginning and end if it has a word for that, between them now and then."""

    def __init__(self, display: Display, title: str, *, done: str, total: int | None, start: int):
        self._display, self._title, self._done = display, title, done
        self._total, self._count = total, start
        self._pace = Pace()
        self._began = self._spoke = time.perf_counter()

    def __enter__(self) -> Self:
        if self._done and self._total is None:
            self._display.line(self._title, Level.NORMAL)
        return self

    def __exit__(self, *error: object) -> None:
        seconds = time.perf_counter() - self._began
        if error[0] is None:
            # A stage that nobody had to wait for is a detail.
            level = Level.NORMAL if self._done or seconds >= 1.0 else Level.DETAIL
            self._display.ended(self._title, self._done, seconds, level)

    def advance(self, count: int, parts: Sequence[str] = (), *, seconds: float | None = None) -> None:
        self._count += count
        self._pace.add(count, seconds)
        now = time.perf_counter()
        elapsed = now - self._began
        # Often at first, then rarely, so that the log of a long run can be read.
        due = now - self._spoke >= min(60.0, max(15.0, elapsed / 10))
        ends = self._done and self._count == self._total
        if self._total is None or not (due or ends):
            return
        self._spoke = now
        left = self._pace.left(self._total - self._count)
        told = [f"{self._title} {self._count}/{self._total}", *parts]
        if self._count < self._total and left is not None:
            told.append(f"{clock(left)} left")
        self._display.line(", ".join(told), Level.NORMAL)


def clock(seconds: float) -> str:
    """A time as people write it: 0:09, 12:30, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


_DISPLAY: ContextVar[Display | None] = ContextVar("display", default=None)
_ABOUT: ContextVar[str] = ContextVar("about", default="")


def _display() -> Display:
    return _DISPLAY.get() or Display()


@contextlib.contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Shows everything that is said inside on a display."""
    token = _DISPLAY.set(display)
    try:
        yield
    finally:
        _DISPLAY.reset(token)


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Says in front of every line inside which concept of a run it is about."""
    token = _ABOUT.set(name)
    try:
        yield
    finally:
        _ABOUT.reset(token)


def _named(text: str) -> str:
    name = _ABOUT.get()
    return f"{name}: {text}" if name else text


def say(line: str) -> None:
    """Prints one line of a run's report."""
    _display().line(_named(line), Level.NORMAL)


def warn(line: str) -> None:
    """Prints what went wrong without ending the run, also for those who want to hear nothing else."""
    _display().line(f"warning: {_named(line)}", Level.ALWAYS)


def detail(line: str) -> None:
    """Prints one line for those who want to know more."""
    _display().line(_named(line), Level.DETAIL)


def stage(title: str, *, done: str = "", total: int | None = None, start: int = 0) -> Stage:
    """Shows that something takes a while.

    Args:
      title: what is being done: "compiling".
      done: what then has been done: "compiled"; without it, a log has a line only if it took a second.
      total: how often it is counted on, if that is known.
      start: where counting begins.
    """
    done = _named(done) if done else ""
    return _display().stage(_named(title), done=done, total=total, start=start)


def stage_times() -> dict[str, float]:
    """Seconds of the stages that have ended on the current display, in order."""
    return dict(_display().times)


def watched(items: Sequence[Item], title: str) -> Iterator[Item]:
    """Yields items, and shows how many of them are done."""
    with stage(title, total=len(items)) as shown:
        for item in items:
            yield item
            shown.advance(1)
