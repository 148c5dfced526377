"""What happens beside the updates: metrics, checkpoints, learned_embeds, previews."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from ti_flax.console.messages import say, warn
from ti_flax.embedding.learned_embeds import WordRows, save_words
from ti_flax.errors import OutputError, TrainingError, in_short
from ti_flax.files.atomic import write_text
from ti_flax.files.regular import open_regular
from ti_flax.files.written_files import record
from ti_flax.monitoring.trackers import Tracker
from ti_flax.training.checkpoint import Checkpoint, checkpoint_steps, optimizer_leaves, save_checkpoint
from ti_flax.training.loop import Chunk, Hook
from ti_flax.training.state import TrainState

# From a state on the host to the rows to use, `[added_tokens, width]` float32 by text encoder.
Result = Callable[[TrainState], Mapping[str, np.ndarray]]

# Updates in a row that are skipped where no limit is given: none of them would have changed anything.
MOST_SKIPPED_IN_A_ROW = 10
METRICS = ("step", "loss", "learning_rate", "grad_norm", "samples_per_second")
# Columns that have another name as curves.
CURVES = {"learning_rate": "lr"}


class NonFatalHook(Hook):
    """A hook whose failures are said and end nothing; it is tried again the next time."""

    def __init__(self, name: str, hook: Hook):
        """Takes what the hook makes, as people call it, and the hook."""
        self.every = hook.every
        self._name, self._hook, self._said = name, hook, ""

    def on_start(self, step: int, state: TrainState) -> None:
        self._try(step, lambda: self._hook.on_start(step, state))

    def on_metrics(self, chunk: Chunk) -> None:
        self._try(chunk.last_step, lambda: self._hook.on_metrics(chunk))

    def settle(self) -> None:
        self._try(0, self._hook.settle)

    def on_step(self, step: int, state: TrainState) -> None:
        self._try(step, lambda: self._hook.on_step(step, state))

    def on_interrupt(self, step: int, state: TrainState) -> None:
        self._try(step, lambda: self._hook.on_interrupt(step, state))

    def close(self, finished: bool) -> None:
        self._try(0, lambda: self._hook.close(finished))

    def _try(self, step: int, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # anything at all, from a full disk to a device without memory
            found = in_short(error)
            if found != self._said:
                warn(f"step {step}: {self._name} failed, and training goes on: {found}")
            self._said = found
        self.stop, self.wants_state = self._hook.stop, self._hook.wants_state


class StopWhenNotFinite(Hook):
    """Ends the run when a loss, gradient or row is not finite, before a checkpoint could be made of it."""

    def __init__(self, learning_rate: Callable[[int], float], output_dir: Path):
        self._learning_rate = learning_rate
        self._output_dir = output_dir

    def on_metrics(self, chunk: Chunk) -> None:
        wrong = np.flatnonzero(~chunk.finite)
        if wrong.size:
            self._end(chunk, int(wrong[0]))

    def _end(self, chunk: Chunk, index: int) -> NoReturn:
        step = chunk.first_step + index
        steps = checkpoint_steps(self._output_dir)
        last = f"checkpoint-{steps[-1]} is the last one before" if steps else "there is no checkpoint before"
        raise TrainingError(
            f"step {step}",
            expected="finite numbers",
            found=f"{_numbers(chunk, index)} at learning rate {self._learning_rate(step - 1):.3g}",
            remedy=f"Lower learning_rate or set max_grad_norm; {last}.",
        )


class SkipNotFinite(StopWhenNotFinite):
    """Counts the updates that were skipped because they were not finite; too many in a row end the run."""

    def __init__(self, learning_rate: Callable[[int], float], output_dir: Path, *, limit: int):
        super().__init__(learning_rate, output_dir)
        self._limit, self._in_a_row, self._skipped, self._steps = limit, 0, 0, 0

    def on_metrics(self, chunk: Chunk) -> None:
        wrong = np.flatnonzero(~chunk.finite)
        self._steps += len(chunk.finite)
        self._skipped += len(wrong)
        if wrong.size:
            count = "an update" if len(wrong) == 1 else f"{len(wrong)} updates"
            what = _numbers(chunk, int(wrong[0]))
            warn(f"step {chunk.first_step + wrong[0]}: {what}; {count} skipped, {self._skipped} so far")
        for index, finite in enumerate(chunk.finite):
            self._in_a_row = 0 if finite else self._in_a_row + 1
            if self._in_a_row >= self._limit:
                self._end(chunk, index)

    def close(self, finished: bool) -> None:
        if self._skipped:
            say(f"{self._skipped} of {self._steps} updates were skipped because they were not finite")


def _numbers(chunk: Chunk, index: int) -> str:
    found = f"loss {chunk.loss[index]:.4g}, gradient norm {chunk.grad_norm[index]:.4g}"
    whole = np.isfinite(chunk.loss[index]) and np.isfinite(chunk.grad_norm[index])
    return f"{found}, vectors that are not finite after it" if whole else found


class Profile(Hook):
    """A trace of what the devices do in the calls after the first one, which warms up."""

    def __init__(self, folder: Path, *, calls: int = 2):
        self._folder, self._calls, self._seen, self._first = folder, calls, 0, 0

    def on_metrics(self, chunk: Chunk) -> None:
        from jax import profiler

        self._seen += 1
        if self._seen == 1:
            self._first = chunk.last_step + 1
            profiler.start_trace(self._folder, create_perfetto_trace=True)
        elif self._seen == 1 + self._calls:
            profiler.stop_trace()
            say(f"trace of steps {self._first} to {chunk.last_step}: {self._folder}")

    def on_step(self, step: int, state: TrainState) -> None:
        from jax import profiler

        if self._seen <= self._calls:  # the run is over before the trace is
            profiler.stop_trace()
            what = f"trace of steps {self._first} to {step}" if step >= self._first else "empty trace"
            say(f"{what}: {self._folder}; a longer run, or a smaller steps_per_call, would show more")


class Metrics(Hook):
    """`metrics.csv` and the trackers' curves; a resumed run goes on below the step it starts from.

    There is a point at every multiple of `log_every` and after the last step: the means of loss and gradient
    norm over the steps since the point before that were finite, and the learning rate of the step itself.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: int,
        samples: int,
        learning_rate: Callable[[int], float],
        log_every: int = 1,
        trackers: Sequence[Tracker] = (),
    ):
        self._path, self._samples, self._learning_rate = path, samples, learning_rate
        self._log_every, self._trackers = log_every, trackers
        self._loss: list[float] = []
        self._grad_norm: list[float] = []
        self._rate = 0.0
        try:
            kept = _rows_until(path, start)
            text = io.StringIO(newline="")
            csv.writer(text).writerows([METRICS, *kept])
            record(path.parent, path.name)
            write_text(path, text.getvalue())  # in place of a link of the name, not through it
        except OSError as error:
            raise OutputError(path, expected="a file that can be written", found=str(error)) from error

    def on_metrics(self, chunk: Chunk) -> None:
        self._rate = len(chunk.loss) * self._samples / chunk.seconds
        points = []
        for i, (loss, norm) in enumerate(zip(chunk.loss, chunk.grad_norm, strict=True)):
            if chunk.finite[i]:
                self._loss.append(float(loss))
                self._grad_norm.append(float(norm))
            if (chunk.first_step + i) % self._log_every == 0:
                points.append(self._point(chunk.first_step + i))
        self._write(points)

    def on_step(self, step: int, state: TrainState) -> None:
        if self._loss:
            self._write([self._point(step)])

    def _point(self, step: int) -> dict[str, float]:
        count = len(self._loss)
        means = [sum(values) / count if count else math.nan for values in (self._loss, self._grad_norm)]
        self._loss.clear()
        self._grad_norm.clear()
        values = (step, means[0], self._learning_rate(step - 1), means[1], self._rate)
        return dict(zip(METRICS, values, strict=True))

    def _write(self, points: Sequence[dict[str, float]]) -> None:
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            for point in points:
                step, *measures, rate = point.values()
                writer.writerow([step, *(f"{value:.6g}" for value in measures), f"{rate:.2f}"])
        for point in points:
            curves = {CURVES.get(name, name): value for name, value in point.items() if name != "step"}
            for tracker in self._trackers:
                tracker.scalars(curves, int(point["step"]))

    def close(self, finished: bool) -> None:
        for tracker in self._trackers:
            tracker.close()


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """Rows of an earlier run's metrics up to a step; a line cut short by a kill, or damaged, is dropped.

    Raises:
      OSError: it is no plain file.
    """
    if step == 0 or not path.exists():
        return []
    rows = []
    with open_regular(path) as file, io.TextIOWrapper(file, errors="replace", newline="") as lines:
        reader = csv.reader(lines)
        with contextlib.suppress(csv.Error):  # a field without an end; what is above it is kept
            rows += (row for row in reader if len(row) == len(METRICS) and row[0].isdecimal())
    return [row for row in rows if len(row[0]) < 19 and int(row[0]) <= step]


class SaveCheckpoint(Hook):
    """An orbax checkpoint every so many steps."""

    def __init__(
        self,
        output_dir: Path,
        *,
        every: int,
        total_limit: int | None,
        config: dict[str, Any],
        fingerprint: dict[str, str],
        evaluated: Callable[[], dict[str, np.ndarray] | None] = lambda: None,
    ):
        """Takes, besides what it writes every time, what gives the rows of the last evaluation."""
        self.every, self._evaluated = every, evaluated
        self._output_dir, self._total_limit = output_dir, total_limit
        self._config, self._fingerprint, self._saved = config, fingerprint, -1
        self._device = output_dir.stat().st_dev

    def on_step(self, step: int, state: TrainState) -> None:
        self._check_folder()
        leaves = optimizer_leaves(state.opt_state)
        rows, mean = jax.tree.map(np.asarray, (state.rows, state.mean_rows))
        belongs = self._config, self._fingerprint
        checkpoint = Checkpoint(rows, leaves, step, *belongs, mean_rows=mean, evaluated=self._evaluated())
        save_checkpoint(self._output_dir, checkpoint, total_limit=self._total_limit)
        self._saved = step

    def on_interrupt(self, step: int, state: TrainState) -> None:
        if step != self._saved:
            self.on_step(step, state)

    def _check_folder(self) -> None:
        """Refuses a folder that is no longer where it was, such as the place of a disk that is gone."""
        try:
            found = "" if self._output_dir.stat().st_dev == self._device else "another disk's"
        except OSError as error:
            found = (error.strerror or str(error)).lower()
        if found:
            raise OutputError(
                self._output_dir,
                expected="the folder that the run began in",
                found=found,
                remedy="Bring it back, then resume_from_checkpoint auto goes on from its newest checkpoint.",
            )


class SaveEmbeds(Hook):
    """`learned_embeds-steps-N.safetensors` every so many steps."""

    def __init__(self, output_dir: Path, *, every: int, result: Callable[[TrainState], WordRows]):
        """Takes, besides where and when, what gives the rows of each word, by text encoder."""
        self.every = self._interval = every
        self._output_dir, self._result = output_dir, result

    def on_step(self, step: int, state: TrainState) -> None:
        if step % self._interval == 0:  # not at the end, where learned_embeds is written
            self.on_interrupt(step, state)

    def on_interrupt(self, step: int, state: TrainState) -> None:
        path = self._output_dir / f"learned_embeds-steps-{step}.safetensors"
        record(self._output_dir, path.name)
        save_words(path, self._result(state))
