"""A checkpoint to go on from: found, restored, and its seed settled."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path

import jax
import jax.numpy as jnp

from ti_flax.config import RunConfig
from ti_flax.config.run_config import OPTIONS
from ti_flax.console.messages import say
from ti_flax.hosts import group as hosts
from ti_flax.run.inputs import TrainingInputs
from ti_flax.training import checkpoint as checkpoints
from ti_flax.training.state import StepConfig, TrainState, init_state


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint to go on from, and its folder."""

    checkpoint: checkpoints.Checkpoint
    folder: Path


def saved_checkpoint(config: RunConfig, output_dir: Path) -> Saved | None:
    """The checkpoint to go on from; None for a run from the beginning.

    Raises:
      CheckpointError: the checkpoint is missing or damaged.
    """
    name = config.output.resume_from_checkpoint
    if name is None:
        return None
    if name not in checkpoints.NEWEST:
        folder = checkpoints.find_checkpoint(output_dir, name)
        return Saved(checkpoints.load_checkpoint(folder), folder)
    newest = checkpoints.load_newest(output_dir)
    if newest is None:
        say(f"no checkpoint in {output_dir} yet: starting from the beginning")
        return None
    return Saved(*newest)


def start_state(
    config: RunConfig, step_config: StepConfig, inputs: TrainingInputs, from_disk: Saved | None
) -> TrainState:
    """The state to train from, on the host: fresh or a checkpoint's; of several processes, the first one's.

    Raises:
      CheckpointError: the checkpoint is another run's.
    """
    state = jax.device_get(init_state(step_config, inputs.added.start))
    if from_disk is not None:
        state = jax.device_get(_restored(config, state, inputs, from_disk))
    return hosts.agree("the state to start from", state)


def _restored(config: RunConfig, state: TrainState, inputs: TrainingInputs, from_disk: Saved) -> TrainState:
    saved, folder = from_disk.checkpoint, from_disk.folder
    checkpoints.check_same_run(saved, inputs.fingerprint, folder)
    say_changes(config, from_disk)
    mean = checkpoints.restore_mean(state.mean_rows, saved, folder)
    optimizer = checkpoints.restore_optimizer(state.opt_state, saved.optimizer, folder)
    say(f"resuming from {folder}, step {saved.step}")
    rows = {encoder: jnp.asarray(each) for encoder, each in saved.rows.items()}
    return TrainState(rows, optimizer, jnp.int32(saved.step), mean)


def say_changes(config: RunConfig, from_disk: Saved) -> None:
    """Says which options that change a run's bits are not as the checkpoint was made with."""
    for option, value in config.to_dict().items():
        # Options that the checkpoint does not know had their defaults when it was made.
        before = from_disk.checkpoint.config.get(option, OPTIONS[option].default)
        if OPTIONS[option].rule.changes_bits and before != value:
            say(f"note: {option} was {before} in {from_disk.folder.name} and is now {value}")


def agree_on_seed(config: RunConfig, saved: Saved | None) -> RunConfig:
    """Settles the seed, with several processes on the first one's, before anything is drawn."""
    if hosts.is_first():
        config = with_seed(config, saved.checkpoint.config.get("seed") if saved else None)
    return config.replace(seed=hosts.from_first("the seed", config.training.seed or 0))


def with_seed(config: RunConfig, saved: int | None) -> RunConfig:
    """Settles the seed: the configured one, else the checkpoint's, else a drawn one."""
    if config.training.seed is not None:
        return config
    seed = secrets.randbelow(2**32) if saved is None else saved
    say(f"seed {seed}")
    return config.replace(seed=seed)
