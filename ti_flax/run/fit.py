"""Compiles the training step for the devices and runs the updates, with the hooks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.console.interrupt import Interrupt
from ti_flax.data.dataset import padded
from ti_flax.hosts import group as hosts
from ti_flax.hosts.compilation import Compilation
from ti_flax.monitoring.host_agreement import AgreeOnState, check_state
from ti_flax.run.hooks import Beside, make_hooks
from ti_flax.run.inputs import TrainingInputs
from ti_flax.training.devices import batch_devices, ours, pmapped, replicate
from ti_flax.training.learning_rate import Schedule, rates_after
from ti_flax.training.loop import Hook, begin, run_steps
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig, TrainState
from ti_flax.training.step import make_chunk
from ti_flax.training.streaming import Feed

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
    hooks: Sequence[Hook] = (),
) -> TrainState:
    """Puts everything on the devices, compiles, and runs the updates; returns the last state."""
    devices = batch_devices(config.training.train_batch_size)
    total = config.training.max_train_steps or 0
    start = int(state.step)
    frozen = replicate(frozen_arrays(step_config, inputs), devices)
    key = np.asarray(jax.random.key_data(jax.random.key(config.training.seed or 0, impl=KEY_IMPLEMENTATION)))
    arguments = (frozen, replicate(key, devices))
    feed = None
    if inputs.streamed:
        feed = Feed(
            step_config, inputs.examples, key, devices, most_updates=CHUNK_CAPACITY, total_steps=total
        )
        feed.prepare(start, config.training.steps_per_call or 1)
    placed = replicate(state, devices)
    compiling = Compilation(
        lambda: lower_step(step_config, placed, arguments, devices, feed),
        devices,
        what=f"the update for {len(devices)} x {devices[0].device_kind}",
    )
    monitoring: list[Hook] = [AgreeOnState(every=config.output.checkpointing_steps, last_step=total)]
    if hosts.is_first():
        beside = Beside(config, step_config, inputs, frozen, ours(devices), output_dir, after=compiling)
        monitoring += [*make_hooks(beside, schedule, start), *hooks]
    else:
        step_config.model.params.clear()  # the devices have what is needed
    finished = False
    try:
        program = compiling.program()
        begin(placed, monitoring)
        with interrupt.updates():
            last = run_steps(
                program,
                placed,
                arguments,
                total_steps=total,
                capacity=capacity_with(feed),
                rates=rates_after(schedule, capacity_with(feed)),
                devices=devices,
                hooks=monitoring,
                steps_per_call=config.training.steps_per_call,
                asked=lambda: interrupt.asked,
                agree=hosts.agree_on_steps,
                feed=feed,
            )
        finished = int(last.step) == total
        if not finished:
            check_state(int(last.step), last)
        return last
    finally:
        for hook in monitoring:
            hook.close(finished)


def frozen_arrays(step_config: StepConfig, inputs: TrainingInputs) -> dict[str, Any]:
    """What no update changes, as the devices are to have it."""
    return {
        "text_encoder": step_config.model.params["text_encoder"],
        "unet": step_config.model.params["unet"],
        "examples": padded(inputs.examples, streamed=inputs.streamed),
        "settings": step_config.settings,
    }


def capacity_with(feed: Feed | None) -> int:
    """The most updates of one call."""
    return CHUNK_CAPACITY if feed is None else feed.capacity


def lower_step(
    step_config: StepConfig,
    state: Any,
    arguments: tuple[Any, Any],
    devices: Sequence[Any],
    feed: Feed | None = None,
) -> Any:
    """Lowers up to `CHUNK_CAPACITY` updates of one call, for devices and arguments of these shapes.

    Args:
      step_config: the run's fixed parts.
      state: replicated.
      arguments: replicated frozen arrays and key.
      devices: of all hosts.
      feed: what each call gets, where the devices do not hold all images; it may take fewer updates.
    """
    capacity = capacity_with(feed)
    chunk = replicate((np.zeros(capacity, np.float32), np.int32(1)), devices)
    window = () if feed is None else (feed.empty(),)
    return pmapped(make_chunk(step_config, capacity), devices).lower(state, *arguments, *chunk, *window)
