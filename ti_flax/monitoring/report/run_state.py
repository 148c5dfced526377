"""How far a run is, as far as its folder tells: the files alone, no lock and no question to its process."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ti_flax.console.messages import clock
from ti_flax.files.written_files import last_run
from ti_flax.monitoring.report import facts as run_facts
from ti_flax.monitoring.report.facts import RunFacts

# What a run writes as it goes on.
_SIGNS_OF_LIFE = (
    "written_files.txt",
    "run.json",
    "metrics.csv",
    "signals.csv",
    "validation",
    "contact_sheet.png",
)
# Points of metrics.csv whose speed counts for the time left.
_RECENT = 20
RESUME = "--resume_from_checkpoint auto"
NOBODY = "No run is at work in this folder now"


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
      finished: whether its result is written, and no other run has begun in its folder since.
      at_work: whether its process is there; None if that cannot be known.
      step: updates made, by its metrics.
      total: that it is to make, at most; 0 if not known.
      until_done: whether it ends itself before that.
      left: seconds until all are made; None if not known.
      silence: seconds since it last wrote anything; None if it has not.
    """

    finished: bool
    at_work: bool | None
    step: int = 0
    total: int = 0
    until_done: bool = False
    left: float | None = None
    silence: float | None = None

    @property
    def goes_on(self) -> bool:
        """Whether more is to come, as far as anybody knows."""
        return not self.finished

    @property
    def share(self) -> float | None:
        """How much of the updates is made, from 0 to 1; None if not known."""
        return min(1.0, self.step / self.total) if self.total and not self.finished else None

    def __str__(self) -> str:
        """What there is to say of it, a sentence or two."""
        if self.finished:
            return "The run is finished."
        if self.at_work is False:
            where = f"at step {self.step}{self._of_total}" if self.step else "before its first update"
            return f"{NOBODY}: it stopped {where}. The same command with {RESUME} goes on."
        if self.total == 0:
            return "The run has begun: it reads the model and the images, and encodes them."
        if self.step == 0:
            return f"All is read; the update is being compiled. The first of {self.total} steps is to come."
        if self.step >= self.total:
            return f"All {self.total} steps are made; the last images and the result are being written."
        left = f", {clock(self.left)} left" if self.left is not None and not self.until_done else ""
        return f"Step {self.step}{self._of_total}{left}."

    @property
    def _of_total(self) -> str:
        if not self.total:
            return ""
        return f", of {self.total} at most" if self.until_done else f" of {self.total}"


def state_of(folder: Path, facts: RunFacts | None, metrics: dict[str, np.ndarray]) -> RunState:
    """How far the run of a folder is.

    Args:
      folder: the run's.
      facts: what its `run.json` says; None without one.
      metrics: the columns of its `metrics.csv`.
    """
    run = last_run(folder)
    alive = None if run is None else run.is_at_work
    steps = metrics.get("step", np.zeros(0))
    made = int(steps[-1]) if len(steps) and np.isfinite(steps[-1]) and steps[-1] >= 0 else 0
    silence = _silence(folder)
    if run is not None and alive is not False and _since(folder, run_facts.FILE) < run.begun - 1:
        return RunState(False, alive, silence=silence)  # what is there is of the run before
    if facts is None:
        return RunState(False, alive, made, silence=silence)
    if facts.finished:
        return RunState(True, alive, made or facts.steps, facts.steps, silence=silence)
    until_done = facts.config.get("max_train_steps") == "auto"
    left = _left(metrics, facts.steps - made, facts.batch)
    return RunState(False, alive, made, facts.steps, until_done, left, silence)


def _left(metrics: dict[str, np.ndarray], steps: int, batch: int) -> float | None:
    rates = metrics.get("samples_per_second", np.zeros(0))[-_RECENT:]
    rates = rates[np.isfinite(rates) & (rates > 0)]
    return float(steps * batch / np.median(rates)) if len(rates) and steps > 0 else None


def _since(folder: Path, name: str) -> float:
    """When a file was last written, in seconds since 1970; 0 if it is not there."""
    try:
        return os.stat(folder / name).st_mtime
    except OSError:
        return 0.0


def _silence(folder: Path) -> float | None:
    last = max(_since(folder, name) for name in _SIGNS_OF_LIFE)
    return max(0.0, time.time() - last) if last else None
