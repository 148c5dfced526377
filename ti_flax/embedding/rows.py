"""The added rows of the token table: where they start, and how they enter the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.errors import TokenError


@dataclass(frozen=True)
class AddedRows:
    """The rows beside the token table before any update, and what the vocabulary is like.

    Attributes:
      start: `[added_tokens, width]` float32: the concept's rows, then those that were loaded to stay.
      trainable: `[added_tokens]` bool, rows that learn.
      median_norm: of the vocabulary's vectors.
      largest_norm: of the vocabulary's vectors.
    """

    start: np.ndarray
    trainable: np.ndarray
    median_norm: float = 1.0
    largest_norm: float = 1.0


def add_rows(vocabulary: np.ndarray, learned: np.ndarray, loaded: Sequence[np.ndarray] = ()) -> AddedRows:
    """Puts the rows that learn before those that stay.

    Args:
      vocabulary: `[known_tokens, width]`, the rows of the token table that the tokenizer names.
      learned: `[num_vectors, width]` float32.
      loaded: `[vectors, width]` float32 each.
    """
    norms = np.linalg.norm(np.asarray(vocabulary, np.float32), axis=-1)
    start = np.concatenate([learned, *loaded])
    trainable = np.arange(len(start)) < len(learned)
    return AddedRows(start, trainable, float(np.median(norms)), float(norms.max()))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("norm", "pull", "start", "ema_decay"),
    meta_fields=("only_longer",),
)
@dataclass(frozen=True, eq=False, kw_only=True)
class RowRules:
    """What is done to the rows that learn besides the optimizer's updates: a tree whose leaves are numbers.

    Attributes:
      norm: `[]`, what vectors are rescaled to after each update; None for no rescaling.
      only_longer: rescales only vectors that are longer than `norm`.
      pull: `[]`, weight p of the pull towards the start, p / 2 x the squared distance in the loss; None
        without one.
      start: `[added_tokens, width]` float32, where the pull is to; None without one.
      ema_decay: `[]`, largest share of the average that an update keeps; None for no average.
    """

    norm: float | jax.Array | None = None
    only_longer: bool = False
    pull: float | jax.Array | None = None
    start: np.ndarray | jax.Array | None = None
    ema_decay: float | jax.Array | None = None


def l2_to_init(rules: RowRules, rows: jax.Array, trainable: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """The loss p / 2 x sum over the vectors that learn of |row - start|^2, and its gradient by the rows."""
    assert rules.pull is not None
    offset = jnp.where(jnp.asarray(trainable)[:, None], rows - jnp.asarray(rules.start), 0.0)
    return 0.5 * rules.pull * jnp.sum(jnp.square(offset)), rules.pull * offset


def rescale_norms(rules: RowRules, rows: jax.Array, trainable: np.ndarray) -> jax.Array:
    """Rescales the vectors that learn; the others keep their bits."""
    if rules.norm is None:
        return rows
    norms = jnp.linalg.norm(rows, axis=-1, keepdims=True)
    rescaled = rows * (rules.norm / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny))
    chosen = jnp.asarray(trainable)[:, None] & (norms > rules.norm if rules.only_longer else norms > 0)
    return jnp.where(chosen, rescaled, rows)


def ema_update(
    rules: RowRules, mean: jax.Array, rows: jax.Array, *, step: jax.Array, trainable: np.ndarray
) -> jax.Array:
    """Moves the mean of the rows on by an update, as diffusers' EMAModel does.

    The mean keeps a share of min(ema_decay, (1 + step) / (10 + step)), and nothing at the first update.

    Args:
      rules: hold the largest share.
      mean: `[added_tokens, width]` float32, before.
      rows: `[added_tokens, width]` float32, after the update.
      step: `[]` int32, updates made before this one.
      trainable: `[added_tokens]` bool; the other rows keep their bits.
    """
    assert rules.ema_decay is not None
    warming = (1.0 + step) / (10.0 + step)
    decay = jnp.where(step == 0, 0.0, jnp.minimum(rules.ema_decay, warming))
    return jnp.where(jnp.asarray(trainable)[:, None], rows + decay * (mean - rows), mean)


def spread_rows(source: np.ndarray, num_vectors: int) -> np.ndarray:
    """Shares vectors out among rows: with k rows and n vectors, vector i is row floor(i * k / n).

    Args:
      source: `[k, width]`, rows of known words or of an embedding.
      num_vectors: n, at least k.

    Returns:
      `[num_vectors, width]` float32.
    """
    return np.asarray(source, np.float32)[np.arange(num_vectors) * len(source) // num_vectors]


def mean_rows(source: np.ndarray, num_vectors: int) -> np.ndarray:
    """Makes every vector the mean of rows: `[num_vectors, width]` float32."""
    return np.repeat(np.asarray(source, np.float32).mean(axis=0)[None], num_vectors, axis=0)


def random_rows(vocabulary: np.ndarray, num_vectors: int, key: jax.Array) -> np.ndarray:
    """Draws vectors from a normal with the vocabulary's mean and standard deviation in each dimension.

    Args:
      vocabulary: `[known_tokens, width]`.
      num_vectors: how many to draw.
      key: decides the draw.

    Returns:
      `[num_vectors, width]` float32.
    """
    known = np.asarray(vocabulary, np.float32)
    mean, deviation = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64)
    drawn = np.asarray(jax.random.normal(key, (num_vectors, known.shape[1])))
    return (mean + deviation * drawn).astype(np.float32)


def check_table(table: np.ndarray, first_added_id: int) -> None:
    """Refuses a token table with fewer rows than the tokenizer has tokens.

    Raises:
      TokenError: tokenizer and text encoder do not belong together.
    """
    if table.shape[0] < first_added_id:
        raise TokenError(
            "tokenizer",
            expected=f"at most the text encoder's {table.shape[0]} tokens",
            found=f"{first_added_id}",
            remedy="Use the tokenizer of the same base model.",
        )


def embed_tokens(
    table: jax.Array, rows: jax.Array, token_ids: jax.Array, *, first_added_id: int
) -> jax.Array:
    """Looks token ids up in the frozen table and, for added tokens, in the rows.

    Only `rows` receives a gradient worth having: the table is never written to or grown.

    Args:
      table: `[vocabulary, width]`, in the compute dtype.
      rows: `[added_tokens, width]` float32.
      token_ids: `[batch, tokens]` int32.
      first_added_id: the id of `rows[0]`.

    Returns:
      `[batch, tokens, width]` in the table's dtype.
    """
    added = token_ids >= first_added_id
    known = jnp.take(table, jnp.where(added, 0, token_ids), axis=0, mode="clip")
    learned = jnp.take(rows, jnp.where(added, token_ids - first_added_id, 0), axis=0, mode="clip")
    return jnp.where(added[..., None], learned.astype(table.dtype), known)


def grown_table(table: np.ndarray, rows: np.ndarray, *, first_added_id: int) -> np.ndarray:
    """The token table with the added rows at its end: `[first_added_id + added_tokens, width]`."""
    return np.concatenate([table[:first_added_id], np.asarray(rows).astype(table.dtype)])
