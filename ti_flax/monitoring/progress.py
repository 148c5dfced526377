"""How far the updates are: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import jax

from ti_flax.console.messages import Stage, stage
from ti_flax.training.loop import Chunk, Hook
from ti_flax.training.state import TrainState

# Steps after which a loss counts half as much in the mean that is shown; single losses are noise.
_HALF_LIFE = 50


class Progress(Hook):
    """Step, smoothed loss, samples per second, memory, learning rate and the time left."""

    def __init__(self, start: int, total: int, *, samples: int, learning_rate: Callable[[int], float]):
        self._samples, self._learning_rate = samples, learning_rate
        self._sum = self._weight = 0.0
        self._start, self._total = start, total
        self._stage: Stage | None = None

    def on_start(self, step: int, state: TrainState) -> None:
        done = f"trained to step {self._total}"
        self._stage = stage("training", done=done, total=self._total, start=self._start)
        self._stage.__enter__()

    def on_metrics(self, chunk: Chunk) -> None:
        rate = len(chunk.loss) * self._samples / chunk.seconds
        parts = [f"loss {self._smoothed(chunk):.4f}", f"{rate:.1f} samples/s", memory_in_use()]
        parts.append(f"lr {self._learning_rate(chunk.last_step - 1):.2e}")
        if self._stage is not None:
            self._stage.advance(len(chunk.loss), [part for part in parts if part], seconds=chunk.seconds)

    def close(self, finished: bool) -> None:
        """Ends the display; only a run that is finished says how long it took."""
        if self._stage is not None:
            self._stage.__exit__(None if finished else KeyboardInterrupt, None, None)

    def _smoothed(self, chunk: Chunk) -> float:
        fade = 0.5 ** (1.0 / _HALF_LIFE)
        for loss in chunk.loss[chunk.finite]:
            self._sum, self._weight = fade * self._sum + float(loss), fade * self._weight + 1.0
        return self._sum / self._weight if self._weight else math.nan


class ProgressOfMany(Hook):
    """How many concepts are done and wait, samples per second and the time that is left of all.

    It is a hook of every concept that learns, and counts the updates of all.
    """

    def __init__(self, counts: Callable[[], dict[str, int]], *, samples: int):
        """Takes what counts the concepts in each state, and the samples of an update."""
        self._counts, self._samples = counts, samples
        self._stage: Stage | None = None

    def begin(self, updates: int | None) -> None:
        """Begins to show; `updates` are those of all concepts, as far as they are known."""
        concepts = sum(self._counts().values())
        self._stage = stage(
            f"training {concepts} concepts", done=f"trained {concepts} concepts", total=updates
        )
        self._stage.__enter__()

    def on_metrics(self, chunk: Chunk) -> None:
        counts = self._counts()
        running = max(1, counts.get("running", 1))
        rate = running * len(chunk.loss) * self._samples / chunk.seconds
        told = [
            f"{counts[state]} {state}"
            for state in ("done", "failed", "running", "waiting")
            if state in counts
        ]
        parts = [", ".join(told), f"{rate:.1f} samples/s", memory_in_use()]
        if self._stage is not None:
            # The concepts that learn side by side share the time of the call.
            seconds = chunk.seconds / running
            self._stage.advance(len(chunk.loss), [part for part in parts if part], seconds=seconds)

    def close(self, finished: bool) -> None:
        """Ends the display where the run ends; a concept that ends does not."""

    def end(self, finished: bool) -> None:
        """Ends the display."""
        if self._stage is not None:
            self._stage.__exit__(None if finished else KeyboardInterrupt, None, None)


def memory_in_use() -> str:
    """Memory of the first device, or of the process where the device has none of its own."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_in_use" in stats:
        return f"{stats['bytes_in_use'] / 2**30:.1f} GiB"
    if sys.platform.startswith("linux"):
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        import resource

        return f"{pages * resource.getpagesize() / 2**30:.1f} GiB"
    return ""
