"""What happens at every evaluation: signals.csv, the best rows, plain words, and whether to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ti_flax.console.messages import say
from ti_flax.embedding.file_names import second_half
from ti_flax.embedding.learned_embeds import save_in_one_file
from ti_flax.embedding.read import read_embeddings
from ti_flax.embedding.rows import angles_between, before, concept_rows, rows_of_words
from ti_flax.embedding.vocabulary import Vocabulary, measure_rows
from ti_flax.errors import WeightsError
from ti_flax.files.written_files import record
from ti_flax.monitoring.row_statistics import (
    Evaluation,
    Flags,
    GainCounter,
    append_evaluation,
    best_of,
    flags,
    gained,
    read_evaluations,
    write_evaluations,
)
from ti_flax.monitoring.trackers import Tracker
from ti_flax.training.loop import Chunk, Hook
from ti_flax.training.state import TrainState

TABLE = "signals.csv"
BEST = "learned_embeds-best.safetensors"
# Behind the rank of every evaluation.
UNRANKED = (True, np.inf)
# Evaluations without gain that end a run where early_stopping says no number.
PATIENCE = 5


@dataclass(frozen=True)
class Patience:
    """When a run that no longer improves is stopped.

    Attributes:
      evaluations: so many without a better validation loss end it.
      threshold: by how much a loss has to be smaller to count as better.
    """

    evaluations: int
    threshold: float = 0.0


class Evaluate(Hook):
    """The validation loss and the signals of the rows every so many steps, as a row of `signals.csv`."""

    def __init__(
        self,
        output_dir: Path,
        vectors: Mapping[str, int],
        *,
        every: int,
        last_step: int,
        loss: Callable[[Mapping[str, np.ndarray]], float],
        sensitivity: Callable[[Mapping[str, np.ndarray]], np.ndarray],
        result: Callable[[TrainState], Mapping[str, np.ndarray]],
        start_rows: Mapping[str, np.ndarray],
        vocabularies: Mapping[str, Vocabulary],
        patience: Patience | None = None,
        until_done: bool = False,
        path: Callable[[int, int], float] | None = None,
        evaluated_before: Callable[[int], dict[str, np.ndarray] | None] = lambda step: None,
        trackers: Sequence[Tracker] = (),
        ready: Callable[[], bool] = lambda: True,
    ):
        """Takes, besides where and when, what measures rows and what makes them from a state.

        Args:
          output_dir: where the table and the best rows go.
          vectors: how many of the rows, from the first, are each word's.
          every: steps between two evaluations.
          last_step: of the run.
          loss: from rows `[added_tokens, width]` by text encoder to their validation loss.
          sensitivity: from such rows to the prompt sensitivity of each word and context, `[words, contexts]`.
          result: from a state on the host to such rows.
          start_rows: such rows, float32, before the first update.
          vocabularies: to measure rows against, by text encoder.
          patience: when to stop; None: never.
          until_done: stop when more steps bring nothing.
          path: from two numbers of steps to the angle in radians by which each vector turns in all between
            them; None where updates have no fixed angle.
          evaluated_before: from the step that the run goes on from to the rows of the last evaluation before.
          trackers: that are told as well.
          ready: whether both can be called without waiting; before that, updates go on.
        """
        self.every, self._last_step = every, last_step
        self._path, self._best_path = output_dir / TABLE, output_dir / BEST
        self._loss, self._sensitivity, self._result = loss, sensitivity, result
        self._sensitivity_at_start: np.ndarray | None = None
        self._start_rows, self._vectors, self._vocabularies = start_rows, vectors, vocabularies
        self._path_between, self._evaluated_before = path, evaluated_before
        self._ready, self._put_off = ready, False
        self._trackers = trackers
        self._until_done = until_done
        self._patience = None if patience is None else patience.evaluations
        self._gain = GainCounter(0.0 if patience is None else patience.threshold)
        self._flags = Flags()
        self._unsaid: list[tuple[int, str]] = []
        self._table: list[Evaluation] = []
        self._measured: list[tuple[np.ndarray, np.ndarray]] = []
        self._best, self._written = UNRANKED, 0
        # The rows of the last evaluation, where straightness is measured.
        self.evaluated: dict[str, np.ndarray] | None = None
        second = (second_half(self._best_path).name,)
        record(output_dir, TABLE, BEST, *(second if len(vectors) > 1 and len(before(start_rows)) > 1 else ()))

    def on_start(self, step: int, state: TrainState) -> None:
        kept = read_evaluations(self._path) if step else []
        for each in kept:
            if each.step <= step:
                self._take(each)
        if self._table and self._path_between is not None:
            self.evaluated = self._evaluated_before(step)
        self._unsaid.clear()  # it was said by the run that is gone on with
        self.stop = self._until_done and self._flags.over  # and killed before the result was written
        self._best = best_kept(self._best_path, self._table, step)
        if self._table:
            self._write()
        else:
            self._put_off = True  # until the first updates are made

    def settle(self) -> None:
        if self._put_off:
            self._put_off = False
            self._evaluate(0, self._start_rows, None, None)

    def on_metrics(self, chunk: Chunk) -> None:
        if self._put_off and self._ready():
            self.settle()
        if chunk.finite.any():
            self._measured.append((chunk.loss[chunk.finite], chunk.grad_norm[chunk.finite]))

    def on_step(self, step: int, state: TrainState) -> None:
        if self._table and self._table[-1].step == step:
            return
        self.settle()
        means = [float(np.concatenate(column).mean()) for column in zip(*self._measured, strict=True)]
        loss, grad_norm = means or (None, None)
        self._measured.clear()
        self._evaluate(step, self._result(state), loss, grad_norm)
        if step < self._last_step and (end := self._end()):
            self.stop = True
            say(f"step {step}: {end}")

    def _end(self) -> str:
        """Why the run ends, in words; empty if it goes on."""
        done = self._until_done and self._flags.over
        waited = self._patience is not None and self._gain.since >= self._patience
        if not (done or waited):
            return ""
        best = best_of(self._table)
        than = f"no step was better than step {best.step if best else 0}"
        if done:
            return f"the run is done: {than}"
        return (
            f"early_stopping ends the run: {than}; resume_from_checkpoint auto with a larger "
            "early_stopping_patience goes on"
        )

    def _evaluate(
        self, step: int, rows: Mapping[str, np.ndarray], loss: float | None, grad_norm: float | None
    ) -> None:
        """Adds the evaluation of rows, with the means of training loss and gradient norm before it."""
        count = sum(self._vectors.values())
        learned, start = (concept_rows(each, count) for each in (rows, self._start_rows))
        signals = measure_rows(self._vocabularies, learned, start, self._vectors)
        heard, straightness = self._heard(rows), self._straightness(step, learned)
        self._take(Evaluation(step, self._loss(rows), loss, grad_norm, signals, heard, straightness))
        self._write()
        self._keep_best(learned)
        self._tell()

    def _heard(self, rows: Mapping[str, np.ndarray]) -> float:
        """How well the least heard context of all words is heard, as a multiple of the start."""
        measured = self._sensitivity(rows)
        if self._sensitivity_at_start is None:
            at_first = rows is self._start_rows
            self._sensitivity_at_start = measured if at_first else self._sensitivity(self._start_rows)
        return float(np.min(measured / self._sensitivity_at_start))

    def _straightness(self, step: int, learned: Mapping[str, np.ndarray]) -> float | None:
        """How straight the vectors came from the last evaluation; None where that is not known."""
        if self._path_between is None:
            return None
        last, self.evaluated = self.evaluated, before(learned)
        if last is None or not self._table:
            return None
        angles = [np.max(angles_between(learned[encoder], each)) for encoder, each in last.items()]
        return float(max(angles)) / self._path_between(self._table[-1].step, step)

    def _take(self, evaluation: Evaluation) -> None:
        self._table.append(evaluation)
        self._gain.add(evaluation)
        self._unsaid += self._flags.add(evaluation)

    def _write(self) -> None:
        """Brings the file to the table: by a line, or as a whole where more is missing or a write failed."""
        if self._written and self._written == len(self._table) - 1:
            append_evaluation(self._path, self._table[-1])
        else:
            write_evaluations(self._path, self._table)
        self._written = len(self._table)

    def _keep_best(self, learned: Mapping[str, np.ndarray]) -> None:
        last = self._table[-1]
        if not (last.may_be_best and last.rank < self._best):
            return
        self._best = last.rank
        details = {"step": str(last.step), "validation_loss": f"{last.validation_loss:.9g}"}
        save_in_one_file(self._best_path, rows_of_words(learned, self._vectors), details=details)

    def _tell(self) -> None:
        last = self._table[-1]
        values = {"validation_loss": last.validation_loss}
        if last.prompt_sensitivity is not None:
            values["prompt_sensitivity"] = last.prompt_sensitivity
        if last.straightness is not None:
            values["straightness"] = last.straightness
        for vector, row in last.rows.items():
            name = vector.replace(".", "/")
            values[f"norm_to_median/{name}"] = row.norm_to_median
            values[f"cosine_to_start/{name}"] = row.cosine_to_start
        for tracker in self._trackers:
            tracker.scalars(values, last.step)
        for step, sentence in self._unsaid:
            say(f"step {step}: {sentence}")
        self._unsaid.clear()


def best_kept(path: Path, table: Sequence[Evaluation], step: int) -> tuple[bool, float]:
    """The rank of the best rows so far that a run goes on from; behind all others if they are not there.

    Rows of a step that the run has gone back behind do not count: it comes there again.
    """
    try:
        kept = int(read_embeddings(path)[0].details["step"])
    except (WeightsError, KeyError, ValueError):
        return UNRANKED
    best = best_of(table)
    return best.rank if best is not None and best.step == kept <= step else UNRANKED


def with_best(
    rows: Mapping[str, np.ndarray], output_dir: Path, words: Iterable[str] = ()
) -> tuple[dict[str, np.ndarray], int]:
    """Puts the best rows in place of the concept's own.

    Args:
      rows: `[added_tokens, width]` by text encoder.
      output_dir: where the best are.
      words: of the concept, in order; one word needs no name.

    Returns:
      The rows, and the step of the best.
    """
    found = read_embeddings(output_dir / BEST)
    named = {each.token: each for each in found}
    best = [named[word] for word in words] if len(found) > 1 else found
    count = sum(each.vectors for each in best)
    replaced = {
        encoder: np.concatenate([*(word.rows[encoder] for word in best), each[count:]])
        for encoder, each in before(rows).items()
    }
    return {**rows, **replaced}, int(best[0].details["step"])


def summary(output_dir: Path) -> list[str]:
    """What the evaluations of a run say, a sentence each; empty if there were none."""
    table = read_evaluations(output_dir / TABLE)
    best = best_of(table)
    if best is None:
        return []
    first, last = table[0], table[-1]
    line = (
        f"validation loss {first.validation_loss:.4f} at step {first.step}, "
        f"{last.validation_loss:.4f} at step {last.step}, "
    )
    if gained(table):
        line += f"best {best.validation_loss:.4f} at step {best.step} ({output_dir / BEST})"
    else:
        line += f"never better than at step {first.step}"
    return [line] + [f"step {step}: {sentence}" for step, sentence in flags(table)]
