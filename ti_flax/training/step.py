"""The training step: loss, update, and the one place where it is spread over devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.data.dataset import PaddedBucket, PaddedDataset, PromptTable
from ti_flax.embedding.conditioning import encode_with_rows
from ti_flax.embedding.rows import ema_update, l2_to_init, rescale_norms, sum_of
from ti_flax.training.batches import CLASS_IMAGES, Batch, concat, draw
from ti_flax.training.devices import AXIS
from ti_flax.training.optimizer import apply_updates
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig, TrainState
from ti_flax.training.streaming import Window, owner_of_step, pictures_in, pictures_of_update

STEP_METRICS = ("loss", "grad_norm", "finite")


def denoising_loss(
    rows: dict[str, jax.Array],
    frozen: dict,
    batch: Batch,
    config: StepConfig,
    class_batch: Batch | None = None,
) -> jax.Array:
    """Mean denoising error of one batch, `[]` float32 (arXiv:2208.01618, eq. 2).

    Args:
      rows: `[added_tokens, width]` float32 by text encoder, the only thing differentiated.
      frozen: parameter trees of the text encoders and the `unet`.
      batch: latents, noise, timesteps and token ids.
      config: modules, schedule and objective.
      class_batch: as many images of the word's class, whose mean error is added with the objective's
        `prior_loss_weight` (arXiv:2208.12242, eq. 2).
    """
    if class_batch is None:
        return jnp.mean(denoising_error(rows, frozen, batch, config))
    of_word, of_class = jnp.split(denoising_error(rows, frozen, concat(batch, class_batch), config), 2)
    return jnp.mean(of_word) + config.objective.prior_loss_weight * jnp.mean(of_class)


def denoising_error(rows: dict[str, jax.Array], frozen: dict, batch: Batch, config: StepConfig) -> jax.Array:
    """The weighted error of every value, `[batch, height, width, channels]` float32; arguments as above."""
    told = encode_with_rows(
        config.model,
        frozen,
        rows,
        batch.token_ids,
        first_added_id=config.first_added_id,
        special=config.special,
    )
    conditioning = (*told, batch.time_ids) if config.model.is_sdxl else (told.hidden_states,)
    input_noise = batch.noise if batch.input_noise is None else batch.input_noise
    noisy = config.schedule.add_noise(batch.latents, input_noise, batch.timesteps)
    predicted = config.model.unet.apply({"params": frozen["unet"]}, noisy, batch.timesteps, *conditioning)
    target = config.schedule.target(batch.latents, batch.noise, batch.timesteps)
    error = config.objective.error(jnp.asarray(predicted), target, batch.timesteps)
    return error if batch.loss_weights is None else error * batch.loss_weights[..., None]


def update(
    config: StepConfig, state: TrainState, frozen: dict, key: jax.Array, rate: jax.Array, shown: Window
) -> tuple[TrainState, dict]:
    """One update from one global batch; runs on every device, with gradients averaged over them.

    Its measures are `loss`, `grad_norm` (of the rows that learn, before clipping) and `finite`, 1 if both and
    the new rows are finite, else 0; each `[]` float32.

    Args:
      config: the run's fixed parts.
      state: before the update.
      frozen: parameter trees of the text encoders and the `unet`, and the `examples`, a `PaddedDataset`.
      key: the run's key.
      rate: `[]` float32, the learning rate.
      shown: the pictures of this update on this device, `[accumulation, batch, numbers]` each.
    """
    examples: PaddedDataset = frozen["examples"]
    device = jax.lax.axis_index(AXIS)
    # A text encoder of which no row learns is not differentiated.
    learning = {encoder: rows for encoder, rows in state.rows.items() if config.trainable[encoder].any()}

    def gradient_from(bucket: PaddedBucket, class_bucket: PaddedBucket | None, round: jax.Array | None):
        def drawn(key: jax.Array, bucket: PaddedBucket, prompts: PromptTable, numbers, positions) -> Batch:
            places = {"step": state.step, "round": round}
            return jax.vmap(
                lambda position, picture: draw(
                    config.draw_rules, key, bucket, prompts, position=position, picture=picture, **places
                )
            )(positions, pictures_in(numbers, bucket))

        def accumulate(total, micro):
            positions = config.positions(micro, device)
            batch = drawn(key, bucket, examples.prompts, shown.pictures[micro], positions)
            class_batch = None
            if class_bucket is not None and examples.class_prompts is not None:
                class_key, numbers = jax.random.fold_in(key, CLASS_IMAGES), shown.class_pictures[micro]
                class_batch = drawn(class_key, class_bucket, examples.class_prompts, numbers, positions)
            loss_and_gradient = jax.value_and_grad(
                lambda rows: denoising_loss({**state.rows, **rows}, frozen, batch, config, class_batch)
            )(learning)
            return jax.tree.map(jnp.add, total, loss_and_gradient), None

        zero = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, learning))
        return jax.lax.scan(accumulate, zero, jnp.arange(config.accumulation))[0]

    class_buckets = examples.class_buckets or (None,) * len(examples.buckets)
    owner, round = owner_of_step(key, state.step, examples.buckets)
    branches = [partial(gradient_from, *pair) for pair in zip(examples.buckets, class_buckets)]
    total = branches[0](None) if round is None else jax.lax.switch(owner, branches, round)
    loss, gradient = jax.tree.map(lambda x: jax.lax.pmean(x / config.accumulation, AXIS), total)
    gradient = {encoder: gradient.get(encoder, jnp.zeros_like(rows)) for encoder, rows in state.rows.items()}
    if config.rules.pull is not None:
        pull, its_gradient = l2_to_init(config.rules, state.rows, config.trainable)
        loss, gradient = loss + pull, jax.tree.map(jnp.add, gradient, its_gradient)
    norm = norm_of_learning(gradient, config.trainable)
    moved = apply_update(config, state, gradient, rate)
    finite = all_finite((loss, norm, moved.rows))
    if config.skip_nonfinite:
        moved = jax.tree.map(partial(jnp.where, finite), moved, state._replace(step=moved.step))
    return moved, {"loss": loss, "grad_norm": norm, "finite": finite.astype(jnp.float32)}


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a tree is finite, `[]` bool."""
    return reduce(jnp.logical_and, (jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)))


def norm_of_learning(gradient: dict[str, jax.Array], trainable: dict[str, np.ndarray]) -> jax.Array:
    """The norm of the gradient of all rows that learn, `[]`."""
    squares = (jnp.sum(jnp.square(each * trainable[encoder][:, None])) for encoder, each in gradient.items())
    return jnp.sqrt(sum_of(squares))


def apply_update(
    config: StepConfig, state: TrainState, gradient: dict[str, jax.Array], rate: jax.Array
) -> TrainState:
    """The state after an update with the gradient of a whole global batch.

    Args:
      config: the run's fixed parts.
      state: before the update.
      gradient: `[added_tokens, width]` by text encoder.
      rate: `[]` float32, the learning rate.
    """
    optimizer = config.optimizer(lambda step: rate, config.clip)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.rows)
    rows = apply_updates(state.rows, cast(dict[str, jax.Array], updates), config.trainable)
    rows = rescale_norms(config.rules, rows, config.trainable)
    mean = state.mean_rows
    if mean is not None:
        mean = ema_update(config.rules, mean, rows, step=state.step, trainable=config.trainable)
    return TrainState(rows, opt_state, state.step + 1, mean)


def make_chunk(config: StepConfig, capacity: int) -> Callable:
    """Builds `chunk(state, frozen, key, rates, steps, window)`: up to `capacity` updates without the host.

    `frozen` has the parameter trees of the model, the `examples` as a `PaddedDataset`, and the
    `settings` that take the place of those in `config`. `rates` are the learning rates of the updates,
    `[capacity]` float32, of which the first `steps` count. As all numbers that people tune are arguments,
    other ones are the same program, and so are chunks of every length, which give the same bits. The measures
    come out as `[capacity]` float32 each, of which the first `steps` are filled. The `window` has pictures
    for `capacity` updates where the examples have none.

    The pictures of an update are there before it begins, so that what computes with them is compiled alike
    wherever they come from, and gives the same bits.
    """

    def chunk(
        state: TrainState,
        frozen: dict,
        key: jax.Array,
        rates: jax.Array,
        steps: jax.Array,
        window: Window | None = None,
    ):
        given = config.with_settings(frozen["settings"])

        run_key = jax.random.wrap_key_data(key, impl=KEY_IMPLEMENTATION)

        def pictures(i: jax.Array, step: jax.Array) -> Window:
            if window is not None:
                return jax.tree.map(lambda each: each[i], window)
            return pictures_of_update(given, frozen["examples"], run_key, step, jax.lax.axis_index(AXIS))

        def body(i, carry):
            state, measured, shown = carry
            state, metrics = update(given, state, frozen, run_key, rates[i], shown)
            measured = jax.tree.map(lambda column, x: column.at[i].set(x), measured, metrics)
            return state, measured, pictures(i + 1, state.step)

        empty = {name: jnp.zeros(capacity, jnp.float32) for name in STEP_METRICS}
        return jax.lax.fori_loop(0, steps, body, (state, empty, pictures(jnp.int32(0), state.step)))[:2]

    return chunk
