"""The turn of one concept in a run of many: read and encoded, seated, and its result written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ti_flax.config import RunConfig
from ti_flax.console.messages import about, say, warn
from ti_flax.errors import TiFlaxError
from ti_flax.export.upload import upload
from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.monitoring.evaluation import summary, with_best
from ti_flax.run.advice import after_training, before_training
from ti_flax.run.done import nothing_to_do
from ti_flax.run.hooks import Beside, make_hooks
from ti_flax.run.inputs import TrainingInputs, read_inputs
from ti_flax.run.many.teaching import Teaching
from ti_flax.run.output_checks import refuse_files_of_words
from ti_flax.run.output_dir import clear_output, export, page_of_run, with_repository, write_facts
from ti_flax.run.resume import Saved, saved_checkpoint, start_state, with_seed
from ti_flax.run.step_config import make_step_config, resolve_num_steps
from ti_flax.training.learning_rate import Schedule, rates_after
from ti_flax.training.loop import Chunk, Hook, Seat, begin
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig, Taught, TrainState, result_rows
from ti_flax.training.streaming import Feed

# An update of a concept is of one batch, whatever the number of devices.
BATCHES = 1


@dataclass
class Turn:
    """A concept that is ready to take a slot.

    Attributes:
      name: of the concept.
      config: as if it were alone.
      step_config: the step's fixed parts, with the numbers of this concept.
      schedule: its learning rates.
      inputs: what it learns from, encoded.
      state: to begin with, on the host.
      saved: the checkpoint that it goes on from.
    """

    name: str
    config: RunConfig
    step_config: StepConfig
    schedule: Schedule
    inputs: TrainingInputs
    state: TrainState
    saved: Saved | None

    @property
    def output_dir(self) -> Path:
        """Where its files go."""
        return Path(self.config.output.output_dir)

    @property
    def total(self) -> int:
        """Updates that it is to make."""
        return self.config.training.total_steps

    @property
    def taught(self) -> Taught:
        """What is its own and stays as it is."""
        key = jax.random.key(self.config.training.seed or 0, impl=KEY_IMPLEMENTATION)
        return Taught(np.asarray(jax.random.key_data(key)), self.step_config.settings)


def read_turn(name: str, config: RunConfig, model: FlaxStableDiffusion) -> tuple[RunConfig, Any, Any]:
    """Reads what a concept learns from, and its checkpoint; encodes nothing.

    Raises:
      TiFlaxError: something of it cannot be read.
    """
    with about(name):
        saved = saved_checkpoint(config, Path(config.output.output_dir))
        config = with_seed(config, saved.checkpoint.config.get("seed") if saved else None)
        inputs = read_inputs(config, model)
        config = resolve_num_steps(config, sum(inputs.images.weights), batches=BATCHES)
        return config, inputs, saved


def prepared(name: str, read: tuple[RunConfig, TrainingInputs, Saved | None], teaching: Teaching) -> Turn:
    """Encodes the images of a concept and settles what it begins with.

    Raises:
      TiFlaxError: something of it cannot be encoded, or its checkpoint is another run's.
    """
    config, inputs, saved = read
    with about(name):
        rows = teaching.rows_of(inputs)
        inputs = inputs.with_rows(rows)
        step_config, schedule = make_step_config(
            config,
            inputs.model,
            inputs.concept.token_ids[0],
            added=rows,
            special=inputs.tokenizers.special,
            devices=teaching.step_config.device_count,
            batches=BATCHES,
        )
        for line in before_training(config, inputs, schedule):
            say(f"note: {line}")
        sdxl, folder = inputs.model.is_sdxl, Path(config.output.output_dir)
        refuse_files_of_words(folder, inputs.concept.vectors, sdxl=sdxl)
        state = start_state(config, step_config, inputs, saved)
        config = with_repository(config)
        total = config.training.total_steps
        if saved is not None and int(state.step) > total:
            say(nothing_to_do(config, saved.checkpoint.step, saved.folder, saved.folder.parent) or "")
        elif int(state.step) < total:
            inputs = inputs.encoded()
        return Turn(name, config, step_config, schedule, inputs, state, saved)


def seated(
    turn: Turn, slot: int, teaching: Teaching, fate: Fate, progress: Hook, hooks: Sequence[Hook] = ()
) -> Seat:
    """Seats a concept: what an earlier run left goes, and what happens beside its updates begins.

    Raises:
      TiFlaxError: its folder cannot be written.
    """
    with about(turn.name):
        if turn.saved is None:
            clear_output(turn.config, turn.output_dir)
        write_facts(
            turn.config,
            turn.inputs,
            turn.output_dir,
            steps=turn.total,
            samples=teaching.samples,
            batches=BATCHES,
        )
        beside = Beside(
            turn.config,
            turn.step_config,
            turn.inputs,
            teaching.frozen,
            turn.taught,
            teaching.slots.devices,
            turn.output_dir,
            after=teaching.compiling,
            common=teaching.common,
        )
        start = int(turn.state.step)
        made = [*make_hooks(beside, turn.schedule, start, progress=progress), *hooks]
        guarded = [Guarded(turn.name, hook, fate) for hook in made]
        begin(turn.state, guarded)
    capacity = teaching.sender.capacity
    key = turn.taught.key
    feed = Feed(
        teaching.step_config,
        turn.inputs.examples,
        key,
        teaching.shapes,
        capacity=capacity,
        choices=teaching.choices,
    )
    teaching.sender.seat(slot, feed)
    return Seat(turn.total, rates_after(turn.schedule, capacity), guarded, start)


class Fate:
    """What has become of a concept: the error that ended it, if one did."""

    def __init__(self) -> None:
        self.error: TiFlaxError | None = None


class Guarded(Hook):
    """A hook of one concept of many: its errors end that concept alone, and its lines say whose they are."""

    def __init__(self, name: str, hook: Hook, fate: Fate):
        """Takes the name of the concept, the hook, and what all hooks of the concept share."""
        self._name, self._hook, self._fate = name, hook, fate
        self.every = hook.every

    def on_start(self, step: int, state: TrainState) -> None:
        self._try(lambda: self._hook.on_start(step, state))

    def on_metrics(self, chunk: Chunk) -> None:
        self._try(lambda: self._hook.on_metrics(chunk))

    def settle(self) -> None:
        self._try(self._hook.settle)

    def on_step(self, step: int, state: TrainState) -> None:
        self._try(lambda: self._hook.on_step(step, state))

    def on_interrupt(self, step: int, state: TrainState) -> None:
        self._try(lambda: self._hook.on_interrupt(step, state))

    def close(self, finished: bool) -> None:
        with about(self._name):
            self._hook.close(finished)

    def _try(self, action: Callable[[], None]) -> None:
        if self._fate.error is None:
            try:
                with about(self._name):
                    action()
            except TiFlaxError as error:
                self._fate.error = error
        self.stop = self._hook.stop or self._fate.error is not None
        self.wants_state = self._hook.wants_state and not self.stop


def finish_turn(
    turn: Turn, state: TrainState, samples: int, unbroken: Callable[[], AbstractContextManager[None]]
) -> int:
    """Writes the result of a concept; returns the step that it is of.

    Raises:
      TiFlaxError: it cannot be written.
    """
    config, inputs, folder = turn.config, turn.inputs, turn.output_dir
    rows, step = result_rows(turn.step_config, state), int(state.step)
    with about(turn.name):
        if config.takes_best:
            rows, step = with_best(rows, folder, inputs.concept.vectors)
            say(f"the result is that of step {step}, the best of all evaluations")
        export(config, inputs, rows, folder, samples=samples, steps=step, batches=BATCHES, unbroken=unbroken)
        for line in summary(folder) if config.monitoring.eval_steps != 0 else ():
            say(line)
        for advice in after_training(config, inputs, rows):
            warn(advice)
        write_facts(config, inputs, folder, steps=step, samples=samples, batches=BATCHES, finished=True)
        page_of_run(folder)
        if config.hub.push_to_hub:
            upload(config.hub, folder)
    return step
