"""The samples of an update, drawn on the device from the dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ti_flax.data.dataset import PaddedBucket, PromptTable
from ti_flax.training.noise import NoiseRules
from ti_flax.training.permutation import permuted
from ti_flax.training.timesteps import TimestepRules

# Folded into keys that are also split, and into which steps and positions are folded: so far from zero that
# none of those gives the same key.
CLASS_IMAGES = 0x7C1A0001


TIMESTEPS_OF_UPDATE = 0x7C1A0002


NOISE_SHAPING = 0x7C1A0003


# For the order of buckets.
BUCKETS = 0x7C1A0004


class Batch(NamedTuple):
    """What one batch is made of, before the models see it.

    Attributes:
      latents: `[batch, height, width, channels]` float32, posterior samples x scaling factor.
      noise: like `latents`, standard normal.
      timesteps: `[batch]` int32.
      token_ids: `[batch, tokens]` int32.
      loss_weights: `[batch, height, width]` float32, or None.
      input_noise: like `noise`, what the model sees in its place; None: the same.
      time_ids: `[batch, 6]` float32, micro-conditioning: original height and width, crop top and left, target
        height and width; None for models that take none.
    """

    latents: jax.Array
    noise: jax.Array
    timesteps: jax.Array
    token_ids: jax.Array
    loss_weights: jax.Array | None = None
    input_noise: jax.Array | None = None
    time_ids: jax.Array | None = None


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


def image_index(key: jax.Array, sample: jax.Array, images: jax.typing.ArrayLike) -> jax.Array:
    """Which image the n-th sample shows, `[]` int32: a fresh shuffle of all images every epoch."""
    return permuted(jax.random.fold_in(key, sample // images), sample % images, images)


def bucket_of_step(
    key: jax.Array, step: jax.Array, buckets: tuple[PaddedBucket, ...]
) -> tuple[jax.Array, jax.Array]:
    """The bucket of an update, and which round of that bucket it is, each `[]` int32.

    Updates come in stretches of as many as there are places. In every stretch each bucket has as many as it
    has places, in a fresh shuffle, and its rounds are the next as many whole numbers, each once, in an order
    that is shuffled too. A round of a global batch of b samples is b samples in a row of the bucket's epochs,
    so a whole stretch shows every image b times for each of its places; within a stretch, a bucket's epochs
    run into one another.
    """
    places = jnp.stack([jnp.asarray(bucket.places, jnp.int32) for bucket in buckets])
    ends = jnp.cumsum(places)
    stretch, now = step // ends[-1], step % ends[-1]
    place = permuted(jax.random.fold_in(key, stretch), now, ends[-1])
    chosen = jnp.sum(ends <= place, dtype=jnp.int32)
    return chosen, stretch * places[chosen] + place - (ends - places)[chosen]


class Choice(NamedTuple):
    """Which picture a sample shows, each `[]` int32.

    Attributes:
      image: index of the image in its bucket.
      mirrored: 1 for the mirror image.
    """

    image: jax.Array
    mirrored: jax.Array


class Picture(NamedTuple):
    """An image or mirror image as it is encoded.

    Attributes:
      posterior: `[height, width, 2 * channels]` float32, mean and log-variance.
      loss_weights: `[height, width]` float32, or None.
    """

    posterior: jax.Array
    loss_weights: jax.Array | None


def choose(
    rules: DrawRules,
    key: jax.Array,
    bucket: PaddedBucket,
    *,
    step: jax.Array,
    position: jax.Array,
    round: jax.Array | None = None,
) -> Choice:
    """Chooses the picture of one sample, by integers: every device agrees. Arguments as for `draw`."""
    order_key, sample_key = jax.random.split(key)
    *_, flip_key = _sample_keys(sample_key, step, position)
    sample = (step if round is None else round) * rules.global_batch + position
    place = image_index(order_key, sample, bucket.places)
    mirrored = jax.random.bernoulli(flip_key, rules.flip_p).astype(jnp.int32)
    return Choice(jnp.asarray(bucket.sample_indices)[place], mirrored)


def side_of(mirrored: Any, sides: int) -> Any:
    """Where a picture is among the sides of its image that there are: both, or the one that is drawn."""
    return mirrored if sides == 2 else mirrored * 0


def picture_of(bucket: PaddedBucket, choice: Choice) -> Picture:
    """The picture that was chosen, out of a bucket that holds all."""
    side = side_of(choice.mirrored, bucket.posteriors.shape[1])
    weights = bucket.loss_weights
    return Picture(
        jnp.asarray(bucket.posteriors)[choice.image, side],
        None if weights is None else jnp.asarray(weights)[choice.image, choice.mirrored],
    )


def time_ids_of(bucket: PaddedBucket, choice: Choice) -> jax.Array | None:
    """The micro-conditioning of the picture that was chosen, `[6]` float32, if the model takes any."""
    if bucket.time_ids is None:
        return None
    return jnp.asarray(bucket.time_ids)[choice.image, side_of(choice.mirrored, bucket.time_ids.shape[1])]


def _sample_keys(key: jax.Array, step: jax.Array, position: jax.Array) -> tuple[jax.Array, ...]:
    """The sample's key, and those of posterior, noise, timestep, template and flip."""
    sample_key = jax.random.fold_in(jax.random.fold_in(key, step), position)
    return sample_key, *jax.random.split(sample_key, 5)


def draw(
    rules: DrawRules,
    key: jax.Array,
    bucket: PaddedBucket,
    prompts: PromptTable,
    *,
    step: jax.Array,
    position: jax.Array,
    round: jax.Array | None = None,
    picture: Picture | None = None,
) -> Batch:
    """Draws one sample; everything in it depends on (key, step, position in the global batch) alone.

    Args:
      rules: of drawing.
      key: the run's key.
      bucket: the images to draw from.
      prompts: of its images.
      step: `[]` int32, update index.
      position: `[]` int32, place in the global batch.
      round: `[]` int32, which round of this bucket the update is; None: `step`, as with a single bucket.
      picture: what `choose` chooses, where the bucket does not hold it.

    Returns:
      A `Batch` without the batch axis.
    """
    _, sample_key = jax.random.split(key)
    sample_key, posterior_key, noise_key, time_key, template_key, _ = _sample_keys(sample_key, step, position)
    update_key = jax.random.fold_in(jax.random.fold_in(key, TIMESTEPS_OF_UPDATE), step)
    shaping_key = jax.random.fold_in(sample_key, NOISE_SHAPING)
    choice = choose(rules, key, bucket, step=step, position=position, round=round)
    return one_sample(
        rules,
        SampleKeys(posterior_key, noise_key, template_key, shaping_key),
        picture_of(bucket, choice) if picture is None else picture,
        prompts,
        group=jnp.asarray(bucket.prompts)[choice.image],
        timestep=rules.timesteps.draw(time_key, update_key, position=position, samples=rules.global_batch),
        time_ids=time_ids_of(bucket, choice),
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
    picture: Picture,
    prompts: PromptTable,
    *,
    group: jax.Array,
    timestep: jax.Array,
    time_ids: jax.Array | None = None,
) -> Batch:
    """A sample of one picture at one timestep; latents, noise and prompt are drawn.

    Args:
      rules: of drawing.
      keys: of the sample.
      picture: as it is encoded.
      prompts: of the images.
      group: `[]` int32, the group of prompts that describes the image.
      timestep: `[]` int32.
      time_ids: `[6]` float32, the picture's micro-conditioning, or None.

    Returns:
      A `Batch` without the batch axis.
    """
    mean, log_variance = jnp.split(picture.posterior, 2, axis=-1)
    sampled = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(keys.posterior, mean.shape)
    variant = jax.random.randint(keys.template, (), 0, prompts.variants)
    latents = sampled * rules.scaling_factor
    noise, input_noise = rules.noise.apply(keys.shaping, jax.random.normal(keys.noise, mean.shape), latents)
    return Batch(
        latents=latents,
        noise=noise,
        timesteps=timestep,
        token_ids=jnp.asarray(prompts.token_ids)[group * prompts.variants + variant],
        loss_weights=picture.loss_weights,
        input_noise=input_noise,
        time_ids=time_ids,
    )
