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
from ti_flax.training.devices import batch_devices, ours, pmapped, replicate, shapes_on
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
    devices = batch_devices(config.training.train_batch_size)
    total = config.training.max_train_steps or 0
    start = int(state.step)
    placed, arguments, feed = on_devices(config, step_config, inputs, state, devices)
    if compiling is None:
        compiling = compilation(step_config, placed, arguments, devices, feed)
    beside = Beside(config, step_config, inputs, arguments[0], ours(devices), output_dir, after=compiling)
    monitoring = hooks_of_host(beside, schedule, start, hooks)
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


def on_devices(
    config: RunConfig,
    step_config: StepConfig,
    inputs: TrainingInputs,
    state: TrainState,
    devices: Sequence[Any],
) -> tuple[TrainState, tuple[Any, Any], Feed | None]:
    """Replicates the state, and the frozen arrays and the key; begins to feed images where calls get them."""
    arguments = replicate((frozen_arrays(step_config, inputs), run_key(config)), devices)
    feed = make_feed(config, step_config, inputs, devices)
    if feed is not None:
        feed.prepare(int(state.step), config.training.steps_per_call or 1)
    return replicate(state, devices), arguments, feed


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
    agree = AgreeOnState(
        every=config.output.checkpointing_steps, last_step=config.training.max_train_steps or 0
    )
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
    devices = batch_devices(config.training.train_batch_size)
    frozen = frozen_arrays(step_config, inputs, hollow=True)
    placed, arguments = shapes_on((state, (frozen, run_key(config))), devices)
    return compilation(
        step_config, placed, arguments, devices, make_feed(config, step_config, inputs, devices)
    )


def compilation(
    step_config: StepConfig, state: Any, arguments: tuple[Any, Any], devices: Sequence[Any], feed: Feed | None
) -> Compilation:
    """Compiles the updates in a thread of its own; the arguments are those of `lower_step`."""
    return Compilation(
        lambda: lower_step(step_config, state, arguments, devices, feed),
        devices,
        what=f"the update for {len(devices)} x {devices[0].device_kind}",
    )


def run_key(config: RunConfig) -> np.ndarray:
    """The run's key, its data as `[2]` uint32."""
    key = jax.random.key(config.training.seed or 0, impl=KEY_IMPLEMENTATION)
    return np.asarray(jax.random.key_data(key))


def make_feed(
    config: RunConfig, step_config: StepConfig, inputs: TrainingInputs, devices: Sequence[Any]
) -> Feed | None:
    """What sends the devices the posteriors that each call needs; None if they hold all of them."""
    if not inputs.streamed:
        return None
    return Feed(
        step_config,
        inputs.examples,
        run_key(config),
        devices,
        most_updates=CHUNK_CAPACITY,
        total_steps=config.training.max_train_steps or 0,
    )


def frozen_arrays(step_config: StepConfig, inputs: TrainingInputs, *, hollow: bool = False) -> dict[str, Any]:
    """What no update changes, as the devices are to have it; `hollow` as in `padded`."""
    model = step_config.model
    return {
        **{part: model.params[part] for part in (*model.text_encoders, "unet")},
        "examples": padded(inputs.examples, streamed=inputs.streamed, hollow=hollow),
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
      state: replicated, or its shapes.
      arguments: replicated frozen arrays and key, or their shapes.
      devices: of all hosts.
      feed: what each call gets, where the devices do not hold all images; it may take fewer updates.
    """
    capacity = capacity_with(feed)
    chunk = replicate((np.zeros(capacity, np.float32), np.int32(1)), devices)
    window = () if feed is None else (feed.empty(),)
    return pmapped(make_chunk(step_config, capacity), devices).lower(state, *arguments, *chunk, *window)
