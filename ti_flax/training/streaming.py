"""The pictures that samples show: gathered on a device that holds all, or sent by the host call by call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.data.dataset import Bucket, Dataset, PaddedBucket, PaddedDataset, padded
from ti_flax.training.batches import (
    BUCKETS,
    CLASS_IMAGES,
    Choice,
    Picture,
    bucket_of_step,
    choose,
    picture_of,
    side_of,
)
from ti_flax.training.devices import apart, ours
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig

# Bytes of the pictures of a call on one device. Two calls' are there at a time.
WINDOW_BYTES = 2**26


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
    positions = config.positions(jnp.arange(config.accumulation)[:, None], device).ravel()

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


class Feed:
    """Makes the windows of a run's calls.

    Args:
      config: the run's fixed parts.
      examples: with all posteriors, in memory or in files.
      key: the run's key, its data as uint32.
      devices: of all hosts.
      most_updates: the most of a call.
      total_steps: updates of the whole run.
    """

    def __init__(
        self,
        config: StepConfig,
        examples: Dataset,
        key: np.ndarray,
        devices: Sequence[Any],
        *,
        most_updates: int,
        total_steps: int,
    ):
        self._config, self._devices, self._total = config, devices, total_steps
        self._streams = [_Stream(config, examples.buckets, examples.buckets, key, of_class=False)]
        if examples.class_buckets is not None:
            self._streams.append(
                _Stream(config, examples.class_buckets, examples.buckets, key, of_class=True)
            )
        samples = config.batch_size * config.accumulation
        of_update = samples * 4 * sum(stream.numbers for stream in self._streams)
        self.capacity = min(most_updates, max(1, WINDOW_BYTES // of_update))
        self._ready: tuple[int, int, Any] = (0, 0, None)

    def prepare(self, step: int, updates: int) -> None:
        """Sends the devices what so many updates after `step` need, before `window` asks for it."""
        updates = min(updates, self.capacity, self._total - step)
        if updates > 0:
            self._ready = step, updates, self._sent(step, updates)

    def window(self, step: int, updates: int) -> Window:
        """The pictures of so many updates after `step`, on the devices: leaves are `[devices, ...]`."""
        first, length, window = self._ready
        if window is None or first != step or length < updates:
            window = self._sent(step, updates)
        self._ready = (0, 0, None)
        return window

    def empty(self) -> Window:
        """A window of zeros on the devices, to compile for."""
        config = self._config
        shape = (self.capacity, config.accumulation, config.batch_size)
        part = Window(*(np.zeros((*shape, stream.numbers), np.float32) for stream in self._streams))
        return apart([part] * len(ours(self._devices)), self._devices)

    def _sent(self, step: int, updates: int) -> Window:
        config = self._config
        local = [self._devices.index(device) for device in ours(self._devices)]
        shape = (self.capacity, config.accumulation, config.batch_size)
        parts = [[] for _ in local]
        for stream in self._streams:
            chosen = stream.choices(step, self.capacity)
            for part, device in zip(parts, local, strict=True):
                positions = config.positions(np.arange(config.accumulation)[:, None], device)
                numbers = np.zeros((*shape, stream.numbers), np.float32)
                stream.fill(numbers[:updates].reshape(updates, -1, stream.numbers), chosen, positions.ravel())
                part.append(numbers)
        return apart([Window(*part) for part in parts], self._devices)


class _Stream:
    """The pictures of the training images, or of the class images, call by call."""

    def __init__(
        self,
        config: StepConfig,
        buckets: Sequence[Bucket],
        of_training: Sequence[Bucket],
        key: np.ndarray,
        *,
        of_class: bool,
    ):
        self._buckets, self._key = buckets, key
        self.numbers = max(map(numbers_of, buckets))
        empty = padded(Dataset(tuple(buckets), np.zeros((1, 1, 1), np.int32)), streamed=True)
        training = padded(Dataset(tuple(of_training), np.zeros((1, 1, 1), np.int32)), streamed=True)
        self._arguments = empty.buckets, training.buckets
        self._choices = jax.jit(partial(_choices, config, of_class), static_argnums=0)
        # Beside the devices that compute, where there is a processor that JAX can use.
        try:
            self._device = jax.local_devices(backend="cpu")[0]
        except RuntimeError:
            self._device = jax.local_devices()[0]

    def choices(self, step: int, updates: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The bucket `[updates]`, image and side `[updates, global batch]` of the updates after `step`."""
        with jax.default_device(self._device):
            found = self._choices(updates, self._key, np.int32(step), *self._arguments)
        return jax.tree.map(np.asarray, found)

    def fill(
        self, numbers: np.ndarray, chosen: tuple[np.ndarray, np.ndarray, np.ndarray], positions: np.ndarray
    ) -> None:
        """Fills in the pictures of samples.

        Args:
          numbers: `[updates, samples, numbers]` float32.
          chosen: what `choices` gives.
          positions: `[samples]` int, places of these samples in the global batch.
        """
        owner, images, mirrored = (each[: len(numbers)] for each in chosen)
        for index, bucket in enumerate(self._buckets):
            updates = np.flatnonzero(owner == index)
            if not len(updates):
                continue
            here = np.ix_(updates, positions)
            image, mirror = images[here].ravel(), mirrored[here].ravel()
            found = bucket.posteriors[image, side_of(mirror, bucket.posteriors.shape[1])]
            moments = math.prod(found.shape[1:])
            numbers[updates, :, :moments] = found.reshape(len(updates), -1, moments)
            if bucket.loss_weights is not None:
                weights = bucket.loss_weights[image, mirror].reshape(len(updates), len(positions), -1)
                numbers[updates, :, moments : moments + weights.shape[-1]] = weights


def _choices(
    config: StepConfig,
    of_class: bool,
    updates: int,
    key: jax.Array,
    step: jax.Array,
    buckets: tuple[PaddedBucket, ...],
    training: tuple[PaddedBucket, ...],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The choices of all samples of some updates, as `pictures_of_update` makes them on a device."""
    run_key = jax.random.wrap_key_data(key, impl=KEY_IMPLEMENTATION)
    sample_key = jax.random.fold_in(run_key, CLASS_IMAGES) if of_class else run_key

    def of_update(step: jax.Array) -> tuple[jax.Array, Choice]:
        owner, round = owner_of_step(run_key, step, training)
        where = {"step": step, "round": round}

        def of_bucket(bucket: PaddedBucket) -> Choice:
            positions = jnp.arange(config.global_batch)
            return jax.vmap(
                lambda position: choose(config.draw_rules, sample_key, bucket, position=position, **where)
            )(positions)

        of_buckets = [of_bucket(bucket) for bucket in buckets]
        return owner, jax.tree.map(lambda *each: jnp.stack(each)[owner], *of_buckets)

    owners, chosen = jax.vmap(of_update)(step + jnp.arange(updates))
    return owners, chosen.image, chosen.mirrored
