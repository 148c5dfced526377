"""Compiles the training step for the devices and runs the updates, with the hooks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.console.interrupt import Interrupt
from ti_flax.hosts import group as hosts
from ti_flax.hosts.compilation import Compilation
from ti_flax.monitoring.host_agreement import AgreeOnState, check_state
from ti_flax.run.hooks import Beside, make_hooks
from ti_flax.run.inputs import TrainingInputs
from ti_flax.training.devices import (
    Slots,
    batch_devices,
    of_slot,
    ours,
    pmapped,
    replicate,
    shapes_on,
    stacked,
)
from ti_flax.training.learning_rate import Schedule, rates_after
from ti_flax.training.loop import Hook, Seat, begin, run_steps
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig, Taught, TrainState
from ti_flax.training.step import make_chunk
from ti_flax.training.streaming import Feed, Sender, Shapes, shapes_of, window_capacity

# The most updates one call of the device program makes, and so the length of its measures.
CHUNK_CAPACITY = 500


def fit(
    config: RunConfig,
    step_config: StepConfig,
    schedule: Schedule,
    inputs: TrainingInputs,
    state: TrainState,
    output_dir: Path,
    *,
    interrupt: Interrupt,
    compiling: Compilation | None = None,
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """Puts everything on the devices and runs the updates; returns the last state.

    Args:
      config: of the run.
      step_config: the step's fixed parts.
      schedule: learning rate of every update.
      inputs: what it learns from, encoded.
      state: to begin with, on the host.
      output_dir: where files go.
      interrupt: tells whether a signal asks for an end.
      compiling: what `begin_compiling` began; None: it begins here.
      hooks: what else is to happen beside the updates.
    """
    slots = Slots(1, batch_devices(config.training.train_batch_size))
    total, start = config.training.total_steps, int(state.step)
    taught = taught_of(config, step_config)
    sender = feeding(step_config, inputs, taught, slots)
    sender.prepare([start], config.training.steps_per_call or 1)
    frozen = replicate(step_config.model.step_params, slots.devices)
    arguments = frozen, slots.place(stacked([taught]))
    compiling = compiling or compilation(step_config, sender.shapes, slots, state, arguments, sender)
    places = ours(slots.devices)
    beside = Beside(config, step_config, inputs, frozen, taught, places, output_dir, after=compiling)
    monitoring = hooks_of_host(beside, schedule, start, hooks)
    seat = Seat(total, rates_after(schedule, sender.capacity), monitoring, start)
    finished = False
    try:
        program = compiling.program()
        begin(state, monitoring)
        with interrupt.updates():
            last = run_steps(
                program,
                slots.place(stacked([state])),
                arguments,
                seats=[seat],
                slots=slots,
                steps_per_call=config.training.steps_per_call,
                asked=lambda: interrupt.asked,
                agree=hosts.agree_on_steps,
                sender=sender,
            )
        last = of_slot(last, 0)
        if not (finished := int(last.step) == total):
            check_state(int(last.step), last)
        return last
    finally:
        for hook in monitoring:
            hook.close(finished)


def hooks_of_host(run: Beside, schedule: Schedule, start: int, more: Sequence[Hook]) -> list[Hook]:
    """What happens beside the updates on this host; on all but the first, the check that hosts agree alone.

    There the parameters on the host are let go, as the devices have what is needed.

    Args:
      run: what the hooks need.
      schedule: learning rate of every update.
      start: updates that were made before.
      more: hooks that come after the run's own.
    """
    config = run.config
    agree = AgreeOnState(every=config.output.checkpointing_steps, last_step=config.training.total_steps)
    if hosts.is_first():
        return [agree, *make_hooks(run, schedule, start), *more]
    run.step_config.model.params.clear()
    return [agree]


def begin_compiling(
    config: RunConfig, step_config: StepConfig, inputs: TrainingInputs, state: TrainState
) -> Compilation | None:
    """Begins to compile the updates, for which shapes are enough, while images are still to be encoded.

    Of several processes none can: there JAX lowers `pmap` for arrays alone.

    Args:
      config: of the run.
      step_config: the step's fixed parts.
      inputs: what it learns from; the images need not be encoded.
      state: to begin with, on the host.
    """
    if jax.process_count() > 1:
        return None
    slots = Slots(1, batch_devices(config.training.train_batch_size))
    frozen = shapes_on(step_config.model.step_params, slots.devices)
    taught = slots.shapes(stacked([taught_of(config, step_config)]))
    shapes = shapes_of(inputs.examples)
    sender = sender_for(step_config, shapes, slots)
    return compilation(step_config, shapes, slots, state, (frozen, taught), sender)


def compilation(
    step_config: StepConfig,
    shapes: Shapes,
    slots: Slots,
    state: TrainState,
    arguments: tuple[Any, Any],
    sender: Sender,
) -> Compilation:
    """Compiles the updates in a thread of its own; the arguments are those of `lower_step`."""
    devices = slots.devices
    return Compilation(
        lambda: lower_step(step_config, shapes, slots, state, arguments, sender),
        devices,
        what=f"the update for {len(devices)} x {devices[0].device_kind}",
    )


def taught_of(config: RunConfig, step_config: StepConfig) -> Taught:
    """What is the concept's own and stays as it is."""
    key = jax.random.key(config.training.seed or 0, impl=KEY_IMPLEMENTATION)
    return Taught(np.asarray(jax.random.key_data(key)), step_config.settings)


def sender_for(step_config: StepConfig, shapes: Shapes, slots: Slots) -> Sender:
    """What sends the devices what each call needs, as yet for nobody."""
    return Sender(step_config, shapes, slots, window_capacity(step_config, shapes, CHUNK_CAPACITY))


def feeding(step_config: StepConfig, inputs: TrainingInputs, taught: Taught, slots: Slots) -> Sender:
    """What sends the devices what each call needs of the only concept."""
    shapes = shapes_of(inputs.examples)
    sender = sender_for(step_config, shapes, slots)
    sender.seat(0, Feed(step_config, inputs.examples, taught.key, shapes, capacity=sender.capacity))
    return sender


def lower_step(
    step_config: StepConfig,
    shapes: Shapes,
    slots: Slots,
    state: TrainState,
    arguments: tuple[Any, Any],
    sender: Sender,
) -> Any:
    """Lowers the updates of one call, for devices and arguments of these shapes.

    Args:
      step_config: the run's fixed parts.
      shapes: of the pictures.
      slots: and their devices.
      state: of a slot, on the host, or its shapes.
      arguments: frozen arrays and what concepts are taught with, placed, or their shapes.
      sender: of what each call gets.
    """
    capacity = sender.capacity
    chunk = np.zeros((slots.count, capacity), np.float32), np.zeros(slots.count, np.int32)
    program = pmapped(make_chunk(step_config, capacity, shapes), slots.devices)
    states = slots.place(stacked([state] * slots.count))
    return program.lower(states, *arguments, *slots.place(chunk), sender.empty())
