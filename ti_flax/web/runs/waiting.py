"""Runs that wait for the one at work: `queue.json` of the work folder, and who starts the next of them.

A small process of its own does (`starter.py`), so that a queue goes on when the page is closed, and when
`ti-flax web` ends. Whoever changes the file or starts a run holds `queue.lock`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ti_flax.errors import DataError, OutputError, TiFlaxError
from ti_flax.files.atomic import write_text
from ti_flax.files.regular import read_regular
from ti_flax.files.text import parse_json
from ti_flax.web.runs.processes import Program

FILE = "queue.json"
_LOCK = "queue.lock"
_STARTER = "ti_flax.web.runs.starter"
_LARGEST_FILE = 2**24


@dataclass(frozen=True)
class Waiting:
    """A run that waits.

    Attributes:
      run: the name of its folder.
      arguments: of `ti-flax`, with which it will be started.
    """

    run: str
    arguments: tuple[str, ...]


class Queue:
    """The queue of a work folder.

    Args:
      root: the work folder.
    """

    def __init__(self, root: Path):
        self._root, self._runs, self._file = root, root / "runs", root / FILE

    def start(self, run: str, arguments: Sequence[str]) -> None:
        """Starts a run, or puts it at the end of the queue while another is at work or waits.

        Raises:
          DataError: `queue.json` is damaged.
          OutputError: the run is at work or waits already.
          OSError: it cannot be started, or the queue not be written.
        """
        with self._held():
            waiting = self._read()
            if run in (self.at_work(), *(each.run for each in waiting)):
                raise OutputError("run", expected="one that is not at work and does not wait", found=run)
            if not waiting and self.at_work() is None:
                Program(self._runs / run).start(arguments, self._root)
                return
            self._write([*waiting, Waiting(run, tuple(arguments))])
            self._wake()

    def take_out(self, run: str) -> bool:
        """Takes a run out of the queue; whether it was in it.

        Raises:
          DataError: `queue.json` is damaged.
          OSError: it cannot be written.
        """
        with self._held():
            waiting = self._read()
            kept = [each for each in waiting if each.run != run]
            if len(kept) < len(waiting):
                self._write(kept)
            return len(kept) < len(waiting)

    def waiting(self) -> list[Waiting]:
        """The runs that wait, the next one first; none of a file that is damaged."""
        try:
            return self._read()
        except DataError:
            return []

    def at_work(self) -> str | None:
        """The run that is at work; None if there is none."""
        with contextlib.suppress(OSError), os.scandir(self._runs) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and Program(Path(entry.path)).is_at_work:
                    return entry.name
        return None

    def wake(self) -> None:
        """Lets the queue go on, as after a new start of the machine.

        Raises:
          DataError: `queue.json` is damaged.
          OSError: the process that starts runs cannot be started.
        """
        with self._held():
            if self._read():
                self._wake()

    def start_next(self, at_the_end: Callable[[], None] = lambda: None) -> bool:
        """Starts the next run if none is at work; whether more wait.

        Args:
          at_the_end: is called when none waits any more, before another process can add one.

        Raises:
          DataError: `queue.json` is damaged.
          OSError: it cannot be written.
        """
        with self._held():
            waiting = self._read()
            if waiting and self.at_work() is None:
                self._start_first(waiting[0])
                self._write(waiting := waiting[1:])
            if not waiting:
                at_the_end()
            return bool(waiting)

    def _start_first(self, entry: Waiting) -> None:
        program = Program(self._runs / entry.run)
        try:
            program.start(entry.arguments, self._root)
        except (TiFlaxError, OSError) as error:  # the others are started all the same
            program.note_error(str(error))

    def _wake(self) -> None:
        starter = Program(self._root, "starter", _STARTER)
        if not starter.is_at_work:
            starter.start([str(self._root)], self._root)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._root / _LOCK, flags, 0o600), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> list[Waiting]:
        try:
            content = parse_json(read_regular(self._file, _LARGEST_FILE).decode())
            return [_entry(each) for each in content["waiting"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                self._file,
                expected="the runs that wait, as the page wrote them",
                found=str(error),
                remedy="Delete the file, and start the runs again.",
            ) from None

    def _write(self, waiting: Sequence[Waiting]) -> None:
        content = {"waiting": [asdict(each) for each in waiting]}
        write_text(self._file, json.dumps(content, indent=1, ensure_ascii=False))


def _entry(content: dict) -> Waiting:
    entry = Waiting(**content)
    if not isinstance(entry.run, str) or entry.run != os.path.basename(entry.run) or entry.run[:1] in ".":
        raise ValueError(f"the run {entry.run!r}")
    if not isinstance(entry.arguments, list) or not all(isinstance(each, str) for each in entry.arguments):
        raise ValueError(f"arguments of {entry.run} that are no list of texts")
    return Waiting(entry.run, tuple(entry.arguments))
