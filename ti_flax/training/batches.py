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


# For the variant of an image.
VARIANT = 0x7C1A0006


# Pinned, because the bits of a run must not depend on a JAX flag.
KEY_IMPLEMENTATION = "threefry2x32"


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
      flip_p: chance that a sample is the mirror image, where an image has none of its own.
      noise: what is mixed into the noise.
      variants: of each image, of which a sample shows any.
    """

    global_batch: int
    scaling_factor: float
    timesteps: TimestepRules
    flip_p: float
    noise: NoiseRules = NoiseRules()
    variants: int = 1


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
    """All of a sample but its noise, in whole numbers; each `[]` int32 unless said otherwise.

    Attributes:
      image: index of the image in its bucket.
      mirrored: 1 for the mirror image.
      prompt: row of the table of prompts.
      timestep: of the noise.
      keys: `[3, 2]` uint32, data of the `NoiseKeys`.
      variant: of the image; None where there is only one.
    """

    image: jax.Array
    mirrored: jax.Array
    prompt: jax.Array
    timestep: jax.Array
    keys: jax.Array
    variant: jax.Array | None = None


class Example(NamedTuple):
    """A picture as it is encoded, and what is said of it: a sample before its noise is drawn.

    Attributes:
      posterior: `[height, width, 2 * channels]` float32, mean and log-variance.
      token_ids: `[tokens]` int32.
      loss_weights: `[height, width]` float32, or None.
      time_ids: `[6]` float32, micro-conditioning; None for models that take none.
    """

    posterior: jax.Array
    token_ids: jax.Array
    loss_weights: jax.Array | None = None
    time_ids: jax.Array | None = None


class NoiseKeys(NamedTuple):
    """Keys of a sample's numbers: latents from its posterior, its noise, and what shapes that."""

    posterior: jax.Array
    noise: jax.Array
    shaping: jax.Array


class SampleKeys(NamedTuple):
    """Keys of all that is drawn about a sample."""

    numbers: NoiseKeys
    timestep: jax.Array
    prompt: jax.Array
    flip: jax.Array
    variant: jax.Array


def sample_keys(key: jax.Array, step: jax.Array, position: jax.Array) -> SampleKeys:
    """Those of one sample, out of the run's key."""
    _, samples_key = jax.random.split(key)
    sample_key = jax.random.fold_in(jax.random.fold_in(samples_key, step), position)
    posterior, noise, timestep, prompt, flip = jax.random.split(sample_key, 5)
    shaping = jax.random.fold_in(sample_key, NOISE_SHAPING)
    variant = jax.random.fold_in(sample_key, VARIANT)
    return SampleKeys(NoiseKeys(posterior, noise, shaping), timestep, prompt, flip, variant)


def choose(
    rules: DrawRules,
    key: jax.Array,
    bucket: PaddedBucket,
    prompts: PromptTable,
    *,
    step: jax.Array,
    position: jax.Array,
    round: jax.Array | None = None,
) -> Choice:
    """Chooses all of one sample but its noise, by integers: every device and every host agrees.

    It depends on (key, step, position) alone, and so does the noise, whose keys it has.

    Args:
      rules: of drawing.
      key: the run's key.
      bucket: the images to choose from.
      prompts: of its images.
      step: `[]` int32, update index.
      position: `[]` int32, place in the global batch.
      round: `[]` int32, which round of this bucket the update is; None: `step`, as with a single bucket.
    """
    order_key, _ = jax.random.split(key)
    keys = sample_keys(key, step, position)
    sample = (step if round is None else round) * rules.global_batch + position
    image = jnp.asarray(bucket.sample_indices)[image_index(order_key, sample, bucket.places)]
    flip_p = rules.flip_p if bucket.flip_p is None else jnp.asarray(bucket.flip_p)[image]
    mirrored = jax.random.bernoulli(keys.flip, flip_p).astype(jnp.int32)
    update_key = jax.random.fold_in(jax.random.fold_in(key, TIMESTEPS_OF_UPDATE), step)
    timestep = rules.timesteps.draw(keys.timestep, update_key, position=position, samples=rules.global_batch)
    prompt = prompt_of(keys.prompt, bucket, prompts, image)
    numbers = jnp.stack(list(map(jax.random.key_data, keys.numbers)))
    variant = jax.random.randint(keys.variant, (), 0, rules.variants) if rules.variants > 1 else None
    return Choice(image, mirrored, prompt, timestep, numbers, variant)


def prompt_of(key: jax.Array, bucket: PaddedBucket, prompts: PromptTable, image: jax.Array) -> jax.Array:
    """Draws one of an image's prompts: its row of the table, `[]` int32."""
    variant = jax.random.randint(key, (), 0, prompts.variants)
    return jnp.asarray(bucket.prompts)[image] * prompts.variants + variant


def side_of(mirrored: Any, sides: int) -> Any:
    """Where a picture is among the sides of its image that there are: both, or the one that is drawn."""
    return mirrored if sides == 2 else mirrored * 0


def picture_of(variant: Any, mirrored: Any, pictures: int, variants: int) -> Any:
    """Where a picture is among those of its image: variant after variant, each with its sides.

    Args:
      variant: of the image; None where there is only one.
      mirrored: 1 for the mirror image.
      pictures: that an image has.
      variants: that an image has.
    """
    side = side_of(mirrored, pictures // variants)
    return side if variant is None else variant * (pictures // variants) + side


def example_of(
    bucket: PaddedBucket, prompts: PromptTable, *, image: Any, mirrored: Any, prompt: Any
) -> Example:
    """What was chosen to be shown and said, out of a bucket that holds its pictures."""
    weights, time_ids = bucket.loss_weights, bucket.time_ids

    def of_picture(sides: Any) -> jax.Array:
        return jnp.asarray(sides)[image, side_of(mirrored, sides.shape[1])]

    return Example(
        of_picture(bucket.posteriors),
        jnp.asarray(prompts.token_ids)[prompt],
        None if weights is None else of_picture(weights),
        None if time_ids is None else of_picture(time_ids),
    )


def draw(rules: DrawRules, example: Example, timestep: jax.Array, keys: jax.Array) -> Batch:
    """A sample with its noise, without the batch axis.

    Args:
      rules: of drawing.
      example: what it shows.
      timestep: `[]` int32.
      keys: `[3, 2]` uint32, as in a `Choice`.
    """
    made = (jax.random.wrap_key_data(each, impl=KEY_IMPLEMENTATION) for each in keys)
    return noised(rules, NoiseKeys(*made), example, timestep)


def noised(rules: DrawRules, keys: NoiseKeys, example: Example, timestep: jax.Array) -> Batch:
    """A sample at one timestep; latents and noise are drawn. Without the batch axis.

    Args:
      rules: of drawing.
      keys: of the sample.
      example: what it shows.
      timestep: `[]` int32.
    """
    mean, log_variance = jnp.split(example.posterior, 2, axis=-1)
    sampled = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(keys.posterior, mean.shape)
    latents = sampled * rules.scaling_factor
    noise, input_noise = rules.noise.apply(keys.shaping, jax.random.normal(keys.noise, mean.shape), latents)
    return Batch(
        latents=latents,
        noise=noise,
        timesteps=timestep,
        token_ids=example.token_ids,
        loss_weights=example.loss_weights,
        input_noise=input_noise,
        time_ids=example.time_ids,
    )
