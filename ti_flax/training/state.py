"""What a training step changes, and what is fixed for a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ti_flax.embedding.contents import BEHIND
from ti_flax.embedding.rows import RowRules
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.prompt_encoding import CLIP_TOKENS, SpecialTokens
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, token_table
from ti_flax.training.batches import KEY_IMPLEMENTATION as KEY_IMPLEMENTATION
from ti_flax.training.batches import DrawRules
from ti_flax.training.noise import NoiseRules
from ti_flax.training.objective import Objective
from ti_flax.training.optimizer import Schedule, average_rows
from ti_flax.training.timesteps import TimestepRules


class TrainState(NamedTuple):
    """Everything that changes from step to step.

    Attributes:
      rows: `[added_tokens, width]` float32 by text encoder.
      opt_state: the optimizer's state, over the rows that learn alone.
      step: `[]` int32, updates made so far.
      mean_rows: likewise, average of the rows over the updates; None if none is kept.
    """

    rows: dict[str, jax.Array]
    opt_state: Any
    step: jax.Array
    mean_rows: Any = None


class Settings(NamedTuple):
    """Numbers of a run that its program takes as arguments: with others it is the same program.

    Attributes:
      rules: what is done to the rows besides the optimizer's updates.
      objective: what an error counts.
      clip: `[]`, what the optimizer clips gradients to; None if it does not.
    """

    rules: RowRules
    objective: Objective
    clip: float | jax.Array | None


class Taught(NamedTuple):
    """What is a concept's own and stays as it is; with a slot axis that of several.

    Attributes:
      key: its data as `[2]` uint32, all random draws come from it.
      settings: its numbers.
    """

    key: Any
    settings: Settings


@dataclass(frozen=True, eq=False)
class StepConfig:
    """The parts of a step that are fixed for a run.

    Attributes:
      model: the modules (their parameters are passed separately, as data).
      schedule: noise schedule and prediction type.
      optimizer: from a learning rate, by update index, and what to clip to, to a transformation over
        `[added_tokens, width]` by text encoder, already masked.
      trainable: `[added_tokens]` bool by text encoder, rows that learn.
      first_added_id: token id of row 0.
      special: what text encoders depend on beside token ids.
      batch_size: samples a device takes at once.
      accumulation: batches whose gradients make one update.
      device_count: devices, over all hosts, that share the batch of a concept.
      slots: concepts that a device computes side by side.
      whole_slots: whether a device has the whole batch of its concepts, so that nothing is reduced between
        devices.
      flip_p: chance that a sample is the mirror image.
      variants: of each image, of which a sample shows any.
      noise: what is mixed into the noise.
      timesteps: which are drawn; None: all, each by itself.
      objective: what an error counts.
      rules: what is done to the rows besides the optimizer's updates.
      clip: what the optimizer clips gradients to; None if it does not.
      skip_nonfinite: leave the rows as they are where an update is not finite.
    """

    model: FlaxStableDiffusion
    schedule: NoiseSchedule
    optimizer: Callable[[Schedule, Any], optax.GradientTransformation]
    trainable: dict[str, np.ndarray]
    first_added_id: int
    batch_size: int
    accumulation: int = 1
    device_count: int = 1
    slots: int = 1
    whole_slots: bool = False
    flip_p: float = 0.5
    variants: int = 1
    noise: NoiseRules = NoiseRules()
    timesteps: TimestepRules | None = None
    objective: Objective = Objective()
    rules: RowRules = RowRules()
    clip: float | jax.Array | None = None
    skip_nonfinite: bool = False
    special: SpecialTokens = CLIP_TOKENS

    @property
    def global_batch(self) -> int:
        """Samples that make one update of a concept, over devices that share it and accumulated batches."""
        return self.batch_size * self.accumulation * self.device_count

    def positions(self, micro: Any, device: Any) -> Any:
        """Places in the global batch of the samples that a device takes at once, `[..., batch]` int.

        Args:
          micro: which of the accumulated batches, `[]` or `[..., 1]` int.
          device: which one, `[]` int.
        """
        first = (micro * self.device_count + device) * self.batch_size
        return first + np.arange(self.batch_size, dtype=np.int32)

    @property
    def settings(self) -> Settings:
        """The numbers that the program takes as arguments."""
        return Settings(self.rules, self.objective, self.clip)

    def with_settings(self, settings: Settings) -> StepConfig:
        """The same with other numbers, such as those that a program is given."""
        return dataclasses.replace(
            self, rules=settings.rules, objective=settings.objective, clip=settings.clip
        )

    @property
    def draw_rules(self) -> DrawRules:
        """How samples are drawn."""
        every_timestep = TimestepRules(first=0, end=self.schedule.num_train_timesteps)
        return DrawRules(
            global_batch=self.global_batch,
            scaling_factor=self.model.vae.config.scaling_factor,
            timesteps=self.timesteps or every_timestep,
            flip_p=self.flip_p,
            variants=self.variants,
            noise=self.noise,
        )


def init_state(config: StepConfig, rows: Mapping[str, np.ndarray]) -> TrainState:
    """The state before the first update."""
    started = {encoder: jnp.asarray(each, jnp.float32) for encoder, each in rows.items()}
    mean = None if config.rules.ema_decay is None else started
    optimizer = config.optimizer(lambda step: 1.0, config.clip)
    return TrainState(started, optimizer.init(started), jnp.zeros((), jnp.int32), mean)


def zero_rows(config: StepConfig, frozen: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Rows of zeros in the shapes of a run's, `[added_tokens, width]` float32 by text encoder.

    Args:
      config: the run's fixed parts.
      frozen: parameter trees of the text encoders, by name.
    """
    widths = {
        encoder: token_table(frozen, encoder.removesuffix(BEHIND)).shape[-1] for encoder in config.trainable
    }
    return {
        encoder: np.zeros((len(learns), widths[encoder]), np.float32)
        for encoder, learns in config.trainable.items()
    }


def result_rows(config: StepConfig, state: TrainState) -> dict[str, np.ndarray]:
    """The rows to use outside of training, `[added_tokens, width]` float32 by text encoder.

    Averages where they are kept.

    Args:
      config: the run's fixed parts.
      state: on the host.
    """
    if state.mean_rows is not None:
        return jax.tree.map(np.asarray, state.mean_rows)
    return average_rows(state.opt_state, jax.tree.map(np.asarray, state.rows), config.trainable)
