"""What the evaluations of a run say in words, for its own page and for that of many concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ti_flax.console.messages import warn
from ti_flax.monitoring.evaluation import TABLE
from ti_flax.monitoring.report.files import read_inside
from ti_flax.monitoring.row_statistics import (
    LARGEST_TABLE,
    Evaluation,
    best_of,
    flags,
    gained,
    parse_evaluations,
)


@dataclass(frozen=True)
class Verdict:
    """What a table of evaluations says.

    Attributes:
      first: the evaluation that the others are compared with.
      last: the latest.
      best: that with the smallest validation loss, of those that let the rest of a prompt be heard.
      has_learned: whether the best is better than the first.
      flags: what went wrong, each with the step from which on it holds.
    """

    first: Evaluation
    last: Evaluation
    best: Evaluation
    has_learned: bool
    flags: list[tuple[int, str]]

    @property
    def nothing_learned(self) -> str:
        """The sentence for a run that learned nothing; empty for one that did."""
        if self.has_learned:
            return ""
        return f"No evaluation was better than that of step {self.first.step}: it has learned nothing yet."

    @property
    def still_improving(self) -> str:
        """The sentence for a run that more steps may help; empty for others."""
        if self.flags or not self.has_learned or self.best is not self.last:
            return ""
        return "It was still improving at the end: more steps may help."


def verdict(table: Sequence[Evaluation]) -> Verdict | None:
    """What a table says; None where it has no finite validation loss after an update."""
    best = best_of(table)
    return None if best is None else Verdict(table[0], table[-1], best, gained(table), flags(table))


def complaints(table: Sequence[Evaluation]) -> list[str]:
    """What went wrong by a table, a sentence each; empty where nothing did, as far as it shows."""
    found = []
    if table and not np.isfinite(table[-1].validation_loss):
        found.append(f"The validation loss of step {table[-1].step} is not finite.")
    if (said := verdict(table)) is not None:
        found += [said.nothing_learned] if said.nothing_learned else []
        found += [f"Step {step}: {sentence}." for step, sentence in said.flags]
    return found


def evaluations(folder: Path, name: str = TABLE) -> list[Evaluation]:
    """The table of a run's evaluations; empty, after a warning, if it is another program's.

    Args:
      folder: of the run, or one that the run's is in.
      name: of the file, a path inside of the folder.
    """
    content = read_inside(folder, name, LARGEST_TABLE)
    try:
        return [] if content is None else parse_evaluations(content)
    except ValueError as error:
        warn(f"{folder / name} is left out of the page: {error}")
        return []
