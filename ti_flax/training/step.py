"""The training step: loss, update, and the one place where it is spread over devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ti_flax.data.dataset import Bucket, Dataset
from ti_flax.embedding.rows import RowRules, ema_update, embed_tokens, l2_to_init, rescale_norms
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.training.batches import CLASS_IMAGES, Batch, DrawRules, bucket_of_step, concat, draw
from ti_flax.training.devices import AXIS
from ti_flax.training.noise import NoiseRules
from ti_flax.training.objective import Objective
from ti_flax.training.optimizer import apply_updates, average_rows, with_counts
from ti_flax.training.timesteps import TimestepRules

STEP_METRICS = ("loss", "grad_norm", "finite")
# Pinned, because the bits of a run must not depend on a JAX flag.
KEY_IMPLEMENTATION = "threefry2x32"
# Folded into the run's key for the order of buckets; large, as steps are folded into other keys.
BUCKETS = 0x7C1A0004


class TrainState(NamedTuple):
    """Everything that changes from step to step.

    Attributes:
      rows: `[added_tokens, width]` float32.
      opt_state: the optimizer's state, over the rows that learn alone.
      step: `[]` int32, updates made so far.
      mean_rows: `[added_tokens, width]` float32, average of the rows over the updates; None if none is kept.
    """

    rows: jax.Array
    opt_state: Any
    step: jax.Array
    mean_rows: Any = None


@dataclass(frozen=True, eq=False)
class StepConfig:
    """The parts of a step that are fixed for a run.

    Attributes:
      model: the modules (their parameters are passed separately, as data).
      schedule: noise schedule and prediction type.
      optimizer: a transformation over `[added_tokens, width]`, already masked.
      trainable: `[added_tokens]` bool, rows that learn.
      first_added_id: token id of row 0.
      batch_size: samples a device takes at once.
      accumulation: batches whose gradients make one update.
      device_count: devices over all hosts.
      flip_p: chance that a sample is the mirror image.
      objective: what an error counts.
      noise: what is mixed into the noise.
      timesteps: which are drawn; None: all, each by itself.
      rules: what is done to the rows besides the optimizer's updates.
      skip_nonfinite: leave the rows as they are where an update is not finite.
    """

    model: FlaxStableDiffusion
    schedule: NoiseSchedule
    optimizer: optax.GradientTransformation
    trainable: np.ndarray
    first_added_id: int
    batch_size: int
    accumulation: int = 1
    device_count: int = 1
    flip_p: float = 0.5
    objective: Objective = Objective()
    noise: NoiseRules = NoiseRules()
    timesteps: TimestepRules | None = None
    rules: RowRules = RowRules()
    skip_nonfinite: bool = False

    @property
    def global_batch(self) -> int:
        """Samples that make one update, over all devices and accumulated batches."""
        return self.batch_size * self.accumulation * self.device_count

    @property
    def draw_rules(self) -> DrawRules:
        """How samples are drawn."""
        every_timestep = TimestepRules(first=0, end=self.schedule.num_train_timesteps)
        return DrawRules(
            global_batch=self.global_batch,
            scaling_factor=self.model.vae.config.scaling_factor,
            timesteps=self.timesteps or every_timestep,
            flip_p=self.flip_p,
            noise=self.noise,
        )


def init_state(task: StepConfig, rows: np.ndarray) -> TrainState:
    """The state before the first update."""
    started = jnp.asarray(rows, jnp.float32)
    mean = None if task.rules.ema_decay is None else started
    return TrainState(started, task.optimizer.init(started), jnp.zeros((), jnp.int32), mean)


def result_rows(task: StepConfig, state: TrainState) -> np.ndarray:
    """The rows to use outside of training, `[added_tokens, width]` float32: averages where they are kept.

    Args:
      task: the run's fixed parts.
      state: on the host.
    """
    if state.mean_rows is not None:
        return np.asarray(state.mean_rows)
    return average_rows(state.opt_state, np.asarray(state.rows), task.trainable)


def denoising_loss(
    rows: jax.Array, frozen: dict, batch: Batch, task: StepConfig, class_batch: Batch | None = None
) -> jax.Array:
    """Mean denoising error of one batch, `[]` float32 (arXiv:2208.01618, eq. 2).

    Args:
      rows: `[added_tokens, width]` float32, the only thing differentiated.
      frozen: parameter trees `text_encoder` and `unet`.
      batch: latents, noise, timesteps and token ids.
      task: modules, schedule and objective.
      class_batch: as many images of the word's class, whose mean error is added with the objective's
        `prior_loss_weight` (arXiv:2208.12242, eq. 2).
    """
    if class_batch is None:
        return jnp.mean(denoising_error(rows, frozen, batch, task))
    of_word, of_class = jnp.split(denoising_error(rows, frozen, concat(batch, class_batch), task), 2)
    return jnp.mean(of_word) + task.objective.prior_loss_weight * jnp.mean(of_class)


def denoising_error(rows: jax.Array, frozen: dict, batch: Batch, task: StepConfig) -> jax.Array:
    """The weighted error of every value, `[batch, height, width, channels]` float32; arguments as above."""
    text_encoder, unet = task.model.text_encoder, task.model.unet
    table = frozen["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    embedded = embed_tokens(table, rows, batch.token_ids, first_added_id=task.first_added_id)
    hidden_states = text_encoder.apply({"params": frozen["text_encoder"]}, embedded)
    input_noise = batch.noise if batch.input_noise is None else batch.input_noise
    noisy = task.schedule.add_noise(batch.latents, input_noise, batch.timesteps)
    predicted = unet.apply({"params": frozen["unet"]}, noisy, batch.timesteps, hidden_states)
    target = task.schedule.target(batch.latents, batch.noise, batch.timesteps)
    error = task.objective.error(jnp.asarray(predicted), target, batch.timesteps)
    return error if batch.loss_weights is None else error * batch.loss_weights[..., None]


def update(task: StepConfig, state: TrainState, frozen: dict, key: jax.Array) -> tuple[TrainState, dict]:
    """One update from one global batch; runs on every device, with gradients averaged over them.

    Its measures are `loss`, `grad_norm` (of the rows that learn, before clipping) and `finite`, 1 if both and
    the new rows are finite, else 0; each `[]` float32.

    Args:
      task: the run's fixed parts.
      state: before the update.
      frozen: parameter trees `text_encoder` and `unet`, and `examples`.
      key: the run's key.
    """
    examples: Dataset = frozen["examples"]
    device = jax.lax.axis_index(AXIS)

    def gradient_from(bucket: Bucket, class_bucket: Bucket | None, round: jax.Array | None):
        def drawn(key: jax.Array, bucket: Bucket, positions: jax.Array) -> Batch:
            places = {"step": state.step, "round": round}
            return jax.vmap(
                lambda position: draw(
                    task.draw_rules, key, bucket, examples.token_ids, position=position, **places
                )
            )(positions)

        def accumulate(total, micro):
            first = (micro * task.device_count + device) * task.batch_size
            positions = first + jnp.arange(task.batch_size)
            batch, class_batch = drawn(key, bucket, positions), None
            if class_bucket is not None:
                class_batch = drawn(jax.random.fold_in(key, CLASS_IMAGES), class_bucket, positions)
            loss_and_gradient = jax.value_and_grad(denoising_loss)(
                state.rows, frozen, batch, task, class_batch
            )
            return jax.tree.map(jnp.add, total, loss_and_gradient), None

        zero = (jnp.zeros((), jnp.float32), jnp.zeros_like(state.rows))
        return jax.lax.scan(accumulate, zero, jnp.arange(task.accumulation))[0]

    class_buckets = examples.class_buckets or (None,) * len(examples.buckets)
    if len(examples.buckets) == 1:
        total = gradient_from(examples.buckets[0], class_buckets[0], None)
    else:
        chosen, round = bucket_of_step(jax.random.fold_in(key, BUCKETS), state.step, examples.buckets)
        branches = [partial(gradient_from, *pair) for pair in zip(examples.buckets, class_buckets)]
        total = jax.lax.switch(chosen, branches, round)
    loss, gradient = jax.tree.map(lambda x: jax.lax.pmean(x / task.accumulation, AXIS), total)
    if task.rules.pull:
        pull, its_gradient = l2_to_init(task.rules, state.rows, task.trainable)
        loss, gradient = loss + pull, gradient + its_gradient
    norm = jnp.linalg.norm(gradient * task.trainable[:, None])
    moved = apply_update(task, state, gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.all(jnp.isfinite(moved.rows))
    if task.skip_nonfinite:
        kept = state._replace(step=moved.step, opt_state=with_counts(state.opt_state, moved.opt_state))
        moved = jax.tree.map(partial(jnp.where, finite), moved, kept)
    return moved, {"loss": loss, "grad_norm": norm, "finite": finite.astype(jnp.float32)}


def apply_update(task: StepConfig, state: TrainState, gradient: jax.Array) -> TrainState:
    """The state after an update with the gradient `[added_tokens, width]` of a whole global batch."""
    updates, opt_state = task.optimizer.update(gradient, state.opt_state, state.rows)
    rows = apply_updates(state.rows, jnp.asarray(updates), task.trainable)
    rows = rescale_norms(task.rules, rows, task.trainable)
    mean = state.mean_rows
    if mean is not None:
        mean = ema_update(task.rules, mean, rows, step=state.step, trainable=task.trainable)
    return TrainState(rows, opt_state, state.step + 1, mean)


def make_chunk(task: StepConfig, capacity: int) -> Callable:
    """Builds `chunk(state, frozen, key, steps)`: up to `capacity` updates without the host.

    `steps` is traced, so chunks of every length are the same program and give the same bits.
    The measures come out as `[capacity]` float32 each, of which the first `steps` are filled.
    """

    def chunk(state: TrainState, frozen: dict, key: jax.Array, steps: jax.Array):
        def body(i, carry):
            state, measured = carry
            state, metrics = update(
                task, state, frozen, jax.random.wrap_key_data(key, impl=KEY_IMPLEMENTATION)
            )
            return state, jax.tree.map(lambda column, x: column.at[i].set(x), measured, metrics)

        empty = {name: jnp.zeros(capacity, jnp.float32) for name in STEP_METRICS}
        return jax.lax.fori_loop(0, steps, body, (state, empty))

    return chunk
