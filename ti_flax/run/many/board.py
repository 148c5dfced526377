"""What has become of each concept of a run: a table for people, and a file for whoever watches the run."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ti_flax.config import RunConfig
from ti_flax.files.atomic import write_text
from ti_flax.files.written_files import record

FILE = "concepts.json"


@dataclasses.dataclass
class Entry:
    """One concept.

    Attributes:
      name: of its folder.
      token: its word.
      state: waiting, running, done or failed.
      step: updates it has made, as far as this file is up to date.
      steps: that it is to make; None until its images are counted.
      error: why it failed.
    """

    name: str
    token: str
    state: str = "waiting"
    step: int = 0
    steps: int | None = None
    error: str = ""


class Board:
    """The concepts of a run in the order of the list."""

    def __init__(self, output_dir: Path, concepts: Sequence[tuple[str, RunConfig]]):
        self.path = output_dir / FILE
        self._entries = {
            name: Entry(name, " and ".join(config.concept.words), steps=config.training.max_train_steps)
            for name, config in concepts
        }

    def done_before(self, name: str) -> None:
        """Notes that an earlier run has finished a concept."""
        entry = self._entries[name]
        entry.state, entry.step = "done", entry.steps or 0

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
        """Writes `concepts.json`.

        Raises:
          OSError: the folder cannot be written.
        """
        record(self.path.parent, self.path.name)
        entries = [dataclasses.asdict(entry) for entry in self._entries.values()]
        write_text(self.path, json.dumps({"concepts": entries}, indent=1, ensure_ascii=False))
