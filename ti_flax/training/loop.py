"""The loop: call the chunked update, then the hooks. No files, no mathematics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol

import jax
import numpy as np

from ti_flax.errors import Stopped
from ti_flax.training.devices import replicate, unreplicate
from ti_flax.training.state import TrainState
from ti_flax.training.step import STEP_METRICS

# A chunk is made as long as this takes: long enough that the host's share is small, short enough to watch.
CHUNK_SECONDS = 2.0


@dataclass(frozen=True)
class Chunk:
    """What the updates of one call of the device program measured.

    Attributes:
      first_step: number of its first update, counted from 1.
      loss: `[steps]` float32.
      grad_norm: `[steps]` float32, over the rows that learn, before clipping.
      finite: `[steps]` bool, whether loss, gradient and the rows after the update were so.
      seconds: wall time of the call.
    """

    first_step: int
    loss: np.ndarray
    grad_norm: np.ndarray
    finite: np.ndarray
    seconds: float

    @property
    def last_step(self) -> int:
        return self.first_step + len(self.loss) - 1

    def steps_in(self, seconds: float) -> float:
        """Updates that would take so long."""
        return seconds * len(self.loss) / max(self.seconds, 1e-6)


class Hook:
    """Something that happens beside the updates; it sees results and never changes them.

    Attributes:
      every: `on_step` is called after every so many updates; None if only after the last.
      stop: set in `on_step` to make that update the last one.
    """

    every: int | None = None
    stop: bool = False

    def on_start(self, step: int, state: TrainState) -> None:
        """Takes the state (on the host) before the first update, after `step` updates of an earlier run."""

    def on_metrics(self, chunk: Chunk) -> None:
        """Takes the measures of a chunk, before any `on_step` of its last step."""

    def settle(self) -> None:
        """Does what it has put off; called before any hook takes a state in `on_step`."""

    def on_step(self, step: int, state: TrainState) -> None:
        """Takes the state (on the host) after update `step`, a multiple of `every` or the last one."""

    def on_interrupt(self, step: int, state: TrainState) -> None:
        """Takes the state (on the host) after update `step`, where the run was asked to end."""

    def close(self, finished: bool) -> None:
        """Ends what it holds open; called once, after all updates or whatever else ended them."""


class Feed(Protocol):
    """What sends the devices, call by call, what they do not hold."""

    def prepare(self, step: int, updates: int) -> None:
        """Sends what so many updates after `step` need, before `window` asks for it."""
        ...

    def window(self, step: int, updates: int) -> Any:
        """What so many updates after `step` need, on the devices."""
        ...


def begin(state: TrainState, hooks: Iterable[Hook]) -> None:
    """Lets hooks do what comes before the first update, with a replicated state."""
    host_state = unreplicate(state)
    for hook in hooks:
        hook.on_start(int(host_state.step), host_state)


def next_stop(step: int, total_steps: int, hooks: Iterable[Hook]) -> int:
    """The next step after `step` at which some hook wants the state."""
    stops = (step - step % hook.every + hook.every for hook in hooks if hook.every)
    return min([total_steps, *stops])


def run_steps(
    program: Callable[..., Any],
    state: TrainState,
    arguments: tuple[Any, Any],
    *,
    rates: Callable[[int], np.ndarray],
    total_steps: int,
    capacity: int,
    devices: Sequence[Any],
    hooks: Sequence[Hook],
    steps_per_call: int | None = None,
    asked: Callable[[], bool] = lambda: False,
    agree: Callable[[int, bool], int | None] = lambda steps, asked: None if asked else steps,
    feed: Feed | None = None,
) -> TrainState:
    """Runs updates until `total_steps`, or until a hook stops them.

    Args:
      program: the compiled chunk, spread over the devices.
      state: replicated state; its `step` says where to begin.
      arguments: replicated frozen arrays and key.
      rates: from a number of updates made to the learning rates of the next `capacity`, float32.
      total_steps: updates of the whole run.
      capacity: the most updates of one call.
      devices: where the state lives.
      hooks: called in this order; they have begun.
      steps_per_call: updates of a call; None lets them take about `CHUNK_SECONDS`.
      asked: whether this process has been asked to end the run.
      agree: from the updates of the next call, and whether this process was asked to end, to what all
        processes of the run do: the first one's number, or None if any was asked.
      feed: what each call gets of the images, where the devices do not hold them all.

    Returns:
      The last state, on the host.

    Raises:
      Stopped: a process was asked to end; the hooks have taken the state.
    """
    step, length = int(unreplicate(state.step)), min(steps_per_call or 1, capacity)
    while step < total_steps:
        left = 0 if any(hook.stop for hook in hooks) else next_stop(step, total_steps, hooks) - step
        steps = agree(min(length, left), asked())
        if steps is None:
            _interrupt(step, unreplicate(state), hooks)
        if steps == 0:
            break
        of_call = _of_call(rates(step), step, steps, devices, feed)
        step += steps
        most = min(2 * max(steps, length) if steps_per_call is None else length, capacity)
        meanwhile = _preparation(feed, step, min(most, next_stop(step, total_steps, hooks) - step))
        state, chunk = _call(
            program, state, *arguments, *of_call, step=step - steps, steps=steps, meanwhile=meanwhile
        )
        for hook in hooks:
            hook.on_metrics(chunk)
        _reach(step, state, hooks, last=step == total_steps)
        if steps_per_call is None:
            length = max(1, min(capacity, 2 * length, round(chunk.steps_in(CHUNK_SECONDS))))
    return unreplicate(state)


def _of_call(
    rates: np.ndarray, step: int, steps: int, devices: Sequence[Any], feed: Feed | None
) -> tuple[Any, ...]:
    """What one call of the program gets anew: the rates, how many updates, and a feed's images of those."""
    given = replicate((rates, np.int32(steps)), devices)
    return given if feed is None else (*given, feed.window(step, steps))


def _preparation(feed: Feed | None, step: int, most: int) -> Callable[[], object]:
    """What the host does while the devices compute: it prepares the most that the next call may make."""
    return (lambda: None) if feed is None or most == 0 else partial(feed.prepare, step, most)


def _call(
    program: Callable[..., Any], *arguments: Any, step: int, steps: int, meanwhile: Callable[[], object]
) -> tuple[TrainState, Chunk]:
    """Calls the program for so many updates after `step`, and waits for it; then fetches its measures."""
    start = time.perf_counter()
    with jax.transfer_guard("disallow"):
        state, metrics = program(*arguments)
    meanwhile()
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(metrics)
    seconds = time.perf_counter() - start
    measured = unreplicate(metrics)
    loss, norm, finite = (measured[name][:steps] for name in STEP_METRICS)
    return state, Chunk(step + 1, loss, norm, finite == 1, seconds)


def _interrupt(step: int, state: TrainState, hooks: Iterable[Hook]) -> NoReturn:
    for hook in hooks:
        hook.on_interrupt(step, state)
    raise Stopped(f"stopped after step {step}; --resume_from_checkpoint auto goes on")


def _reach(step: int, replicated: TrainState, hooks: Sequence[Hook], *, last: bool) -> None:
    """Lets the hooks that are due take the state, and all others too if one of them ends the run with it."""
    due = [hook for hook in hooks if last or (hook.every and step % hook.every == 0)]
    if not due:
        return
    state = unreplicate(replicated)
    for hook in hooks:
        hook.settle()
    for hook in due:
        hook.on_step(step, state)
    if not last and any(hook.stop for hook in due):
        for hook in hooks:
            if hook not in due:
                hook.on_step(step, state)
