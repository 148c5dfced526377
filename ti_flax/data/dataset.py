"""What samples are drawn from: as it is read, and padded as the devices have it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from ti_flax.data.posteriors import Posteriors, Unencoded, in_memory
from ti_flax.errors import ConfigError

# Places of an epoch: each is an index, 4 MB of so many.
MOST_SAMPLE_INDICES = 1_000_000
# The least that arrays are padded to: images, and what is small beside them (places and prompts).
FEWEST_IMAGES, FEWEST_ROWS = 8, 512


class Bucket(NamedTuple):
    """Encoded images of one shape.

    Attributes:
      posteriors: `[images, pictures, height, width, 2 * channels]` float32, mean and log-variance of each
        image and of its mirror image, or of those of the two that are drawn; then of its next variant.
      prompts: `[images]` int32, the group of prompts that describes the image.
      sample_indices: `[samples]` int32, indices of images, each as often as an epoch shows it.
      loss_weights: `[images, variants * 2, height, width]` float32, of mean 1 over an image, what a place in
        the image counts in the loss; None if all count the same.
      time_ids: `[images, pictures, 6]` float32, the micro-conditioning of the pictures in `posteriors`:
        original height and width, crop top and left, target height and width; None for models without.
      variants: of each image; the first is the image as it is.
      flip_p: `[images]` float32, the chance that a sample is the mirror image; None if all have the run's.
    """

    posteriors: Posteriors
    prompts: np.ndarray
    sample_indices: np.ndarray
    loss_weights: np.ndarray | None = None
    time_ids: np.ndarray | None = None
    variants: int = 1
    flip_p: np.ndarray | None = None


class Dataset(NamedTuple):
    """Everything that samples are drawn from.

    Attributes:
      buckets: one for each shape; all samples of an update come from one of them.
      token_ids: `[groups, variants, tokens]` int32; a sample takes any variant of its image's group.
      class_buckets: images of the word's class, a bucket of the same shape for each of `buckets`; None
        without prior preservation.
      class_token_ids: like `token_ids`, for the class images; None without them.
    """

    buckets: tuple[Bucket, ...]
    token_ids: np.ndarray
    class_buckets: tuple[Bucket, ...] | None = None
    class_token_ids: np.ndarray | None = None


class PaddedBucket(NamedTuple):
    """A `Bucket` whose arrays are longer than what they hold, so that many datasets have the same shapes.

    Attributes:
      posteriors: `[padded images, sides, height, width, 2 * channels]` float32; none, `[0, ...]`, where it
        only is chosen.
      prompts: `[padded images]` int32.
      sample_indices: `[padded places]` int32.
      loss_weights: `[padded images, 2, height, width]` float32, or none likewise; None without masks.
      time_ids: `[padded images, sides, 6]` float32; None for models that take none.
      places: `[]` int32, how many of `sample_indices` count.
      flip_p: `[padded images]` float32; None if all have the run's.
    """

    posteriors: jax.Array | np.ndarray
    prompts: jax.Array | np.ndarray
    sample_indices: jax.Array | np.ndarray
    loss_weights: jax.Array | np.ndarray | None
    time_ids: jax.Array | np.ndarray | None
    places: jax.Array | np.ndarray
    flip_p: jax.Array | np.ndarray | None = None


class PromptTable(NamedTuple):
    """Token ids of prompts in groups of equally many variants.

    Attributes:
      token_ids: `[padded rows, tokens]` int32; variant v of group g is row g * variants + v.
      variants: `[]` int32, prompts of a group.
    """

    token_ids: jax.Array | np.ndarray
    variants: jax.Array | np.ndarray


class PaddedDataset(NamedTuple):
    """A `Dataset` as the device programs take it: another number of images or prompts is the same program.

    Attributes:
      buckets: one for each shape.
      prompts: of the training images.
      class_buckets: one for each of `buckets`, or None.
      class_prompts: of the class images, or None.
    """

    buckets: tuple[PaddedBucket, ...]
    prompts: PromptTable
    class_buckets: tuple[PaddedBucket, ...] | None = None
    class_prompts: PromptTable | None = None


def padded(examples: Dataset, *, pictures: bool = True) -> PaddedDataset:
    """The examples in arrays of sizes that many datasets share; without `pictures`, enough to choose by."""
    made = partial(padded_bucket, pictures=pictures)
    of_class = (None, None)
    if examples.class_buckets is not None and examples.class_token_ids is not None:
        buckets = tuple(map(made, examples.class_buckets))
        of_class = (buckets, prompt_table(examples.class_token_ids))
    return PaddedDataset(tuple(map(made, examples.buckets)), prompt_table(examples.token_ids), *of_class)


def padded_bucket(bucket: Bucket, *, pictures: bool = True) -> PaddedBucket:
    """A bucket in arrays of `padded_size`; see `padded`."""
    posteriors, prompts, places, weights, time_ids, _, flip_p = bucket
    images = held = padded_size(len(posteriors), FEWEST_IMAGES)
    if not pictures:
        posteriors, held = np.zeros((0, *posteriors.shape[1:]), np.float32), 0
        weights = None if weights is None else weights[:0]
    return PaddedBucket(
        posteriors=lengthened(in_memory(posteriors), held),
        prompts=lengthened(prompts, images),
        sample_indices=lengthened(places, padded_size(len(places), FEWEST_ROWS)),
        loss_weights=None if weights is None else lengthened(weights, held),
        time_ids=None if time_ids is None else lengthened(time_ids, images),
        places=np.asarray(len(places), np.int32),
        flip_p=None if flip_p is None else lengthened(flip_p, images),
    )


def prompt_table(token_ids: np.ndarray) -> PromptTable:
    """The table of prompts `[groups, variants, tokens]`, padded."""
    groups, variants, tokens = token_ids.shape
    rows = lengthened(
        token_ids.reshape(groups * variants, tokens), padded_size(groups * variants, FEWEST_ROWS)
    )
    return PromptTable(rows, np.asarray(variants, np.int32))


def padded_size(count: int, fewest: int) -> int:
    """The least size that holds so many: powers of two to 64, from there on four to each doubling.

    Args:
      count: what is to be held.
      fewest: the smallest size, a power of two.
    """
    size = max(fewest, 1 << max(0, count - 1).bit_length())
    if size <= 64 or size == fewest:
        return size
    quarter = size // 8  # of the power of two below
    return -(-count // quarter) * quarter


def lengthened(array: np.ndarray, count: int) -> np.ndarray:
    """The array with zeros behind it, `[count, ...]`; itself if it is as long."""
    if len(array) == count:
        return np.asarray(array)
    longer = np.zeros((count, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


def one_shape(
    posteriors: np.ndarray,
    token_ids: np.ndarray,
    weights: Sequence[int] | None = None,
    time_ids: np.ndarray | None = None,
) -> Dataset:
    """Examples of one shape, where every image takes any prompt.

    Args:
      posteriors: `[images, sides, height, width, 2 * channels]` float32.
      token_ids: `[prompts, tokens]` int32.
      weights: how often each image is shown, relative to the others; None: all the same.
      time_ids: `[images, sides, 6]` float32 as in a `Bucket`; None for models that take none.

    Raises:
      ConfigError: the weights have so little in common that an epoch of them is too long.
    """
    images = len(posteriors)
    places = epoch_sample_indices(weights or [1] * images)
    bucket = Bucket(posteriors, np.zeros(images, np.int32), places, time_ids=time_ids)
    return Dataset((bucket,), token_ids[None])


def encoded(examples: Dataset) -> Dataset:
    """The examples with everything encoded that was not yet: the training images first, bucket by bucket."""

    def of_bucket(bucket: Bucket) -> Bucket:
        posteriors = bucket.posteriors
        return bucket._replace(posteriors=posteriors.encoded) if isinstance(posteriors, Unencoded) else bucket

    of_class = examples.class_buckets
    return examples._replace(
        buckets=tuple(map(of_bucket, examples.buckets)),
        class_buckets=None if of_class is None else tuple(map(of_bucket, of_class)),
    )


def with_class_images(
    examples: Dataset,
    posteriors: Sequence[Posteriors],
    token_ids: np.ndarray,
    time_ids: Sequence[np.ndarray | None] | None = None,
    variants: int = 1,
) -> Dataset:
    """The examples with images of the word's class beside them.

    Args:
      examples: the training images.
      posteriors: for each bucket, `[images, pictures, height, width, 2 * channels]` float32 of its shape.
      token_ids: `[prompts, tokens]` int32, of which a class image takes any.
      time_ids: for each bucket, `[images, pictures, 6]` float32 as in a `Bucket`; None where a model takes
        none.
      variants: of each class image.
    """
    told = [None] * len(posteriors) if time_ids is None else time_ids
    buckets = tuple(
        Bucket(
            each,
            np.zeros(len(each), np.int32),
            np.arange(len(each), dtype=np.int32),
            time_ids=its,
            variants=variants,
        )
        for each, its in zip(posteriors, told, strict=True)
    )
    return examples._replace(class_buckets=buckets, class_token_ids=token_ids[None])


def epoch_sample_indices(weights: Sequence[int]) -> np.ndarray:
    """The images of the shortest epoch that shows each as often as its weight says, `[places]` int32.

    Raises:
      ConfigError: the shortest is longer than `MOST_SAMPLE_INDICES`.
    """
    (places,) = weighted_sample_indices(weights, [np.arange(len(weights))])
    return places


def weighted_sample_indices(weights: Sequence[int], groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The `places` of each bucket in the shortest epoch that shows every image as often as its weight says.

    Args:
      weights: of all images, positive; only their ratios matter.
      groups: for each bucket the indices of its images in `weights`.

    Raises:
      ConfigError: the shortest is longer than `MOST_SAMPLE_INDICES`.
    """
    times = np.asarray(weights, np.int64) // math.gcd(*map(int, weights))
    if times.sum() > MOST_SAMPLE_INDICES:
        raise ConfigError(
            "repeats",
            expected=f"proportions that an epoch of at most {MOST_SAMPLE_INDICES} images can show",
            found=f"{times.sum()} in the shortest",
            remedy="Round them, as in 100 and 50 for 101 and 51.",
        )
    return [np.repeat(np.arange(len(group), dtype=np.int32), times[group]) for group in groups]
