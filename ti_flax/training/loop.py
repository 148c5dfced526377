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
from ti_flax.training.devices import Slots, of_slot
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


class Hook:
    """Something that happens beside the updates; it sees results and never changes them.

    Attributes:
      every: `on_step` is called after every so many updates; None if only after the last.
      stop: set in `on_step` to make that update the last one.
      wants_state: set in `on_metrics` to be given the state of the chunk's last step, whatever `every` says.
    """

    every: int | None = None
    stop: bool = False
    wants_state: bool = False

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


class Sender(Protocol):
    """Sends the devices, call by call, what the samples of its updates show.

    Attributes:
      capacity: the most updates of one call.
    """

    capacity: int

    def prepare(self, steps: Sequence[int], updates: int) -> None:
        """Sends what so many updates after each slot's `steps` need, before `window` asks for it."""
        ...

    def window(self, steps: Sequence[int], updates: int) -> Any:
        """What so many updates after each slot's `steps` need, on the devices."""
        ...


@dataclass
class Seat:
    """A concept that learns in a slot.

    Attributes:
      total_steps: updates that it is to make.
      rates: from a number of updates made to the learning rates of the next ones, `[capacity]` float32.
      hooks: called in this order; they have begun.
      step: updates that it has made.
    """

    total_steps: int
    rates: Callable[[int], np.ndarray]
    hooks: Sequence[Hook]
    step: int = 0

    @property
    def updates_left(self) -> int:
        """Updates until some hook wants the state; none if a hook ends it, or it has made all."""
        if any(hook.stop for hook in self.hooks):
            return 0
        return next_stop(self.step, self.total_steps, self.hooks) - self.step

    @property
    def due(self) -> list[Hook]:
        """The hooks that take the state now."""
        last = self.step == self.total_steps
        return [
            hook
            for hook in self.hooks
            if last or hook.wants_state or (hook.every and self.step % hook.every == 0)
        ]


def begin(state: TrainState, hooks: Iterable[Hook]) -> None:
    """Lets hooks do what comes before the first update, with a state on the host."""
    for hook in hooks:
        hook.on_start(int(state.step), state)


def next_stop(step: int, total_steps: int, hooks: Iterable[Hook]) -> int:
    """The next step after `step` at which some hook wants the state."""
    stops = (step - step % hook.every + hook.every for hook in hooks if hook.every)
    return min([total_steps, *stops])


def run_steps(
    program: Callable[..., Any],
    state: TrainState,
    arguments: tuple[Any, Any],
    *,
    seats: Sequence[Seat | None],
    slots: Slots,
    steps_per_call: int | None = None,
    asked: Callable[[], bool] = lambda: False,
    agree: Callable[[int, bool], int | None] = lambda steps, asked: None if asked else steps,
    sender: Sender,
) -> TrainState:
    """Runs updates of all seats until one of them has made all of its own, or a hook of it ends it.

    Args:
      program: the compiled chunk, spread over the devices.
      state: of all slots, placed.
      arguments: the frozen arrays and what the concepts are taught with, placed.
      seats: who learns in each slot; None: nobody. Their `step` is kept up to date.
      slots: where they are.
      steps_per_call: updates of a call; None lets them take about `CHUNK_SECONDS`.
      asked: whether this process has been asked to end the run.
      agree: from the updates of the next call, and whether this process was asked to end, to what all
        processes of the run do: the first one's number, or None if any was asked.
      sender: of what the samples of each call show.

    Returns:
      The last state of all slots, on the host.

    Raises:
      Stopped: a process was asked to end; the hooks have taken the state.
    """
    taken = [(slot, seat) for slot, seat in enumerate(seats) if seat is not None]
    capacity = sender.capacity
    length = min(steps_per_call or 1, capacity)
    while all(seat.step < seat.total_steps for _, seat in taken):
        steps = agree(min(length, _updates_left(taken)), asked())
        if steps is None:
            _interrupt(slots.fetch(state), taken)
        if steps == 0:
            break
        made = [0 if seat is None else seat.step for seat in seats]
        given = _given(seats, slots, steps, capacity)
        window = sender.window(made, steps)
        for _, seat in taken:
            seat.step += steps
        most = min(2 * max(steps, length) if steps_per_call is None else length, capacity)
        meanwhile = _preparation(sender, seats, min(most, _updates_left(taken)))
        state, measured, seconds = _call(program, state, *arguments, *given, window, meanwhile=meanwhile)
        measured = slots.fetch(measured)
        for slot, seat in taken:
            chunk = _chunk_of(of_slot(measured, slot), seat.step, steps, seconds)
            for hook in seat.hooks:
                hook.on_metrics(chunk)
        _reach_stops(state, taken, slots)
        if steps_per_call is None:
            length = max(1, min(capacity, 2 * length, round(steps * CHUNK_SECONDS / max(seconds, 1e-6))))
    return slots.fetch(state)


def _updates_left(taken: Sequence[tuple[int, Seat]]) -> int:
    """The most updates that all seats can make together."""
    return min(seat.updates_left for _, seat in taken)


def _given(seats: Sequence[Seat | None], slots: Slots, steps: int, capacity: int) -> tuple[Any, Any]:
    """The learning rates and numbers of updates of a call, placed."""
    rates, counts = np.zeros((len(seats), capacity), np.float32), np.zeros(len(seats), np.int32)
    for slot, seat in enumerate(seats):
        if seat is not None:
            rates[slot], counts[slot] = seat.rates(seat.step), steps
    return slots.place((rates, counts))


def _preparation(sender: Sender, seats: Sequence[Seat | None], most: int) -> Callable[[], object]:
    """What the host does while the devices compute: it prepares the most that the next call may make."""
    if most == 0:
        return lambda: None
    return partial(sender.prepare, [0 if seat is None else seat.step for seat in seats], most)


def _call(
    program: Callable[..., Any], *arguments: Any, meanwhile: Callable[[], object]
) -> tuple[TrainState, Any, float]:
    """Calls the program and waits for it; returns the state, the measures and the seconds it took."""
    start = time.perf_counter()
    with jax.transfer_guard("disallow"):
        state, metrics = program(*arguments)
    meanwhile()
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(metrics)
    return state, metrics, time.perf_counter() - start


def _chunk_of(measured: dict[str, np.ndarray], last_step: int, steps: int, seconds: float) -> Chunk:
    """What so many updates up to `last_step` of one concept measured."""
    loss, norm, finite = (measured[name][:steps] for name in STEP_METRICS)
    return Chunk(last_step - steps + 1, loss, norm, finite == 1, seconds)


def _interrupt(state: TrainState, taken: Sequence[tuple[int, Seat]]) -> NoReturn:
    for slot, seat in taken:
        for hook in seat.hooks:
            hook.on_interrupt(seat.step, of_slot(state, slot))
    where = f"step {taken[0][1].step}" if len(taken) == 1 else "the last update"
    raise Stopped(f"stopped after {where}; --resume_from_checkpoint auto goes on")


def _reach_stops(state: TrainState, taken: Sequence[tuple[int, Seat]], slots: Slots) -> None:
    """Lets the hooks that are due take the state of their slot, placed."""
    if not any(seat.due for _, seat in taken):
        return
    host_state = slots.fetch(state)
    for slot, seat in taken:
        if due := seat.due:
            _reach(seat, due, of_slot(host_state, slot))


def _reach(seat: Seat, due: Sequence[Hook], state: TrainState) -> None:
    """Lets the hooks that are due take a state, and all others too if one of them ends the run with it."""
    for hook in seat.hooks:
        hook.settle()
    for hook in due:
        hook.on_step(seat.step, state)
    if seat.step < seat.total_steps and any(hook.stop for hook in due):
        for hook in seat.hooks:
            if hook not in due:
                hook.on_step(seat.step, state)
