"""What has become of each concept of a run: a table and a page for people, and a file for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ti_flax.config import RunConfig
from ti_flax.console.messages import warn
from ti_flax.files.written_files import CONCEPTS, INDEX
from ti_flax.monitoring.report.concepts import Entry, write_entries
from ti_flax.monitoring.report.index_page import IndexPage


class Board:
    """The concepts of a run in the order of the list."""

    def __init__(self, output_dir: Path, concepts: Sequence[tuple[str, RunConfig]]):
        self.path, self.page = output_dir / CONCEPTS, output_dir / INDEX
        self._index, self._said = IndexPage(output_dir), ""
        self._entries = {
            name: Entry(name, config.concept.placeholder_token, steps=config.training.max_train_steps)
            for name, config in concepts
        }

    def begin(self, name: str, step: int, steps: int) -> None:
        """Notes that a concept learns from now on."""
        entry = self._entries[name]
        entry.state, entry.step, entry.steps = "running", step, steps

    def done(self, name: str, step: int) -> None:
        """Notes that the result of a concept, of this step, is written."""
        entry = self._entries[name]
        entry.state, entry.step = "done", step

    def fail(self, name: str, error: str) -> None:
        """Notes why a concept has no result."""
        entry = self._entries[name]
        entry.state, entry.error = "failed", error

    def counts(self) -> dict[str, int]:
        """How many concepts are in each state."""
        return dict(Counter(entry.state for entry in self._entries.values()))

    def updates(self) -> int | None:
        """Updates that all concepts that are not done have to make; None as long as some are unknown."""
        left = [entry for entry in self._entries.values() if entry.state in ("waiting", "running")]
        if any(entry.steps is None for entry in left):
            return None
        return sum((entry.steps or 0) - entry.step for entry in left)

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

    def write(self) -> None:
        """Writes `concepts.json`, and the page if it can be written: a failure of that is said once.

        Raises:
          OSError: the folder cannot be written.
        """
        entries = list(self._entries.values())
        write_entries(self.path.parent, entries)
        try:
            self._index.write(entries)
        except Exception as error:  # a page beside the run ends nothing
            found = getattr(error, "strerror", None) or str(error)
            if found != self._said:
                warn(f"{self.page} is not written: {found}")
            self._said = found
