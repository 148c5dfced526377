"""The validation loss: the denoising error over samples that are the same at every evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.data.dataset import Bucket, Dataset, PaddedBucket, PaddedDataset, lengthened, padded, padded_size
from ti_flax.data.encoding import sides_of
from ti_flax.hosts.compilation import Compilation, shapes_in
from ti_flax.training.batches import NoiseKeys, example_of, noised, prompt_of
from ti_flax.training.devices import local_copies, pmapped, replicate, shard
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig, Taught, zero_rows
from ti_flax.training.step import denoising_error
from ti_flax.training.timesteps import TimestepRules

# Folded into the run's key, far from what else is folded into it.
VALIDATION = 0x7C1A0005
# The share of a run's time that evaluations may take.
LARGEST_SHARE = 0.05
# Likewise of a run that goes on until it is done, which they tell: what they take, a run that ends in time
# saves. And the fewest steps between two of its evaluations, below which a standstill is noise.
SHARE_UNTIL_DONE = 0.4
LEAST_INTERVAL_UNTIL_DONE = 10
# Evaluations of a long run; more would not show more.
MOST_EVALUATIONS = 50
# Evaluations that come before more samples in each of them.
WORTHWHILE_EVALUATIONS = 8
# The fewest and most samples, unless told otherwise. Over 30 samples the fall of the loss in 400 steps of a
# demo concept is within a tenth of that over 500.
SAMPLES = (32, 64)
# An update takes a sample through the model and back again: two passes, where an evaluation has one.
PASSES_OF_UPDATE = 2
# The least number of rounds that there is room for; more of a set of `SAMPLES` are there only by request.
FEWEST_ROUNDS = 256


class EvalIndices(NamedTuple):
    """What is looked at in one bucket, with room for more rounds, so that many sets have the same shapes.

    Attributes:
      number: `[devices, padded rounds, batch]` int32, number of the sample in the whole set; -1 fills up.
      image: like it, index of the image in the bucket.
      mirrored: like it, 1 for the mirror image.
      timestep: like it.
      rounds: `[devices]` int32, how many rounds there are.
    """

    number: np.ndarray
    image: np.ndarray
    mirrored: np.ndarray
    timestep: np.ndarray
    rounds: np.ndarray


@dataclass(frozen=True)
class EvalSet:
    """Samples that are the same at every evaluation.

    Attributes:
      places: for each bucket.
      weights: `[samples]` float64 of sum 1, as often as an epoch shows the image.
    """

    places: tuple[EvalIndices, ...]
    weights: np.ndarray

    @property
    def passes(self) -> int:
        """Samples that every device takes through the model, those that fill up among them."""
        return sum(int(places.rounds[0]) * places.number.shape[2] for places in self.places)


def eval_set(
    buckets: Sequence[Bucket],
    timesteps: TimestepRules,
    *,
    flip_p: float,
    samples: int,
    batch_size: int,
    devices: int,
) -> EvalSet:
    """Chooses images, mirrors and timesteps; nothing of it is random.

    Each image and, if images are mirrored in training, each mirror image comes equally often, about
    `samples` times in all; of more images as many as that, evenly from each bucket. The timesteps are the
    middles of as many equal parts of the range as there are samples, dealt out in turn.

    Args:
      buckets: images by shape.
      timesteps: the range.
      flip_p: chance of mirroring in training, where images have none of their own.
      samples: how many are wanted.
      batch_size: the most of one pass on a device.
      devices: over which they are spread.
    """
    chosen = chosen_images([len(bucket.posteriors) for bucket in buckets], samples)
    chances = [
        np.full(len(each.posteriors), flip_p) if each.flip_p is None else each.flip_p for each in buckets
    ]
    shown = [
        (bucket, image, mirror)
        for mirror in (0, 1)
        for bucket, image in chosen
        if mirror in sides_of(chances[bucket][image])
    ]
    shown *= max(1, round(samples / len(shown)))
    count, span = len(shown), timesteps.end - timesteps.first
    table = np.asarray(
        [
            (number, bucket, image, mirror, timesteps.first + (2 * number + 1) * span // (2 * count))
            for number, (bucket, image, mirror) in enumerate(shown)
        ],
        np.int32,
    )
    batch = pass_size(batch_size, devices=devices, buckets=len(buckets))
    often = [np.bincount(bucket.sample_indices, minlength=len(bucket.posteriors)) for bucket in buckets]
    weights = np.asarray([often[bucket][image] for bucket, image, _ in shown], np.float64)
    places = tuple(
        shard_samples(table[table[:, 1] == index][:, [0, 2, 3, 4]], batch=batch, devices=devices)
        for index in range(len(buckets))
    )
    return EvalSet(places, weights / weights.sum())


def chosen_images(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Pairs of bucket and image: all, or about `most`, evenly from each bucket and at least one of each."""
    share = min(1.0, most / sum(sizes))
    taken = [max(1, math.floor(size * share)) for size in sizes]
    return [
        (bucket, place * size // count)
        for bucket, (size, count) in enumerate(zip(sizes, taken, strict=True))
        for place in range(count)
    ]


def looked_at(buckets: Sequence[Bucket], chosen: EvalSet) -> tuple[list[Bucket], EvalSet]:
    """Buckets of the images alone that are looked at, as they are, and the same samples in them."""
    found, places = [], []
    for bucket, indices in zip(buckets, chosen.places, strict=True):
        images = np.unique(indices.image)
        sides = bucket.posteriors.shape[1] // bucket.variants
        posteriors = bucket.posteriors[np.repeat(images, sides), np.tile(np.arange(sides), len(images))]
        found.append(
            Bucket(
                posteriors.reshape(len(images), sides, *posteriors.shape[1:]),
                bucket.prompts[images],
                np.arange(len(images), dtype=np.int32),
                None if bucket.loss_weights is None else bucket.loss_weights[images][:, :2],
                None if bucket.time_ids is None else bucket.time_ids[images][:, :sides],
            )
        )
        places.append(indices._replace(image=np.searchsorted(images, indices.image).astype(np.int32)))
    return found, EvalSet(tuple(places), chosen.weights)


def examples_looked_at(
    examples: Dataset, chosen: EvalSet, devices: Sequence[Any]
) -> tuple[PaddedDataset, EvalSet]:
    """What the samples of a set show, put on the devices by itself, and the same samples in it."""
    buckets, chosen = looked_at(examples.buckets, chosen)
    alone = Dataset(tuple(buckets), examples.token_ids)
    return replicate(padded(alone), devices), chosen


def pass_size(batch_size: int, *, devices: int, buckets: int) -> int:
    """Samples that a device takes at once: as in training, but no more than the smallest sets have for it.

    It must not depend on the set, or each would be a program of its own.
    """
    return min(batch_size, -(-SAMPLES[0] // (devices * buckets)))


def shard_samples(table: np.ndarray, *, batch: int, devices: int) -> EvalIndices:
    """Deals a bucket's samples out to devices and rounds.

    Args:
      table: `[samples, 4]` int32 of number, image, mirror and timestep.
      batch: samples of a round on a device.
      devices: to deal to.
    """
    rounds = -(-len(table) // (devices * batch))
    full = np.resize(table, (rounds * devices * batch, table.shape[1]))
    full[len(table) :, 0] = -1
    by_round = full.reshape(rounds, devices, batch, -1)
    columns = lengthened(by_round, padded_size(rounds, FEWEST_ROUNDS)).transpose(3, 1, 0, 2)
    number, image, mirrored, timestep = np.ascontiguousarray(columns)
    return EvalIndices(number, image, mirrored, timestep, np.full(devices, rounds, np.int32))


def samples_for(total: int, update_samples: int) -> int:
    """How many samples a run of so many steps looks at: more where there is time for it.

    Args:
      total: steps of the run.
      update_samples: samples of an update on a device.
    """
    affordable = LARGEST_SHARE * total * update_samples * PASSES_OF_UPDATE
    fewest, most = SAMPLES
    return int(min(max(affordable / WORTHWHILE_EVALUATIONS, fewest), most))


def evaluation_interval(*, total: int | None, passes: int, update_samples: int) -> int:
    """Steps between two evaluations: as many evaluations as `LARGEST_SHARE` of the run's time allows.

    The first before any update and the last after all are counted with it. There are at least three.

    Args:
      total: steps of the run; None: it goes on until it is done, and evaluations may take two fifths of its
        time.
      passes: samples that a device takes through the model in an evaluation.
      update_samples: samples of an update on a device.
    """
    if total is None:
        affordable = math.ceil(passes / (SHARE_UNTIL_DONE * update_samples * PASSES_OF_UPDATE))
        return max(affordable, LEAST_INTERVAL_UNTIL_DONE)
    affordable = LARGEST_SHARE * total * update_samples * PASSES_OF_UPDATE / passes
    return max(1, math.ceil(total / min(max(math.floor(affordable) - 1, 2), MOST_EVALUATIONS)))


def make_evaluation(config: StepConfig) -> Callable:
    """Builds `evaluate(rows, frozen, taught, places)`: the error of every sample, on one device of several.

    `places` is a `EvalIndices` of `[padded rounds, batch]` for each bucket; the errors come out in the same
    shape, `[padded rounds, batch]` float32, the mean over an image, and 0 for rounds that there are not. As
    their number is an argument, another set is the same program, and nothing is computed for padding.
    """

    def evaluate(
        rows: dict[str, jax.Array], frozen: dict, taught: Taught, places: tuple[EvalIndices, ...]
    ) -> tuple:
        examples: PaddedDataset = frozen["examples"]
        given = config.with_settings(taught.settings)
        key = jax.random.wrap_key_data(taught.key, impl=KEY_IMPLEMENTATION)
        root = jax.random.fold_in(key, VALIDATION)

        def errors_of(bucket: PaddedBucket, chosen: EvalIndices) -> jax.Array:
            def sample(number, image, mirrored, timestep):
                posterior, noise, prompt, shaping = jax.random.split(jax.random.fold_in(root, number), 4)
                prompt = prompt_of(prompt, bucket, examples.prompts, image)
                shown = {"image": image, "mirrored": mirrored, "prompt": prompt}
                example = example_of(bucket, examples.prompts, **shown)
                return noised(given.draw_rules, NoiseKeys(posterior, noise, shaping), example, timestep)

            def one_round(index: jax.Array, errors: jax.Array) -> jax.Array:
                batch = jax.vmap(sample)(*(column[index] for column in columns))
                error = denoising_error(rows, frozen, batch, given)
                return errors.at[index].set(jnp.mean(error, axis=(1, 2, 3)))

            *columns, rounds = chosen
            return jax.lax.fori_loop(0, rounds, one_round, jnp.zeros(chosen.number.shape, jnp.float32))

        return tuple(errors_of(*pair) for pair in zip(examples.buckets, places, strict=True))

    return evaluate


class Validation:
    """The validation loss of given rows, on the devices of this process alone; compiled in a thread.

    It measures what training minimises - the run's loss, its noise and its masks - on the training images
    at fixed timesteps, noises and prompts, drawn from the seed. Class images and `pull_to_start` are left
    out. So it can be compared between runs of the same images, prompts, loss options and seed.

    Args:
      config: the run's fixed parts.
      frozen: replicated arrays, the text encoders and `unet`.
      examples: a `PaddedDataset` with what the samples show, on the devices.
      taught: of the concept, on the host.
      chosen: the samples.
      devices: of this process, on which the arrays lie.
      what: it measures, in words.
      after: a program that is needed sooner.
      programs: those that are there or begun, by shapes; another concept's serve as well.
    """

    def __init__(
        self,
        config: StepConfig,
        frozen: dict[str, Any],
        examples: Any,
        taught: Taught,
        chosen: EvalSet,
        *,
        devices: Sequence[Any],
        what: str = "the validation loss",
        after: Compilation | None = None,
        programs: MutableMapping[Any, Compilation] | None = None,
    ):
        self._devices, self._chosen = devices, chosen
        self._arguments = (
            local_copies(frozen, devices) | {"examples": examples},
            replicate(taught, devices),
            shard(chosen.places, devices),
        )
        arguments = (replicate(zero_rows(config, frozen), devices), *self._arguments)
        programs = {} if programs is None else programs
        shapes = what, shapes_in(arguments)
        if shapes not in programs:
            lower = partial(pmapped(make_evaluation(config), devices, donate=()).lower, *arguments)
            programs[shapes] = Compilation(lower, devices, what=what, after=after)
        self._compiling = programs[shapes]

    def ready(self) -> bool:
        """Whether it can be called without waiting for the compilation."""
        return self._compiling.ended

    def __call__(self, rows: Mapping[str, np.ndarray]) -> float:
        """The loss of rows `[added_tokens, width]` float32, by text encoder."""
        program = self._compiling.program()
        errors = program(replicate(dict(rows), self._devices), *self._arguments)
        by_number = np.zeros(len(self._chosen.weights))
        for measured, places in zip(errors, self._chosen.places, strict=True):
            number = places.number[:, : places.rounds[0]]
            real = number >= 0
            by_number[number[real]] = np.asarray(measured)[:, : places.rounds[0]][real]
        return float(by_number @ self._chosen.weights)
