"""Finds what a run would find wrong before it compiles, and what it would learn from; writes nothing."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from ti_flax.config import RunConfig
from ti_flax.console.messages import Display, Level, shown_on
from ti_flax.errors import unwritable
from ti_flax.files.written_files import refuse_busy
from ti_flax.hosts.devices import Expected
from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.monitoring.trackers import chosen_trackers
from ti_flax.run.advice import before_training
from ti_flax.run.done import nothing_to_do
from ti_flax.run.inputs import TrainingInputs, read_inputs
from ti_flax.run.output_checks import refuse_files_of_words, refuse_output
from ti_flax.run.resume import Saved, saved_checkpoint, say_changes, with_seed
from ti_flax.run.step_config import make_step_config, resolve_num_steps
from ti_flax.training.checkpoint import check_same_run, restore_mean, restore_optimizer
from ti_flax.training.devices import batch_devices, batches_at_once
from ti_flax.training.settings import read_optimizer_arguments
from ti_flax.training.state import StepConfig, init_state

# What a checkpoint belongs to that is known without reading weights.
_KNOWN = ("concept", "prompts")


class Kept(Display):
    """Keeps the notes and warnings that a run would print."""

    def __init__(self) -> None:
        super().__init__(Level.NORMAL)
        self.notes: list[str] = []

    def _print(self, text: str) -> None:
        if "note: " in text or text.startswith("warning: "):
            self.notes.append(text.replace("note: ", "", 1))


@dataclass(frozen=True)
class Examined:
    """What a run of one concept would do.

    Attributes:
      config: with its number of steps.
      inputs: what it learns from, with all pixels, nothing encoded.
      samples: of an update.
      devices: that compute one.
      step: updates that its checkpoint has; 0 for a run from the beginning.
      done: why nothing is left to do, if so.
      notes: lines that the run would print.
    """

    config: RunConfig
    inputs: TrainingInputs
    samples: int
    devices: int
    step: int
    done: str | None
    notes: tuple[str, ...]


def check_folder(config: RunConfig) -> None:
    """Checks that a run may write into its output folder, which is not made.

    Raises:
      OutputError: it may not.
      CheckpointError: there is no checkpoint of the name to resume from.
    """
    output_dir = Path(config.output.output_dir)
    try:
        refuse_output(config, output_dir)
        there = nearest_there(output_dir)
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13), str(there))
    except OSError as error:
        raise unwritable(output_dir, error) from error
    refuse_busy(output_dir)


def nearest_there(folder: Path) -> Path:
    """The folder, or the nearest above it that is there.

    Raises:
      OSError: no folder can have such a name.
    """
    return next(place for place in (folder, *folder.absolute().parents) if _is_there(place))


def _is_there(place: Path) -> bool:
    try:
        return bool(place.stat())
    except FileNotFoundError:
        return False


def examined(
    config: RunConfig, model: FlaxStableDiffusion, expected: Expected, *, batches: int | None = None
) -> Examined:
    """Reads what a run of one concept would learn from, and checks what it would check.

    Args:
      config: of the run.
      model: without weights.
      expected: the devices of this machine.
      batches: that would be computed at once; None: as many as there are devices.

    Raises:
      TiFlaxError: what the run would find wrong.
    """
    output_dir, kept = Path(config.output.output_dir), Kept()
    with shown_on(kept):
        read_optimizer_arguments(config.optimizer)
        chosen_trackers(config.monitoring.report_to)
        saved = saved_checkpoint(config, output_dir)
        config = with_seed(config, saved.checkpoint.config.get("seed") if saved else None)
        inputs = read_inputs(_without_new_cache(config), model, all_pixels=True)
        batches, devices = _at_once(config, expected, batches)
        config = resolve_num_steps(config, sum(inputs.images.weights), batches=batches)
        step_config, schedule = make_step_config(
            config,
            model,
            inputs.concept.token_ids[0],
            added=inputs.added,
            special=inputs.tokenizers.special,
            devices=devices,
            batches=batches,
        )
        notes = before_training(config, inputs, schedule)
        refuse_files_of_words(output_dir, inputs.concept.vectors, sdxl=model.is_sdxl)
        done = None
        if saved is not None:
            check_checkpoint(config, step_config, inputs, saved)
            done = nothing_to_do(config, saved.checkpoint.step, saved.folder, output_dir)
    return Examined(
        config,
        inputs,
        samples=step_config.global_batch,
        devices=devices,
        step=saved.checkpoint.step if saved else 0,
        done=done,
        notes=(*kept.notes, *notes),
    )


def _without_new_cache(config: RunConfig) -> RunConfig:
    """The same with a cache of encoded images that does not have to be made."""
    named = config.images.latents_cache_dir
    return config if named is None or Path(named).is_dir() else config.replace(latents_cache_dir=None)


def _at_once(config: RunConfig, expected: Expected, batches: int | None) -> tuple[int, int]:
    """Batches that are computed at once, and the devices that share them."""
    if batches is not None:
        return batches, batches
    if expected.platform != "cpu":
        return expected.count, expected.count
    return batches_at_once(), len(batch_devices(config.training.train_batch_size))


def check_checkpoint(
    config: RunConfig, step_config: StepConfig, inputs: TrainingInputs, saved: Saved
) -> None:
    """Checks that a checkpoint is this run's, as far as that is known without weights.

    Raises:
      CheckpointError: it is another run's.
    """
    known = {name: text for name, text in inputs.fingerprint.items() if name in _KNOWN}
    before = {name: text for name, text in saved.checkpoint.fingerprint.items() if name in _KNOWN}
    check_same_run(dataclasses.replace(saved.checkpoint, fingerprint=before), known, saved.folder)
    say_changes(config, saved)
    state = jax.eval_shape(partial(init_state, step_config, inputs.added.start))
    restore_mean(state.mean_rows, saved.checkpoint, saved.folder)
    restore_optimizer(state.opt_state, saved.checkpoint.optimizer, saved.folder)
