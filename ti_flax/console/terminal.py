"""What a run shows on a terminal: lines, and below them the stage that is under way, which moves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Self

from ti_flax.console.messages import Display, Level, Stage, clock
from ti_flax.console.streams import Patient

# Of a terminal's width, what the bar, the count and the times need.
_BESIDE_THE_PARTS = 46


def display_for(level: Level) -> Display:
    """The display that suits where stderr goes."""
    moves = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return TerminalDisplay(level) if moves and level > Level.ALWAYS else Display(level)


class TerminalDisplay(Display):
    """Lines that stay, above a last one that moves."""

    def __init__(self, level: Level = Level.NORMAL):
        from rich.console import Console

        super().__init__(level)
        file: Any = Patient(sys.stderr)
        self.console = Console(file=file, highlight=False, emoji=False, markup=False)

    def stage(self, title: str, *, done: str = "", total: int | None = None, start: int = 0) -> Stage:
        return TerminalStage(self, title, done=done, total=total, start=start)

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


class TerminalStage:
    """A line with a bar or a clock that disappears at the end; what was `done` stays as a line."""

    def __init__(self, display: TerminalDisplay, title: str, *, done: str, total: int | None, start: int):
        from rich.progress import Progress

        self._display, self._done, self._total = display, done, total
        self._began = time.perf_counter()
        self._progress = Progress(*_columns(total), console=display.console, transient=True)
        self._task = self._progress.add_task(title, total=total, completed=start, parts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
        if error[0] is None:
            seconds = time.perf_counter() - self._began
            level = Level.NORMAL if self._done else Level.DETAIL
            self._display.ended(self._progress.tasks[0].description, self._done, seconds, level)

    def advance(self, count: int, parts: Sequence[str] = ()) -> None:
        room, shown = self._display.console.width - _BESIDE_THE_PARTS, ""
        for part in parts:
            if len(shown) + 2 + len(part) > room:
                break
            shown = f"{shown}, {part}" if shown else part
        self._progress.update(self._task, advance=count, parts=shown)


def _columns(total: int | None) -> list[Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TextColumn
    from rich.text import Text

    class Elapsed(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(clock(task.elapsed or 0.0), "cyan")

    class Left(ProgressColumn):
        # A chunk takes seconds, in which the estimate counts down by itself.
        def render(self, task: Any) -> Text:
            left = task.time_remaining
            return Text("" if left is None else f"{clock(left)} left", "cyan")

    title = TextColumn("{task.description}", markup=False)
    if total is None:
        return [SpinnerColumn("line"), title, Elapsed()]
    parts = TextColumn("{task.fields[parts]}", markup=False)
    return [SpinnerColumn("line"), title, BarColumn(None), MofNCompleteColumn(), parts, Elapsed(), Left()]
