"""What samples are drawn from, on the device, and the drawing of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from ti_flax.data.posteriors import Posteriors
from ti_flax.errors import ConfigError

# Places of an epoch, all of which are shuffled on the device for every sample.
MOST_SAMPLE_INDICES = 1_000_000


class Bucket(NamedTuple):
    """Encoded images of one shape.

    Attributes:
      posteriors: `[images, sides, height, width, 2 * channels]` float32, mean and log-variance of each image
        and of its mirror image, or of those of the two that are drawn.
      prompts: `[images]` int32, the group of `Examples.token_ids` that describes the image.
      sample_indices: `[samples]` int32, indices of images, each as often as an epoch shows it.
      loss_weights: `[images, 2, height, width]` float32, of mean 1 over an image, what a place in the
        image counts in the loss; None if all count the same.
    """

    posteriors: jax.Array | Posteriors
    prompts: jax.Array | np.ndarray
    sample_indices: jax.Array | np.ndarray
    loss_weights: jax.Array | np.ndarray | None = None


class Dataset(NamedTuple):
    """Everything that samples are drawn from.

    Attributes:
      buckets: one for each shape; all samples of an update come from one of them.
      token_ids: `[groups, variants, tokens]` int32; a sample takes any variant of its image's group.
      class_buckets: images of the word's class, a bucket of the same shape for each of `buckets`; None
        without prior preservation.
    """

    buckets: tuple[Bucket, ...]
    token_ids: jax.Array | np.ndarray
    class_buckets: tuple[Bucket, ...] | None = None


def one_shape(posteriors: np.ndarray, token_ids: np.ndarray, weights: Sequence[int] | None = None) -> Dataset:
    """Examples of one shape, where every image takes any prompt.

    Args:
      posteriors: `[images, sides, height, width, 2 * channels]` float32.
      token_ids: `[prompts, tokens]` int32.
      weights: how often each image is shown, relative to the others; None: all the same.

    Raises:
      ConfigError: the weights have so little in common that an epoch of them is too long.
    """
    images = len(posteriors)
    bucket = Bucket(posteriors, np.zeros(images, np.int32), epoch_sample_indices(weights or [1] * images))
    return Dataset((bucket,), token_ids[None])


def with_class_images(examples: Dataset, posteriors: Sequence[Posteriors], token_ids: np.ndarray) -> Dataset:
    """The examples with images of the word's class beside them.

    Args:
      examples: the training images.
      posteriors: for each bucket, `[images, sides, height, width, 2 * channels]` float32 of its shape.
      token_ids: `[prompts, tokens]` int32, of which a class image takes any.
    """
    table = np.asarray(examples.token_ids)
    groups, variants, _ = table.shape
    # Repeated to the same number, so that the odds of every prompt stay what they are.
    both = math.lcm(variants, len(token_ids))
    class_group = np.tile(token_ids, (both // len(token_ids), 1))[None]
    table = np.concatenate([np.tile(table, (1, both // variants, 1)), class_group])
    buckets = tuple(
        Bucket(each, np.full(len(each), groups, np.int32), np.arange(len(each), dtype=np.int32))
        for each in posteriors
    )
    return examples._replace(token_ids=table, class_buckets=buckets)


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
