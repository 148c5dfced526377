"""What has become of each concept of a run: a table and a page for people, and a file for programs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ti_flax.config import RunConfig
from ti_flax.console.messages import warn
from ti_flax.errors import DataError
from ti_flax.files.written_files import CONCEPTS, INDEX
from ti_flax.monitoring.report.concepts import Entry, read_entries, write_entries
from ti_flax.monitoring.report.index_page import IndexPage


def known_steps(config: RunConfig) -> int | None:
    """The steps of a concept's run; None if it ends itself, or its images say how many they are."""
    return None if config.training.until_done else config.training.total_steps or None


class Board:
    """The concepts of a run in the order of the list.

    Args:
      output_dir: of the run.
      concepts: their names and configurations.
      host: number of this one. The first writes the file, with what the others have written in files of
        their own beside it.
    """

    def __init__(self, output_dir: Path, concepts: Sequence[tuple[str, RunConfig]], *, host: int = 0):
        self.path, self.page = output_dir / CONCEPTS, output_dir / INDEX
        self._host, self._index, self._said = host, IndexPage(output_dir), ""
        self._entries = {
            name: Entry(name, " and ".join(config.concept.words), steps=known_steps(config))
            for name, config in concepts
        }
        self._told: set[str] = set()  # of this host
        if host == 0:
            self._remove_parts()  # what a killed run has left may be of hosts that there are no more

    def done_before(self, name: str, step: int) -> None:
        """Notes that an earlier run has finished a concept, at this step."""
        entry = self._entries[name]
        entry.state, entry.step = "done", step

    def begin(self, name: str, step: int, steps: int | None) -> None:
        """Notes that a concept learns from now on."""
        entry = self._entry_of(name)
        entry.state, entry.step, entry.steps = "running", step, steps

    def done(self, name: str, step: int) -> None:
        """Notes that the result of a concept, of this step, is written."""
        entry = self._entry_of(name)
        entry.state, entry.step = "done", step

    def fail(self, name: str, error: str) -> None:
        """Notes why a concept has no result."""
        entry = self._entry_of(name)
        entry.state, entry.error = "failed", error

    def _entry_of(self, name: str) -> Entry:
        self._told.add(name)
        return self._entries[name]

    def counts(self) -> dict[str, int]:
        """How many concepts are in each state."""
        return dict(Counter(entry.state for entry in self._entries.values()))

    def updates(self) -> int | None:
        """Updates that all concepts that are not done have to make; None as long as some are unknown."""
        left = [entry for entry in self._entries.values() if entry.state in ("waiting", "running")]
        if any(entry.steps is None for entry in left):
            return None
        return sum((entry.steps or 0) - entry.step for entry in left)

    def done_ones(self) -> list[str]:
        """The names of the concepts that have a result."""
        return [entry.name for entry in self._entries.values() if entry.state == "done"]

    def failed(self) -> list[str]:
        """The names of the concepts that have no result."""
        return [entry.name for entry in self._entries.values() if entry.state == "failed"]

    def table(self) -> list[str]:
        """What has become of each, a line each, those that failed first."""
        entries = sorted(self._entries.values(), key=lambda entry: entry.state != "failed")
        width = max(len(entry.name) for entry in entries)
        return [
            f"{entry.name:<{width}}  {entry.state:<7}  {f'step {entry.step}' if entry.step else '':<10}  "
            f"{entry.error or entry.token}".rstrip()
            for entry in entries
        ]

    def entries(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """What has become of some concepts, as JSON has it."""
        return [dataclasses.asdict(self._entries[name]) for name in names]

    def settle(self, parts: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Takes what has become of the concepts of each host at the end, and writes the file for good."""
        for entry in (entry for part in parts for entry in part):
            self._entries[entry["name"]] = Entry(**entry)
        if self._host == 0:
            self._remove_parts()
            self._write_all()

    def write(self) -> None:
        """Writes `concepts.json` and the page, or this host's part of the former.

        A failure of the page is said once, and ends nothing.

        Raises:
          OSError: the folder cannot be written.
        """
        if self._host == 0:
            self._read_others()
            self._write_all()
        else:
            self._write(self._file_of(self._host), self._told)

    def _write_all(self) -> None:
        self._write(self.path, self._entries)
        try:
            self._index.write(list(self._entries.values()))
        except Exception as error:  # a page beside the run ends nothing
            found = getattr(error, "strerror", None) or str(error)
            if found != self._said:
                warn(f"{self.page} is not written: {found}")
            self._said = found

    def _write(self, path: Path, names: Collection[str]) -> None:
        write_entries(path, [entry for name, entry in self._entries.items() if name in names])

    def _read_others(self) -> None:
        """Takes what other hosts have written up to now, where they share the folder."""
        for path in self._parts():
            with contextlib.suppress(DataError):  # written again soon
                for entry in read_entries(path.parent, path.name):
                    if entry.name in self._entries and entry.name not in self._told:
                        self._entries[entry.name] = entry

    def _parts(self) -> Iterator[Path]:
        return self.path.parent.glob(self._file_of("*").name)

    def _remove_parts(self) -> None:
        for path in self._parts():
            path.unlink(missing_ok=True)

    def _file_of(self, host: int | str) -> Path:
        return self.path.with_name(f"{self.path.stem}-host-{host}{self.path.suffix}")
