"""What every host does beside the updates, the first and the others."""

from __future__ import annotations

from ti_flax.hosts import group as hosts
from ti_flax.training.checkpoint import tree_digest
from ti_flax.training.loop import Hook
from ti_flax.training.state import TrainState


class AgreeOnState(Hook):
    """Ends the run before a checkpoint is made of a state that is not the same on all hosts."""

    def __init__(self, *, every: int, last_step: int):
        self.every = self._interval = every
        self._last_step = last_step

    def on_step(self, step: int, state: TrainState) -> None:
        # The first host's evaluation may end the run at another step, of which the others hear later.
        if step % self._interval == 0 or step == self._last_step:
            check_state(step, state)

    def on_interrupt(self, step: int, state: TrainState) -> None:
        check_state(step, state)


def check_state(step: int, state: TrainState) -> None:
    """Ends the run if the state, on the host, is not that of all hosts.

    Raises:
      ConfigError: says which host differs.
    """
    parts = {"vectors": (state.rows, state.mean_rows), "optimizer state": state.opt_state}
    digests = {name: tree_digest(part, whole=True) for name, part in parts.items()}
    hosts.check_same(f"the state after step {step}", digests)
