"""The samples of an update, drawn on the device from the dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.data.dataset import Bucket
from ti_flax.training.noise import NoiseRules
from ti_flax.training.timesteps import TimestepRules

# Folded into keys that are also split, and into which steps and positions are folded: so far from zero that
# none of those gives the same key.
CLASS_IMAGES = 0x7C1A0001


TIMESTEPS_OF_UPDATE = 0x7C1A0002


NOISE_SHAPING = 0x7C1A0003


class Batch(NamedTuple):
    """What one batch is made of, before the models see it.

    Attributes:
      latents: `[batch, height, width, channels]` float32, posterior samples x scaling factor.
      noise: like `latents`, standard normal.
      timesteps: `[batch]` int32.
      token_ids: `[batch, tokens]` int32.
      loss_weights: `[batch, height, width]` float32, or None.
      input_noise: like `noise`, what the model sees in its place; None: the same.
    """

    latents: jax.Array
    noise: jax.Array
    timesteps: jax.Array
    token_ids: jax.Array
    loss_weights: jax.Array | None = None
    input_noise: jax.Array | None = None


@dataclass(frozen=True, kw_only=True)
class DrawRules:
    """How samples are drawn.

    Attributes:
      global_batch: samples of an update, over all devices and accumulated batches.
      scaling_factor: of the VAE, by which latents are multiplied.
      timesteps: which are drawn.
      flip_p: chance that a sample is the mirror image.
      noise: what is mixed into the noise.
    """

    global_batch: int
    scaling_factor: float
    timesteps: TimestepRules
    flip_p: float
    noise: NoiseRules = NoiseRules()


def concat(batch: Batch, other: Batch) -> Batch:
    """One batch of both; where only one has loss weights, the other's are 1."""
    if (batch.loss_weights is None) != (other.loss_weights is None):
        batch, other = (
            each._replace(loss_weights=jnp.ones(each.latents.shape[:3]))
            if each.loss_weights is None
            else each
            for each in (batch, other)
        )
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), batch, other)


def image_index(key: jax.Array, sample: jax.Array, images: int) -> jax.Array:
    """Which image the n-th sample shows: a fresh shuffle of all images every epoch."""
    order = jax.random.permutation(jax.random.fold_in(key, sample // images), images)
    return order[sample % images]


def bucket_of_step(
    key: jax.Array, step: jax.Array, buckets: tuple[Bucket, ...]
) -> tuple[jax.Array, jax.Array]:
    """The bucket of an update, and how many updates before it were of the same bucket, each `[]` int32.

    In every stretch of as many updates as there are places, each bucket has as many as it has places, in
    a fresh shuffle; so every image is shown as often as its places say.
    """
    owner = np.repeat(
        np.arange(len(buckets), dtype=np.int32), [len(bucket.sample_indices) for bucket in buckets]
    )
    stretch, now = step // len(owner), step % len(owner)
    order = jax.random.permutation(jax.random.fold_in(key, stretch), jnp.asarray(owner))
    chosen = order[now]
    here = jnp.sum((order == chosen) & (jnp.arange(len(owner)) < now))
    before = (
        stretch * jnp.asarray([len(bucket.sample_indices) for bucket in buckets], jnp.int32)[chosen] + here
    )
    return chosen, before.astype(jnp.int32)


def draw(
    rules: DrawRules,
    key: jax.Array,
    bucket: Bucket,
    token_ids: jax.Array | np.ndarray,
    *,
    step: jax.Array,
    position: jax.Array,
    round: jax.Array | None = None,
) -> Batch:
    """Draws one sample; everything in it depends on (key, step, position in the global batch) alone.

    Args:
      rules: of drawing.
      key: the run's key.
      bucket: the images to draw from.
      token_ids: `[groups, variants, tokens]` int32.
      step: `[]` int32, update index.
      position: `[]` int32, place in the global batch.
      round: `[]` int32, updates of this bucket before this one; None: `step`, as with a single bucket.

    Returns:
      A `Batch` without the batch axis.
    """
    order_key, sample_key = jax.random.split(key)
    sample_key = jax.random.fold_in(jax.random.fold_in(sample_key, step), position)
    posterior_key, noise_key, time_key, template_key, flip_key = jax.random.split(sample_key, 5)
    update_key = jax.random.fold_in(jax.random.fold_in(key, TIMESTEPS_OF_UPDATE), step)
    shaping_key = jax.random.fold_in(sample_key, NOISE_SHAPING)

    sample = (step if round is None else round) * rules.global_batch + position
    place = image_index(order_key, sample, bucket.sample_indices.shape[0])
    return one_sample(
        rules,
        SampleKeys(posterior_key, noise_key, template_key, shaping_key),
        bucket,
        token_ids,
        image=jnp.asarray(bucket.sample_indices)[place],
        mirrored=jax.random.bernoulli(flip_key, rules.flip_p).astype(jnp.int32),
        timestep=rules.timesteps.draw(time_key, update_key, position=position, samples=rules.global_batch),
    )


class SampleKeys(NamedTuple):
    """Keys of what is drawn about a sample whose image and timestep are settled."""

    posterior: jax.Array
    noise: jax.Array
    template: jax.Array
    shaping: jax.Array


def one_sample(
    rules: DrawRules,
    keys: SampleKeys,
    bucket: Bucket,
    token_ids: jax.Array | np.ndarray,
    *,
    image: jax.Array,
    mirrored: jax.Array,
    timestep: jax.Array,
) -> Batch:
    """A sample of one image at one timestep; posterior, noise and prompt are drawn.

    Args:
      rules: of drawing.
      keys: of the sample.
      bucket: the images.
      token_ids: `[groups, variants, tokens]` int32.
      image: `[]` int32, which image of the bucket.
      mirrored: `[]` int32, 1 for the mirror image.
      timestep: `[]` int32.

    Returns:
      A `Batch` without the batch axis.
    """
    side = mirrored if bucket.posteriors.shape[1] == 2 else 0  # which is the only one that is drawn
    mean, log_variance = jnp.split(jnp.asarray(bucket.posteriors)[image, side], 2, axis=-1)
    sampled = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(keys.posterior, mean.shape)
    variant = jax.random.randint(keys.template, (), 0, token_ids.shape[1])
    weights = None if bucket.loss_weights is None else jnp.asarray(bucket.loss_weights)[image, mirrored]
    latents = sampled * rules.scaling_factor
    noise, input_noise = rules.noise.apply(keys.shaping, jax.random.normal(keys.noise, mean.shape), latents)
    return Batch(
        latents=latents,
        noise=noise,
        timesteps=timestep,
        token_ids=jnp.asarray(token_ids)[jnp.asarray(bucket.prompts)[image], variant],
        loss_weights=weights,
        input_noise=input_noise,
    )
