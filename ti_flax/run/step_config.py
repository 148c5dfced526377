"""From options to the fixed parts of a training step, and the number of steps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import optax

from ti_flax.config import RunConfig
from ti_flax.config.values import LARGEST_INT
from ti_flax.embedding.rows import AddedRows
from ti_flax.errors import ConfigError
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.prompt_encoding import CLIP_TOKENS, SpecialTokens
from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.training import optimizer as optim
from ti_flax.training.learning_rate import Schedule
from ti_flax.training.noise import NoiseRules
from ti_flax.training.objective import Objective
from ti_flax.training.settings import make_schedule, read_optimizer_arguments, row_rules, update_samples
from ti_flax.training.state import StepConfig
from ti_flax.training.timesteps import TimestepRules


def resolve_num_steps(config: RunConfig, epoch_samples: int, batches: int | None = None) -> RunConfig:
    """Fills in the number of steps where the configuration counts epochs of so many shown images.

    Args:
      config: of the run.
      epoch_samples: shown images of an epoch.
      batches: that are computed at once; None: as many as here.

    Raises:
      ConfigError: they are more than a step counter holds.
    """
    if config.training.max_train_steps is not None:
        return config
    epochs = config.training.num_train_epochs
    steps = math.ceil(epoch_samples / update_samples(config.training, batches)) * epochs
    if steps > LARGEST_INT:
        raise ConfigError(
            "num_train_epochs",
            expected=f"at most {LARGEST_INT} steps in all",
            found=f"{steps}, in {epochs} epochs of {epoch_samples} shown images",
            remedy="Lower num_train_epochs or repeats, or set max_train_steps.",
        )
    return config.replace(max_train_steps=steps)


def make_step_config(
    config: RunConfig,
    model: FlaxStableDiffusion,
    first_added_id: int,
    *,
    added: AddedRows,
    special: SpecialTokens = CLIP_TOKENS,
    devices: int,
    batches: int,
) -> tuple[StepConfig, Schedule]:
    """Builds the step's fixed parts and the learning-rate schedule.

    Args:
      config: of the run.
      model: its modules.
      first_added_id: token id of the first added row.
      added: the rows beside the token tables.
      special: what text encoders depend on beside token ids.
      devices: that compute an update, over all hosts.
      batches: of `train_batch_size` that they compute at once: one a device, or one for several cores.
    """
    training, options = config.training, config.optimizer
    schedule = make_schedule(config.optimizer, config.training, batches)
    arguments = read_optimizer_arguments(options)
    by_norm = options.grad_clip_value is None

    def optimizer(rate: Schedule, clip: Any) -> optax.GradientTransformation:
        kind = {"max_grad_norm" if by_norm else "clip_value": clip}
        inner = optim.make_optimizer(options.optimizer, rate, arguments=arguments, **kind)
        return optim.mask_rows(inner, added.trainable)

    unet = model.unet.clone(gradient_checkpointing=training.gradient_checkpointing)
    noise_schedule = NoiseSchedule.from_config(model.configs["scheduler"])
    step_config = StepConfig(
        model=dataclasses.replace(model, unet=unet),
        schedule=noise_schedule,
        optimizer=optimizer,
        trainable=added.trainable,
        first_added_id=first_added_id,
        batch_size=training.train_batch_size * batches // devices,
        accumulation=training.gradient_accumulation_steps,
        device_count=devices,
        flip_p=config.images.flip_p,
        variants=config.images.variants,
        objective=Objective.from_options(config.loss, noise_schedule),
        noise=NoiseRules.from_options(config.loss),
        timesteps=TimestepRules.from_options(config.loss, noise_schedule.num_train_timesteps),
        rules=row_rules(config.optimizer, added),
        clip=options.max_grad_norm if by_norm else options.grad_clip_value,
        skip_nonfinite=training.on_nonfinite == "skip",
        special=special,
    )
    return step_config, schedule
