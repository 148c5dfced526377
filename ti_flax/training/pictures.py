"""The pictures that the samples of an update show, together in one array whatever their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ti_flax.data.dataset import Bucket, PaddedBucket, PaddedDataset
from ti_flax.training.batches import BUCKETS, CLASS_IMAGES, Picture, bucket_of_step, choose, picture_of
from ti_flax.training.state import StepConfig


class Window(NamedTuple):
    """The pictures of some updates on one device, in the order in which its samples show them.

    A picture's numbers are its posterior's, then its loss weights' where its bucket has some; those of
    smaller shapes leave room behind them.

    Attributes:
      pictures: `[updates, accumulation, batch, numbers]` float32.
      class_pictures: the same of class images; None without them.
    """

    pictures: Any
    class_pictures: Any = None


def numbers_of(bucket: Bucket | PaddedBucket) -> int:
    """How many numbers a picture of a bucket has."""
    height, width, moments = bucket.posteriors.shape[2:]
    return height * width * (moments + (bucket.loss_weights is not None))


def pictures_in(numbers: jax.Array, bucket: PaddedBucket) -> Picture:
    """The pictures of a bucket out of their numbers, `[batch, numbers]`; with a batch axis."""
    height, width, moments = bucket.posteriors.shape[2:]
    first = height * width * moments
    posteriors = numbers[:, :first].reshape(-1, height, width, moments)
    if bucket.loss_weights is None:
        return Picture(posteriors, None)
    return Picture(posteriors, numbers[:, first : first + height * width].reshape(-1, height, width))


def owner_of_step(
    key: jax.Array, step: jax.Array, buckets: Sequence[PaddedBucket]
) -> tuple[jax.Array, jax.Array | None]:
    """The bucket of an update, `[]` int32, and which round of it that is; None where there is one bucket."""
    if len(buckets) == 1:
        return jnp.int32(0), None
    return bucket_of_step(jax.random.fold_in(key, BUCKETS), step, tuple(buckets))


def pictures_of_update(
    config: StepConfig, examples: PaddedDataset, key: jax.Array, step: jax.Array, device: jax.Array
) -> Window:
    """The pictures of one update on a device that holds all, `[accumulation, batch, numbers]` each.

    Args:
      config: the run's fixed parts.
      examples: with all posteriors.
      key: the run's key.
      step: `[]` int32, update index.
      device: `[]` int32, which one this is.
    """
    owner, round = owner_of_step(key, step, examples.buckets)
    first = (jnp.arange(config.accumulation) * config.device_count + device) * config.batch_size
    positions = (first[:, None] + jnp.arange(config.batch_size)).ravel()

    def of_buckets(key: jax.Array, buckets: Sequence[PaddedBucket]) -> jax.Array:
        most = max(map(numbers_of, buckets))

        def of_bucket(bucket: PaddedBucket) -> jax.Array:
            def chosen(position: jax.Array) -> jax.Array:
                where = {"step": step, "round": round, "position": position}
                picture = picture_of(bucket, choose(config.draw_rules, key, bucket, **where))
                flat = jnp.concatenate([jnp.ravel(each) for each in jax.tree.leaves(picture)])
                return jnp.pad(flat, (0, most - len(flat)))

            return jax.vmap(chosen)(positions)

        branches = [lambda bucket=bucket: of_bucket(bucket) for bucket in buckets]
        found = branches[0]() if len(branches) == 1 else jax.lax.switch(owner, branches)
        return found.reshape(config.accumulation, config.batch_size, most)

    pictures = of_buckets(key, examples.buckets)
    if examples.class_buckets is None:
        return Window(pictures)
    return Window(pictures, of_buckets(jax.random.fold_in(key, CLASS_IMAGES), examples.class_buckets))
