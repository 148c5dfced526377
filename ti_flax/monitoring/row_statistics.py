"""What an evaluation tells about the rows, the table of all evaluations, and what it says in plain words."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ti_flax.embedding.learned_embeds import MOST_VECTORS_TOGETHER
from ti_flax.embedding.vocabulary import RowStatistics
from ti_flax.errors import OutputError, shortened
from ti_flax.files.atomic import atomic_write
from ti_flax.files.regular import read_regular

# Times the vocabulary's median norm from which on rows are out of its range. 29 embeddings that diffusers'
# script made for Stable Diffusion 1.x, where the median is about 0.39, have norms of 0.5 to 3.0, at most 8
# times it. The demo's concepts end below 3 times; <ruby> with a learning rate 50 times as large is beyond 10
# times at step 200, and then only 44 % of the images have the background that the prompt asks for.
OUT_OF_RANGE = 10.0
# The prompt sensitivity of the least heard context, relative to that at the start, below which a word drowns
# the rest of its prompt: the largest that calls less than a tenth of the good words of the demo's first ten
# concepts so, tested on ten others (docs/learning.md). What it is for larger models is not known.
DROWNS = 0.5
# The share of all that was gained below which a further gain does not count.
WORTH_HAVING = 0.05
# The share of all steps, the last, that has to bring nothing worth having before a table says so, and before
# a run that ends itself is done; and the fewest evaluations in it. Over the demo's held-out ten concepts, a
# third ends runs after 87 steps on average and a half after 99, with the same fidelity; a quarter ends them
# after 73, but ends a slow run before it has learned (docs/learning.md).
TOLD, DONE = 1 / 2, 1 / 3
EVALUATIONS_TO_TELL = 3
# The straightness between two evaluations, as a multiple of a random walk's (1 over the root of the steps),
# below which vectors of a fixed angle a step have arrived: they turn about one place. While the demo's
# held-out ten learn it is mostly 0.8 to 2; of a running mean that walks at random 0.6 (docs/learning.md).
WANDERS = 0.5
# The fewest steps between two evaluations that tell it: in less, a running mean of ten steps hardly moves.
STEPS_TO_TELL = 10
# What a table may have: bytes, evaluations, steps and vectors, of all words and two text encoders.
LARGEST_TABLE = 2**26
_MOST_EVALUATIONS, _MOST_STEPS, _MOST_VECTORS = 100_000, 2**31, 2 * MOST_VECTORS_TOGETHER
# Names of vectors, as `measure_rows` gives them.
_VECTOR = re.compile(r"(?:(?P<word>[\w-]{1,255})\.)?(?P<number>[1-9][0-9]?)(?:_(?P<encoder>text_encoder_2))?")
_OF_EVALUATION = ("step", "validation_loss", "loss", "grad_norm", "prompt_sensitivity", "straightness")
_OF_ROW = ("norm", "norm_to_median", "norm_percentile", "cosine_to_start", "nearest_words")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
      step: updates made before it.
      validation_loss: over the fixed set.
      loss: training loss, its mean over the updates since the last evaluation; None before the first.
      grad_norm: like it, of the gradient's norm.
      rows: of each of the concept's vectors, by their names as `measure_rows` gives them.
      prompt_sensitivity: how strongly predictions answer to the rest of a prompt, as a multiple of what they
        did at the start; the least of all words and contexts. None if it was not measured.
      straightness: how far the vectors have turned since the last evaluation, as a share of all that they
        turned on the way; the largest of all vectors. None where steps have no fixed length.
    """

    step: int
    validation_loss: float
    loss: float | None
    grad_norm: float | None
    rows: dict[str, RowStatistics]
    prompt_sensitivity: float | None = None
    straightness: float | None = None

    @property
    def drowns(self) -> bool:
        """Whether the word overpowers the rest of its prompt, as far as that was measured."""
        return self.prompt_sensitivity is not None and not self.prompt_sensitivity >= DROWNS

    @property
    def may_be_best(self) -> bool:
        """Whether it is of learned rows, and what orders it is a number."""
        return self.step > 0 and bool(np.isfinite(self.rank[1]))

    @property
    def rank(self) -> tuple[bool, float]:
        """What orders evaluations, the best first.

        Those that let the prompt be heard, by their validation loss; then those that drown it, by how much.
        """
        heard = self.prompt_sensitivity
        return (True, -heard) if heard is not None and self.drowns else (False, self.validation_loss)


class VectorName(NamedTuple):
    """What the name of a vector says, as `measure_rows` gives it.

    Attributes:
      word: as files are named by it; empty where there is one word.
      number: among those of the word, from 1.
      encoder: empty for the first text encoder.
    """

    word: str
    number: int
    encoder: str

    @classmethod
    def of(cls, name: str) -> VectorName:
        """Reads a name.

        Raises:
          ValueError: it is none.
        """
        found = _VECTOR.fullmatch(name)
        if found is None:
            raise ValueError("no table of evaluations (a vector without a number)")
        return cls(found["word"] or "", int(found["number"]), found["encoder"] or "")


def write_evaluations(path: Path, table: Sequence[Evaluation]) -> None:
    """Writes the table as CSV, in one rename: whoever reads it finds all of it or what was there before.

    Raises:
      OutputError: the file cannot be written.
    """
    vectors = table[0].rows if table else ()
    head = [*_OF_EVALUATION, *(f"{column}_{vector}" for vector in vectors for column in _OF_ROW)]
    try:
        with atomic_write(path) as file:
            file.write(_lines([head, *map(_columns, table)]))
    except OSError as error:
        raise OutputError(path, expected="a file that can be written", found=str(error)) from error


def append_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Writes the line of an evaluation behind the others of its table.

    A kill may cut the line short: readers leave out what has no end.

    Raises:
      OutputError: there is no such file, or it cannot be written; part of the line may be in it.
    """
    try:
        with path.open("r+b") as file:
            file.seek(0, io.SEEK_END)
            file.write(_lines([_columns(evaluation)]))
    except OSError as error:
        raise OutputError(path, expected="a file that can be written", found=str(error)) from error


def _columns(evaluation: Evaluation) -> list[str]:
    rows = [_text(getattr(row, column)) for row in evaluation.rows.values() for column in _OF_ROW]
    return [*(_text(getattr(evaluation, name)) for name in _OF_EVALUATION), *rows]


def _lines(table: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue().encode()


def read_evaluations(path: Path) -> list[Evaluation]:
    """The table that a run wrote; empty where there is none, or one of another program."""
    try:
        return parse_evaluations(read_regular(path, LARGEST_TABLE))
    except (OSError, ValueError):
        return []


def parse_evaluations(content: bytes) -> list[Evaluation]:
    """The table in the bytes of a file, without a last line that a kill cut short.

    Raises:
      ValueError: it is another program's.
    """
    whole = content[: content.rfind(b"\n") + 1]
    lines = csv.DictReader(io.StringIO(whole.decode(), newline=""))
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
    marked = f"{_OF_ROW[-1]}_"
    vectors = [column.removeprefix(marked) for column in line if str(column).startswith(marked)]
    for vector in vectors:
        VectorName.of(vector)
    rows = {vector: _row_signals(*(line[f"{column}_{vector}"] for column in _OF_ROW)) for vector in vectors}
    step = int(line["step"])
    if not 0 <= step < _MOST_STEPS:
        raise ValueError("a step that no run reaches")
    return Evaluation(
        step=step,
        validation_loss=float(line["validation_loss"]),
        loss=_number(line["loss"]),
        grad_norm=_number(line["grad_norm"]),
        rows=rows,
        prompt_sensitivity=_number(line.get("prompt_sensitivity", "")),  # older tables have neither
        straightness=_number(line.get("straightness", "")),
    )


def _number(text: str) -> float | None:
    return float(text) if text else None


def _row_signals(norm: str, to_median: str, percentile: str, cosine: str, nearest: str) -> RowStatistics:
    return RowStatistics(float(norm), float(to_median), float(percentile), float(cosine), nearest)


def best_of(table: Sequence[Evaluation]) -> Evaluation | None:
    """The best evaluation after at least one update, by its rank."""
    return min((each for each in table if each.may_be_best), key=lambda each: each.rank, default=None)


def gained(table: Sequence[Evaluation]) -> bool:
    """Whether an evaluation was better than the first, by as much as four digits after the point show."""
    best = best_of(table)
    return best is not None and round(best.validation_loss, 4) < round(table[0].validation_loss, 4)


class GainCounter:
    """Counts the evaluations since the last that was better than the best before it.

    One that drowns its prompt is never better.
    """

    def __init__(self, threshold: float):
        """Takes by how much the loss has to fall to count as better, as in transformers."""
        self._threshold, self._best, self.since = threshold, float("inf"), 0

    def add(self, each: Evaluation) -> None:
        """Takes the next evaluation; one before any update does not count."""
        if each.step == 0:
            return
        if each.validation_loss < self._best - self._threshold and not each.drowns:
            self._best, self.since = each.validation_loss, 0
        else:
            self.since += 1


class Flags:
    """What evaluations say in plain words; it takes them one by one, in constant time on average.

    Attributes:
      over: whether more steps bring nothing: the last have not, the vectors have arrived, or the prompt is
        drowned twice running.
    """

    def __init__(self):
        self.over = False
        self._table: list[tuple[int, float]] = []
        self._least, self._first_good = float("inf"), 0
        self._finite, self._told = True, False
        self._out: set[str] = set()  # words that have left the range
        self._best: Evaluation | None = None
        self._drowns, self._drowned_before = False, False

    def add(self, each: Evaluation) -> list[tuple[int, str]]:
        """What holds from this evaluation on, each once in a run: its step, and a sentence."""
        found = []
        self._take(each)
        self.over |= self._stands(DONE) or self._wanders(each)
        if not self._told and self._stands(TOLD):
            found.append((each.step, f"no longer improving since step {self._good_since}"))
            self._told = True
        if each.step > 0 and each.prompt_sensitivity is not None:
            found += self._drowned(each)
        elif each.step > 0:
            long = (name for name, row in each.rows.items() if row.norm_to_median >= OUT_OF_RANGE)
            left = dict.fromkeys(VectorName.of(name).word for name in long)
            for word in (word for word in left if word not in self._out):
                rows = f"the rows of {word}" if word else "the rows"
                sentence = f"{rows} have left the range of known words: over-training is likely"
                found.append((each.step, sentence))
                self._out.add(word)
        return found

    def _drowned(self, each: Evaluation) -> list[tuple[int, str]]:
        """That the rest of the prompt is drowned from this step on, the first time that it is so."""
        self.over |= each.drowns and self._drowned_before
        self._drowned_before = each.drowns
        if not each.drowns:
            self._best = best_of([each] if self._best is None else [self._best, each])
            return []
        if self._drowns:
            return []
        self._drowns = True
        remedy = "lower learning_rate" if self._best is None else f"use step {self._best.step}"
        return [(each.step, f"the concept overpowers the rest of the prompt: {remedy}")]

    def _take(self, each: Evaluation) -> None:
        """Notes how good the validation loss is, beside the best so far."""
        self._finite &= bool(np.isfinite(each.validation_loss))
        if not self._finite:
            return
        self._table.append((each.step, each.validation_loss))
        self._least = min(self._least, each.validation_loss)
        good = self._least + WORTH_HAVING * (self._table[0][1] - self._least)
        # What is good only falls, so the first that is as good only moves on.
        while self._table[self._first_good][1] > good:
            self._first_good += 1

    @property
    def _good_since(self) -> int:
        """The first step as good as the best so far, but for what is not worth having."""
        return self._table[self._first_good][0]

    def _stands(self, share: float) -> bool:
        """Whether the last share of the steps brought nothing worth having."""
        if not self._finite:
            return False
        others, last = len(self._table) - 1 - self._first_good, self._table[-1][0]
        return others >= EVALUATIONS_TO_TELL and last - self._good_since >= share * last

    def _wanders(self, each: Evaluation) -> bool:
        """Whether the vectors turn about one place, less straight than a random walk by far."""
        if each.straightness is None or len(self._table) < 2 or not self._finite:
            return False
        steps = each.step - self._table[-2][0]
        return steps >= STEPS_TO_TELL and each.straightness * steps**0.5 < WANDERS


def flags(table: Sequence[Evaluation]) -> list[tuple[int, str]]:
    """What the table says in plain words, each once: the step at which it began to hold, and a sentence."""
    told = Flags()
    return [found for each in table for found in told.add(each)]
