"""What an evaluation tells about the rows, the table of all evaluations, and what it says in plain words."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ti_flax.embedding.vocabulary import RowStatistics
from ti_flax.errors import OutputError, shortened
from ti_flax.files.atomic import atomic_write
from ti_flax.files.regular import read_regular

# Times the vocabulary's median norm from which on rows are out of its range. 29 embeddings that diffusers'
# script made for Stable Diffusion 1.x, where the median is about 0.39, have norms of 0.5 to 3.0, at most 8
# times it. The demo's concepts end below 3 times; <ruby> with a learning rate 50 times as large is beyond 10
# times at step 200, and then only 44 % of the images have the background that the prompt asks for.
OUT_OF_RANGE = 10.0
# The share of all that was gained below which a further gain does not count, and over how many evaluations.
WORTH_HAVING = 0.05
EVALUATIONS_TO_TELL = 3
# What a table may have: bytes, evaluations, steps and vectors; a prompt has 77 tokens.
LARGEST_TABLE = 2**26
_MOST_EVALUATIONS, _MOST_STEPS, _MOST_VECTORS = 100_000, 2**31, 77
_OF_EVALUATION = ("step", "validation_loss", "loss", "grad_norm")
_OF_ROW = ("norm", "norm_to_median", "norm_percentile", "cosine_to_start", "nearest_words")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
      step: updates made before it.
      validation_loss: over the fixed set.
      loss: training loss, its mean over the updates since the last evaluation; None before the first.
      grad_norm: like it, of the gradient's norm.
      rows: of each of the concept's vectors.
    """

    step: int
    validation_loss: float
    loss: float | None
    grad_norm: float | None
    rows: tuple[RowStatistics, ...]


def write_evaluations(path: Path, table: Sequence[Evaluation]) -> None:
    """Writes the table as CSV, in one rename: whoever reads it finds all of it or what was there before.

    Raises:
      OutputError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    vectors = len(table[0].rows) if table else 0
    writer.writerow([*_OF_EVALUATION, *(f"{name}_{i + 1}" for i in range(vectors) for name in _OF_ROW)])
    for each in table:
        rows = [_text(getattr(row, name)) for row in each.rows for name in _OF_ROW]
        writer.writerow([*(_text(getattr(each, name)) for name in _OF_EVALUATION), *rows])
    try:
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        raise OutputError(path, expected="a file that can be written", found=str(error)) from error


def read_evaluations(path: Path) -> list[Evaluation]:
    """The table that a run wrote; empty where there is none, or one of another program."""
    try:
        return parse_evaluations(read_regular(path, LARGEST_TABLE))
    except (OSError, ValueError):
        return []


def parse_evaluations(content: bytes) -> list[Evaluation]:
    """The table in the bytes of a file.

    Raises:
      ValueError: it is another program's.
    """
    lines = csv.DictReader(io.StringIO(content.decode(), newline=""))
    table = []
    try:
        if len(lines.fieldnames or ()) > len(_OF_EVALUATION) + _MOST_VECTORS * len(_OF_ROW):
            raise ValueError("more columns than any concept has")
        for line in lines:
            table.append(_signals(line))
            if len(table) > _MOST_EVALUATIONS:
                raise ValueError(f"more than {_MOST_EVALUATIONS} evaluations")
    except (KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"no table of evaluations ({shortened(str(error), 100)})") from None
    return table


def _text(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    return "" if value is None else str(value)


def _signals(line: dict[str, str]) -> Evaluation:
    vectors = (len(line) - len(_OF_EVALUATION)) // len(_OF_ROW)
    rows = [[line[f"{name}_{i + 1}"] for name in _OF_ROW] for i in range(vectors)]
    step = int(line["step"])
    if not 0 <= step < _MOST_STEPS:
        raise ValueError("a step that no run reaches")
    return Evaluation(
        step=step,
        validation_loss=float(line["validation_loss"]),
        loss=float(line["loss"]) if line["loss"] else None,
        grad_norm=float(line["grad_norm"]) if line["grad_norm"] else None,
        rows=tuple(_row_signals(*row) for row in rows),
    )


def _row_signals(norm: str, to_median: str, percentile: str, cosine: str, nearest: str) -> RowStatistics:
    return RowStatistics(float(norm), float(to_median), float(percentile), float(cosine), nearest)


def best_of(table: Sequence[Evaluation]) -> Evaluation | None:
    """The evaluation with the smallest validation loss, of those after at least one update."""
    learned = [each for each in table if each.step > 0 and np.isfinite(each.validation_loss)]
    return min(learned, key=lambda each: each.validation_loss, default=None)


def gained(table: Sequence[Evaluation]) -> bool:
    """Whether an evaluation was better than the first, by as much as four digits after the point show."""
    best = best_of(table)
    return best is not None and round(best.validation_loss, 4) < round(table[0].validation_loss, 4)


def evaluations_without_gain(table: Sequence[Evaluation], threshold: float) -> int:
    """How many evaluations there were since the last that was better than the best before it.

    Args:
      table: in order of steps.
      threshold: by how much the loss has to fall to count as better, as in transformers.
    """
    best, since = float("inf"), 0
    for each in table:
        if each.step > 0:
            gained = each.validation_loss < best - threshold
            best, since = (each.validation_loss, 0) if gained else (best, since + 1)
    return since


def flags(table: Sequence[Evaluation]) -> list[tuple[int, str]]:
    """What the table says in plain words, each once: the step at which it began to hold, and a sentence."""
    found = []
    losses = np.asarray([each.validation_loss for each in table])
    for count in range(1, len(table) + 1):
        since = _no_gain_since(table, losses[:count])
        if since is not None:
            found.append((table[count - 1].step, f"no longer improving since step {since}"))
            break
    for each in table:
        longest = max((row.norm_to_median for row in each.rows), default=0.0)
        if each.step > 0 and longest >= OUT_OF_RANGE:
            sentence = "the rows have left the range of known words: over-training is likely"
            found.append((each.step, sentence))
            break
    return sorted(found)


def _no_gain_since(table: Sequence[Evaluation], losses: np.ndarray) -> int | None:
    """The first step as good as the best so far, if as many steps again brought nothing worth having."""
    if not np.isfinite(losses).all():
        return None
    good = losses.min() + WORTH_HAVING * (losses[0] - losses.min())
    first, last = int(np.argmax(losses <= good)), len(losses) - 1
    enough = last - first >= EVALUATIONS_TO_TELL and table[last].step >= 2 * table[first].step
    return table[first].step if enough else None
