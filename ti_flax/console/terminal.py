"""What a run shows on a terminal: lines, and below them the stage that is under way, which moves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Self

from ti_flax.console.messages import Display, Level, Pace, Stage, clock
from ti_flax.console.streams import Patient

# Of a terminal's width, what the bar, the count and the times need.
_BESIDE_THE_PARTS = 46


def display_for(level: Level) -> Display:
    """The display that suits where stderr goes."""
    moves = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return TerminalDisplay(level) if moves and level > Level.ALWAYS else Display(level)


class TerminalDisplay(Display):
    """Lines that stay, above those of the stages that are under way, which move."""

    def __init__(self, level: Level = Level.NORMAL):
        from rich.console import Console

        super().__init__(level)
        file: Any = Patient(sys.stderr)
        self.console = Console(file=file, highlight=False, emoji=False, markup=False)
        self._progress: Any = None

    def stage(self, title: str, *, done: str = "", total: int | None = None, start: int = 0) -> Stage:
        return TerminalStage(self, title, done=done, total=total, start=start)

    def begin(self, title: str, *, total: int | None, start: int) -> int:
        """Shows one more line that moves, and returns its number."""
        if self._progress is None:
            from rich.progress import Progress

            self._progress = Progress(*_columns(), console=self.console, transient=True)
            self._progress.start()
        return self._progress.add_task(title, total=total, completed=start, parts="", ends=None)

    def move(self, line: int, count: int, parts: str, left: float | None) -> None:
        """Counts on; the time left is counted down until the next call."""
        ends = None if left is None else time.monotonic() + left
        self._progress.update(line, advance=count, parts=parts, ends=ends)

    def end(self, line: int) -> None:
        """Takes a line away."""
        self._progress.remove_task(line)
        if not self._progress.tasks:
            self._progress.stop()
            self._progress = None

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


class TerminalStage:
    """A line with a bar or a clock that disappears at the end; what was `done` stays as a line."""

    def __init__(self, display: TerminalDisplay, title: str, *, done: str, total: int | None, start: int):
        self._display, self._title, self._done = display, title, done
        self._total, self._start, self._count = total, start, start
        self._began, self._pace, self._line = time.perf_counter(), Pace(), -1

    def __enter__(self) -> Self:
        self._line = self._display.begin(self._title, total=self._total, start=self._start)
        return self

    def __exit__(self, *error: object) -> None:
        self._display.end(self._line)
        if error[0] is None:
            seconds = time.perf_counter() - self._began
            level = Level.NORMAL if self._done else Level.DETAIL
            self._display.ended(self._title, self._done, seconds, level)

    def advance(self, count: int, parts: Sequence[str] = (), *, seconds: float | None = None) -> None:
        self._count += count
        self._pace.add(count, seconds)
        room, shown = self._display.console.width - _BESIDE_THE_PARTS, ""
        for part in parts:
            if len(shown) + 2 + len(part) > room:
                break
            shown = f"{shown}, {part}" if shown else part
        left = None if self._total is None else self._pace.left(self._total - self._count)
        self._display.move(self._line, count, shown, left)


def _columns() -> list[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TextColumn
    from rich.text import Text

    class Bar(ProgressColumn):
        """A bar where the end is known, else something that moves."""

        def __init__(self) -> None:
            super().__init__()
            self._bar, self._spinner = BarColumn(None), SpinnerColumn("line")

        def render(self, task: Any) -> Any:
            return (self._spinner if task.total is None else self._bar).render(task)

    class Count(MofNCompleteColumn):
        def render(self, task: Any) -> Text:
            return Text("") if task.total is None else super().render(task)

    class Elapsed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(clock(task.elapsed or 0.0), "cyan")

    class Left(ProgressColumn):
        # A chunk takes seconds, in which the estimate counts down by itself.
        def render(self, task: Any) -> Text:
            ends = task.fields["ends"]
            return Text("" if ends is None else f"{clock(max(0.0, ends - time.monotonic()))} left", "cyan")

    title = TextColumn("{task.description}", markup=False)
    parts = TextColumn("{task.fields[parts]}", markup=False)
    return [title, Bar(), Count(), parts, Elapsed(), Left()]
