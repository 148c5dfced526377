"""The training step: loss, update, and the one place where it is spread over devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.embedding.conditioning import encode_with_rows
from ti_flax.embedding.rows import ema_update, l2_to_init, less_prior, rescale_norms, sum_of
from ti_flax.models.prompt_encoding import PromptEncoding
from ti_flax.training.batches import Batch, concat, draw
from ti_flax.training.devices import AXIS
from ti_flax.training.optimizer import apply_updates
from ti_flax.training.state import StepConfig, Taught, TrainState
from ti_flax.training.streaming import PictureShape, Shapes, Shown, Window, examples_in

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
    return error_when_told(told, frozen, batch, config)


def error_when_told(told: PromptEncoding, frozen: dict, batch: Batch, config: StepConfig) -> jax.Array:
    """The same of a denoiser that is told this of the prompts."""
    conditioning = (*told, batch.time_ids) if config.model.is_sdxl else (told.hidden_states,)
    input_noise = batch.noise if batch.input_noise is None else batch.input_noise
    noisy = config.schedule.add_noise(batch.latents, input_noise, batch.timesteps)
    predicted = config.model.unet.apply({"params": frozen["unet"]}, noisy, batch.timesteps, *conditioning)
    target = config.schedule.target(batch.latents, batch.noise, batch.timesteps)
    error = config.objective.error(jnp.asarray(predicted), target, batch.timesteps)
    return error if batch.loss_weights is None else error * batch.loss_weights[..., None]


def update(
    config: StepConfig,
    shapes: Shapes,
    state: TrainState,
    frozen: dict,
    rate: jax.Array,
    shown: Window,
) -> tuple[TrainState, dict]:
    """One update of one concept; runs on every device that has a share of its batch, with a common gradient.

    Its measures are `loss`, `grad_norm` (of the rows that learn, before clipping) and `finite`, 1 if both and
    the new rows are finite, else 0; each `[]` float32.

    Args:
      config: the run's fixed parts.
      shapes: of the pictures.
      state: before the update.
      frozen: parameter trees of the text encoders and the `unet`.
      rate: `[]` float32, the learning rate.
      shown: what the samples of this update show on this device, `[accumulation, batch, ...]`.
    """
    loss, gradient = loss_and_gradient(config, shapes, state, frozen, shown)
    gradient = {encoder: gradient.get(encoder, jnp.zeros_like(rows)) for encoder, rows in state.rows.items()}
    if config.rules.pull is not None:
        pull, its_gradient = l2_to_init(config.rules, state.rows, config.trainable)
        loss, gradient = loss + pull, jax.tree.map(jnp.add, gradient, its_gradient)
    norm = norm_of_learning(gradient, config.trainable)
    moved = apply_update(config, state, gradient, rate)
    finite = all_finite((loss, norm, moved.rows))
    if config.skip_nonfinite:
        kept = state._replace(step=moved.step)
        moved = jax.tree.map(partial(jnp.where, finite), moved, kept)
    return moved, {"loss": loss, "grad_norm": norm, "finite": finite.astype(jnp.float32)}


def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers of a tree are finite, `[]` bool."""
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
    gradient = less_prior(config.rules, gradient, config.trainable)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.rows)
    rows = apply_updates(state.rows, cast(dict[str, jax.Array], updates), config.trainable)
    rows = rescale_norms(config.rules, rows, config.trainable)
    mean = state.mean_rows
    if mean is not None:
        mean = ema_update(config.rules, mean, rows, step=state.step, trainable=config.trainable)
    return TrainState(rows, opt_state, state.step + 1, mean)


def loss_and_gradient(
    config: StepConfig, shapes: Shapes, state: TrainState, frozen: dict, shown: Window
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a global batch, `[]`, and its gradient by the rows of the text encoders that learn.

    Arguments are those of `update`.
    """
    # A text encoder of which no row learns is not differentiated.
    learning = {encoder: rows for encoder, rows in state.rows.items() if config.trainable[encoder].any()}

    def gradient_from(shape: PictureShape, class_shape: PictureShape | None):
        def accumulate(total, micro):
            batch = batch_of(config, of_micro(shown.training, micro), shape)
            class_batch = None
            if class_shape is not None:
                class_batch = batch_of(config, of_micro(shown.of_class, micro), class_shape)
            found = jax.value_and_grad(
                lambda rows: denoising_loss({**state.rows, **rows}, frozen, batch, config, class_batch)
            )(learning)
            return jax.tree.map(jnp.add, total, found), None

        zero = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, learning))
        return jax.lax.scan(accumulate, zero, jnp.arange(config.accumulation))[0]

    class_shapes = shapes.class_buckets or (None,) * len(shapes.buckets)
    branches = [partial(gradient_from, *pair) for pair in zip(shapes.buckets, class_shapes)]
    total = branches[0]() if len(branches) == 1 else jax.lax.switch(shown.owner, branches)
    total = jax.tree.map(lambda x: x / config.accumulation, total)
    loss, gradient = mean_over_devices(config, total)
    return loss, gradient


def mean_over_devices(config: StepConfig, tree: Any) -> Any:
    """The mean over the devices that share a concept's batch; where none do, nothing passes between them."""
    return tree if config.whole_slots else jax.lax.pmean(tree, AXIS)


def batch_of(config: StepConfig, shown: Shown, shape: PictureShape) -> Batch:
    """Samples of which all but their noise is settled, with it."""
    draw_one = partial(draw, config.draw_rules)
    return jax.vmap(draw_one)(examples_in(shown, shape), shown.timesteps, shown.keys)


def of_micro(shown: Shown | None, micro: jax.Array) -> Shown:
    """What the samples of one of the accumulated batches show."""
    assert shown is not None
    return jax.tree.map(lambda each: each[micro], shown)


def make_chunk(config: StepConfig, capacity: int, shapes: Shapes) -> Callable:
    """Builds `chunk(state, frozen, taught, rates, steps, window)`: updates of all slots without the host.

    Every argument but `frozen`, the parameter trees of the model, has a slot axis in front. `taught` is a
    `Taught`. `rates` are the learning rates, `[slots, capacity]` float32, of which the first `steps`,
    `[slots]` int32, count. `window` has what the samples of up to `capacity` updates show.

    As all numbers that people tune are arguments, and images too, other ones are the same program, and so are
    chunks of every length, which give the same bits. The measures come out as `[slots, capacity]` float32
    each, of which the first `steps` are filled; a slot that has made its own waits for the others.
    """

    def chunk(
        state: TrainState, frozen: dict, taught: Taught, rates: jax.Array, steps: jax.Array, window: Window
    ):
        def of_slot(state: TrainState, settings, rate, active, shown) -> tuple[TrainState, dict]:
            given = config.with_settings(settings)
            moved, measured = update(given, shapes, state, frozen, rate, shown)
            return jax.tree.map(partial(jnp.where, active), moved, state), measured

        def body(i, carry):
            state, measured = carry
            shown = jax.tree.map(lambda each: each[:, i], window)
            arguments = (state, taught.settings, rates[:, i], i < steps, shown)
            state, metrics = over_slots(of_slot, *arguments, alike=len(shapes.buckets) == 1)
            measured = jax.tree.map(lambda column, x: column.at[:, i].set(x), measured, metrics)
            return state, measured

        empty = {name: jnp.zeros((config.slots, capacity), jnp.float32) for name in STEP_METRICS}
        return jax.lax.fori_loop(0, jnp.max(steps), body, (state, empty))

    return chunk


def over_slots(function: Callable, *arguments: Any, alike: bool) -> Any:
    """What a function gives for every slot, out of arguments with a slot axis.

    Slots go through the model side by side, as one batch, where the pictures of all are `alike` in shape, and
    one after another where each may have a shape of its own.
    """
    if len(jax.tree.leaves(arguments)[0]) == 1:
        found = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], found)
    if alike:
        return jax.vmap(function)(*arguments)
    return jax.lax.map(lambda each: function(*each), arguments)
