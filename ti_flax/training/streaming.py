"""What samples show: chosen by the host, and sent to the devices call by call while they compute."""

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
    Example,
    bucket_of_step,
    choose,
    picture_of,
)
from ti_flax.training.devices import Slots
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig

# Bytes of the pictures of a call on one device. Two calls' are there at a time.
WINDOW_BYTES = 2**26


class PictureShape(NamedTuple):
    """What the pictures of a bucket are like.

    Attributes:
      height, width: of their latents.
      moments: numbers of a place in their posteriors, a mean and a log-variance a channel.
      masked: whether each place has a loss weight.
    """

    height: int
    width: int
    moments: int
    masked: bool

    @property
    def numbers(self) -> int:
        """How many numbers a picture has: its posterior's, then its loss weights'."""
        return self.height * self.width * (self.moments + self.masked)


class Shapes(NamedTuple):
    """What the pictures of a run are like, and what else is said of them: what its program is compiled for.

    Attributes:
      buckets: one for each shape, the same number of numbers or less than the largest.
      class_buckets: those of class images, one for each of `buckets`; None without any.
      tokens: of a prompt.
      sizes: whether the model takes micro-conditioning.
    """

    buckets: tuple[PictureShape, ...]
    class_buckets: tuple[PictureShape, ...] | None
    tokens: int
    sizes: bool


def picture_shape(bucket: Bucket) -> PictureShape:
    """What the pictures of a bucket are like."""
    height, width, moments = bucket.posteriors.shape[-3:]
    return PictureShape(height, width, moments, bucket.loss_weights is not None)


def shapes_of(examples: Dataset) -> Shapes:
    """Those of some examples, encoded or to be encoded."""
    classes = examples.class_buckets
    return Shapes(
        tuple(map(picture_shape, examples.buckets)),
        None if classes is None else tuple(map(picture_shape, classes)),
        examples.token_ids.shape[-1],
        examples.buckets[0].time_ids is not None,
    )


class Shown(NamedTuple):
    """What samples show and say, in the order of an update's samples.

    Attributes:
      pictures: `[..., batch, numbers]` float32; those of smaller shapes leave room behind them.
      token_ids: `[..., batch, tokens]` int32.
      timesteps: `[..., batch]` int32.
      keys: `[..., batch, 3, 2]` uint32, of their noise.
      time_ids: `[..., batch, 6]` float32, micro-conditioning; None for models that take none.
    """

    pictures: Any
    token_ids: Any
    timesteps: Any
    keys: Any
    time_ids: Any = None


class Window(NamedTuple):
    """What the samples of some updates show on one device.

    Attributes:
      owner: `[updates]` int32, which shape the images of an update have.
      training: `[updates, accumulation, batch, ...]`.
      of_class: the same of class images; None without them.
    """

    owner: Any
    training: Shown
    of_class: Shown | None = None


def examples_in(shown: Shown, shape: PictureShape) -> Example:
    """The pictures of one shape out of their numbers, and what is said of them; with the batch axis."""
    height, width, moments, masked = shape
    first = height * width * moments
    weights = shown.pictures[:, first : first + height * width].reshape(-1, height, width) if masked else None
    posteriors = shown.pictures[:, :first].reshape(-1, height, width, moments)
    return Example(posteriors, shown.token_ids, weights, shown.time_ids)


def owner_of_step(
    key: jax.Array, step: jax.Array, buckets: Sequence[PaddedBucket]
) -> tuple[jax.Array, jax.Array | None]:
    """The bucket of an update, `[]` int32, and which round of it that is; None where there is one bucket."""
    if len(buckets) == 1:
        return jnp.int32(0), None
    return bucket_of_step(jax.random.fold_in(key, BUCKETS), step, tuple(buckets))


def most_numbers(shapes: Sequence[PictureShape]) -> int:
    """How many numbers the largest of some pictures have."""
    return max(shape.numbers for shape in shapes)


def window_capacity(config: StepConfig, shapes: Shapes, most_updates: int) -> int:
    """The most updates, up to so many, of which a device has room for what they show."""
    numbers = most_numbers(shapes.buckets)
    if shapes.class_buckets is not None:
        numbers += most_numbers(shapes.class_buckets)
    samples = config.slots * config.batch_size * config.accumulation
    return min(most_updates, max(1, WINDOW_BYTES // (samples * 4 * numbers)))


def empty_window(config: StepConfig, shapes: Shapes, capacity: int) -> Window:
    """A window of zeros for one slot on one device."""

    def zeros(of: Sequence[PictureShape]) -> Shown:
        places = (capacity, config.accumulation, config.batch_size)
        return Shown(
            np.zeros((*places, most_numbers(of)), np.float32),
            np.zeros((*places, shapes.tokens), np.int32),
            np.zeros(places, np.int32),
            np.zeros((*places, 3, 2), np.uint32),
            np.zeros((*places, 6), np.float32) if shapes.sizes else None,
        )

    of_class = None if shapes.class_buckets is None else zeros(shapes.class_buckets)
    return Window(np.zeros(capacity, np.int32), zeros(shapes.buckets), of_class)


class Choices:
    """Chooses on the host what samples show: one program for all concepts of a run.

    Args:
      config: the run's fixed parts.
    """

    def __init__(self, config: StepConfig):
        self._choices = jax.jit(partial(_choices, config), static_argnums=(0, 1))
        # Beside the devices that compute, where there is a processor that JAX can use.
        try:
            self._device = jax.local_devices(backend="cpu")[0]
        except RuntimeError:
            self._device = jax.local_devices()[0]

    def __call__(
        self, examples: PaddedDataset, key: np.ndarray, *, step: int, updates: int, of_class: bool
    ) -> tuple[np.ndarray, Choice]:
        """The bucket `[updates]` and the choices `[updates, global batch]` of the updates after `step`."""
        with jax.default_device(self._device):
            found = self._choices(updates, of_class, key, np.int32(step), examples)
        return jax.tree.map(np.asarray, found)


def _choices(
    config: StepConfig, updates: int, of_class: bool, key: jax.Array, step: jax.Array, examples: PaddedDataset
) -> tuple[jax.Array, Choice]:
    """The bucket and the choices of all samples of some updates."""
    run_key = jax.random.wrap_key_data(key, impl=KEY_IMPLEMENTATION)
    buckets, prompts = examples.buckets, examples.prompts
    if of_class:
        assert examples.class_buckets is not None and examples.class_prompts is not None
        buckets, prompts = examples.class_buckets, examples.class_prompts
    sample_key = jax.random.fold_in(run_key, CLASS_IMAGES) if of_class else run_key

    def of_update(step: jax.Array) -> tuple[jax.Array, Choice]:
        owner, round = owner_of_step(run_key, step, examples.buckets)
        where = {"step": step, "round": round}

        def of_bucket(bucket: PaddedBucket) -> Choice:
            return jax.vmap(
                lambda position: choose(
                    config.draw_rules, sample_key, bucket, prompts, position=position, **where
                )
            )(jnp.arange(config.global_batch))

        of_buckets = [of_bucket(bucket) for bucket in buckets]
        return owner, jax.tree.map(lambda *each: jnp.stack(each)[owner], *of_buckets)

    return jax.vmap(of_update)(step + jnp.arange(updates))


class Feed:
    """What the samples of one concept show, call by call.

    Args:
      config: the run's fixed parts.
      examples: with all posteriors, in memory or in files.
      key: the concept's key, its data as uint32.
      shapes: of the run, those of the examples among them.
      capacity: the most updates of a call.
      choices: of the run; None: of its own.
    """

    def __init__(
        self,
        config: StepConfig,
        examples: Dataset,
        key: np.ndarray,
        shapes: Shapes,
        *,
        capacity: int,
        choices: Choices | None = None,
    ):
        self._config, self._examples, self._key, self._shapes = config, examples, key, shapes
        self._capacity, self._choices = capacity, choices or Choices(config)
        self._padded = padded(examples, pictures=False)
        self._owners = _places_among(shapes_of(examples), shapes)

    def windows(self, step: int, updates: int, devices: Sequence[int]) -> list[Window]:
        """Windows of the updates after `step`, for each of the devices that share the concept's batch.

        Args:
          step: updates made before.
          updates: of which the windows are filled; the rest of their capacity is zeros.
          devices: which ones of those that share it.
        """
        examples, shapes = self._examples, self._shapes
        windows = [empty_window(self._config, shapes, self._capacity) for _ in devices]
        if updates == 0:
            return windows
        owner, chosen = self._chosen(step, updates, of_class=False)
        for window, device in zip(windows, devices, strict=True):
            window.owner[:updates] = self._owners[owner]
            here = self._samples_of(chosen, device)
            self._show(window.training, examples.buckets, shapes.buckets, examples.token_ids, owner, here)
        if examples.class_buckets is None or shapes.class_buckets is None:
            return windows
        buckets, token_ids = examples.class_buckets, examples.class_token_ids
        owner, chosen = self._chosen(step, updates, of_class=True)
        for window, device in zip(windows, devices, strict=True):
            here = self._samples_of(chosen, device)
            self._show(window.of_class, buckets, shapes.class_buckets, token_ids, owner, here)
        return windows

    def _chosen(self, step: int, updates: int, *, of_class: bool) -> tuple[np.ndarray, Choice]:
        """The bucket and the choices of so many updates; as many as fit are chosen, for one program."""
        where = {"step": step, "updates": self._capacity, "of_class": of_class}
        owner, chosen = self._choices(self._padded, self._key, **where)
        return owner[:updates], jax.tree.map(lambda each: each[:updates], chosen)

    def _samples_of(self, chosen: Choice, device: int) -> Choice:
        """The choices `[updates, samples]` of those samples that a device takes, in their order."""
        micro = np.arange(self._config.accumulation)[:, None]
        places = self._config.positions(micro, device).ravel()
        return jax.tree.map(lambda each: each[:, places], chosen)

    def _show(
        self,
        shown: Shown | None,
        buckets: Sequence[Bucket],
        shapes: Sequence[PictureShape],
        token_ids: np.ndarray | None,
        owner: np.ndarray,
        chosen: Choice,
    ) -> None:
        """Fills in what the samples of some updates show and say, from the first update on."""
        assert shown is not None and token_ids is not None
        for index, bucket in enumerate(buckets):
            updates = np.flatnonzero(owner == index)
            its = jax.tree.map(lambda each, updates=updates: each[updates], chosen)
            _fill(shown, updates, its, bucket, shapes[self._owners[index]])
        said = token_ids.reshape(-1, token_ids.shape[-1])[chosen.prompt]
        for room, given in (
            (shown.token_ids, said),
            (shown.timesteps, chosen.timestep),
            (shown.keys, chosen.keys),
        ):
            room[: len(owner)] = given.reshape(room[: len(owner)].shape)


def _places_among(shapes: Shapes, of_run: Shapes) -> np.ndarray:
    """Where the shapes of some examples are among those of the run, `[buckets]` int32."""
    sizes = [shape[:3] for shape in of_run.buckets]
    return np.asarray([sizes.index(shape[:3]) for shape in shapes.buckets], np.int32)


def _fill(shown: Shown, updates: np.ndarray, chosen: Choice, bucket: Bucket, shape: PictureShape) -> None:
    """Fills in what the samples of some updates show of one bucket.

    Args:
      shown: `[updates, accumulation, batch, ...]`.
      updates: `[n]` int, which of them.
      chosen: of the samples, `[n, samples]`.
      bucket: whose images they show.
      shape: what the run knows of its pictures.
    """
    if not len(updates):
        return
    by_update = len(updates), *shown.pictures.shape[1:3], -1
    image, mirrored = np.ravel(chosen.image), np.ravel(chosen.mirrored)
    variant = None if chosen.variant is None else np.ravel(chosen.variant)

    def of_pictures(given: Any) -> np.ndarray:
        place = picture_of(variant, mirrored, given.shape[1], bucket.variants)
        return given[image, place].reshape(by_update)

    moments, weights = math.prod(shape[:3]), bucket.loss_weights
    shown.pictures[updates, :, :, :moments] = of_pictures(bucket.posteriors)
    if shape.masked:
        shown.pictures[updates, :, :, moments : shape.numbers] = (
            1.0 if weights is None else of_pictures(weights)
        )
    if bucket.time_ids is not None:
        shown.time_ids[updates] = of_pictures(bucket.time_ids)


class Sender:
    """Sends the devices what the samples of every slot show.

    Args:
      config: the run's fixed parts.
      shapes: of the run.
      slots: where they are.
      capacity: the most updates of a call.
    """

    def __init__(self, config: StepConfig, shapes: Shapes, slots: Slots, capacity: int):
        self._config, self.shapes, self.slots, self.capacity = config, shapes, slots, capacity
        self._feeds: list[Feed | None] = [None] * slots.count
        self._ready: tuple[list[int], int, Any] = ([], 0, None)

    def seat(self, slot: int, feed: Feed | None) -> None:
        """Takes what a slot shows from now on; None: nothing."""
        self._feeds[slot] = feed
        self._ready = ([], 0, None)

    def prepare(self, steps: Sequence[int], updates: int) -> None:
        """Sends what so many updates after each slot's `steps` need, before `window` asks for it."""
        updates = min(updates, self.capacity)
        if updates > 0:
            self._ready = list(steps), updates, self._sent(steps, updates)

    def window(self, steps: Sequence[int], updates: int) -> Window:
        """What so many updates after each slot's `steps` need, on the devices."""
        found, length, window = self._ready
        if window is None or found != list(steps) or length < updates:
            window = self._sent(steps, updates)
        self._ready = ([], 0, None)
        return window

    def empty(self) -> Window:
        """A window of zeros on the devices, to compile for."""
        return self.slots.place_windows([self._nothing()] * self.slots.count)

    def _nothing(self) -> list[Window]:
        return [empty_window(self._config, self.shapes, self.capacity)] * len(self.slots.sharing())

    def _sent(self, steps: Sequence[int], updates: int) -> Window:
        devices = self.slots.sharing()
        return self.slots.place_windows(
            [
                self._nothing() if feed is None else feed.windows(step, updates, devices)
                for feed, step in zip(self._feeds, steps, strict=True)
            ]
        )
