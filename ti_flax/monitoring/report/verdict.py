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
    DROWNS,
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
      drowns_from: the step from which on the rest of a prompt is drowned; None if it is heard all along.
      least_heard: the least prompt sensitivity after an update; None if it was not measured.
      count: evaluations after an update.
    """

    first: Evaluation
    last: Evaluation
    best: Evaluation
    has_learned: bool
    flags: list[tuple[int, str]]
    drowns_from: int | None
    least_heard: float | None
    count: int

    @property
    def nothing_learned(self) -> str:
        """The sentence for a run that learned nothing; empty for one that did."""
        if self.has_learned:
            return ""
        return f"No evaluation was better than that of step {self.first.step}: it has learned nothing yet."

    @property
    def is_over_trained(self) -> bool:
        """Whether the word drowns the rest of a prompt at any evaluation."""
        return self.drowns_from is not None

    @property
    def is_good(self) -> bool:
        """Whether it has learned, and no evaluation shows or suggests over-training."""
        suggested = any("over-training" in sentence for _, sentence in self.flags)
        finite = bool(np.isfinite(self.last.validation_loss))
        return self.has_learned and finite and not self.is_over_trained and not suggested

    def headline(self, finished: bool) -> str:
        """What to do about it, in a sentence; of a run that goes on, what holds so far."""
        if not np.isfinite(self.last.validation_loss):
            return f"The validation loss of step {self.last.step} is not finite."
        if self.best.drowns:
            return f"Every evaluation from step {self.drowns_from} on is over-trained: lower learning_rate."
        if not self.has_learned:
            return self.nothing_learned
        if self.is_over_trained:
            return f"Use step {self.best.step}: from step {self.drowns_from} on it is over-trained."
        step = self.best.step
        if not finished:
            return (
                f"So far step {step}{', the last evaluation,' if self.best is self.last else ''} is the best."
            )
        if self.best is self.last:
            return f"Use step {step}, the last: it is the best."
        return f"Use step {step}: it is the best of {self.count} evaluations."

    @property
    def over_training(self) -> str:
        """Whether it is over-trained, and how that shows."""
        flagged = [
            f"Step {step}: {sentence}." for step, sentence in self.flags if "over-training" in sentence
        ]
        if flagged:
            return flagged[0]
        if self.least_heard is None:
            return "Not measured: these evaluations have no prompt sensitivity."
        least = f"the least prompt sensitivity was {self.least_heard:.2f}"
        if self.is_over_trained:
            return (
                f"From step {self.drowns_from} on the concept overpowers the rest of the prompt: {least}, "
                f"below the limit of {DROWNS:g}."
            )
        return f"No sign of it: {least}; below {DROWNS:g} the concept overpowers the rest of the prompt."

    def more_steps(self, finished: bool) -> str:
        """What the evaluations say about more steps; empty where they say nothing, or the headline does."""
        over = [sentence for _, sentence in self.flags if sentence.startswith("no longer improving")]
        if self.is_over_trained:
            return ""
        if over:
            return f"{over[0][0].upper()}{over[0][1:]}: more steps bring nothing."
        return self.still_improving if finished else ""

    @property
    def still_improving(self) -> str:
        """The sentence for a run that more steps may help; empty for others."""
        if self.flags or not self.has_learned or self.best is not self.last:
            return ""
        return "It was still improving at the end: more steps may help."


def verdict(table: Sequence[Evaluation]) -> Verdict | None:
    """What a table says; None where it has no finite validation loss after an update."""
    best = best_of(table)
    if best is None:
        return None
    after = [each for each in table if each.step > 0]
    heard = [each.prompt_sensitivity for each in after if each.prompt_sensitivity is not None]
    return Verdict(
        first=table[0],
        last=table[-1],
        best=best,
        has_learned=gained(table),
        flags=flags(table),
        drowns_from=next((each.step for each in after if each.drowns), None),
        least_heard=min(heard, default=None),
        count=len(after),
    )


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
