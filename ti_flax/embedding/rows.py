"""The added rows of the token tables: where they start, and how they enter the sequence.

Rows, and what is said of each of them, are a tree: a dict from the name of a text encoder (`text_encoder`,
and `text_encoder_2` for SDXL) to `[added_tokens, width]`, of that encoder's width. Where words have vectors
that go behind a text encoder, in the place of its output, they are under its name and `_out`; a row of zeros
there stands for none, and the text encoder's output stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.embedding.contents import BEHIND
from ti_flax.errors import TokenError

# Rows by text encoder.
Rows = Mapping[str, np.ndarray | jax.Array]


@dataclass(frozen=True)
class AddedRows:
    """The rows beside the token tables before any update, and what the vocabulary is like, by text encoder.

    Attributes:
      start: `[added_tokens, width]` float32: the concept's rows, then those that were loaded to stay.
      trainable: `[added_tokens]` bool, rows that learn.
      median_norm: of the vocabulary's vectors.
      largest_norm: of the vocabulary's vectors.
    """

    start: dict[str, np.ndarray]
    trainable: dict[str, np.ndarray]
    median_norm: dict[str, float]
    largest_norm: dict[str, float]

    @property
    def loaded(self) -> dict[str, np.ndarray]:
        """The rows that stay as they are, `[loaded_tokens, width]`."""
        return {encoder: rows[~self.trainable[encoder]] for encoder, rows in self.start.items()}

    @property
    def widths(self) -> dict[str, int]:
        """The width of the rows, by text encoder."""
        return {encoder: rows.shape[1] for encoder, rows in self.start.items()}

    def on_sphere(self) -> AddedRows:
        """The same with each row that learns at its vocabulary's median norm, for directions to learn alone.

        Raises:
          TokenError: one is zero and so has no direction.
        """
        start = {}
        for encoder, rows in self.start.items():
            if encoder not in self.median_norm:  # loaded, and behind a text encoder
                start[encoder] = rows
                continue
            norms, learns = np.linalg.norm(rows, axis=1, keepdims=True), self.trainable[encoder][:, None]
            if (learns & (norms == 0)).any():
                raise TokenError(
                    "optimizer directional",
                    expected="start vectors with a direction",
                    found=f"a vector of zeros for {encoder}",
                    remedy="Start from another initializer_token or init_embeds.",
                )
            scaled = rows * (np.float32(self.median_norm[encoder]) / np.where(norms == 0, 1, norms))
            start[encoder] = np.where(learns, scaled, rows)
        return dataclasses.replace(self, start=start)


def add_rows(
    vocabularies: Mapping[str, np.ndarray],
    learned: Mapping[str, np.ndarray],
    loaded: Sequence[Mapping[str, np.ndarray]] = (),
    *,
    learning: Sequence[str] | None = None,
) -> AddedRows:
    """Puts the concept's rows before those that stay.

    Args:
      vocabularies: `[known_tokens, width]`, the rows of the token tables that the tokenizer names.
      learned: `[num_vectors, width]` float32.
      loaded: `[vectors, width]` float32 each.
      learning: the text encoders whose rows learn; None: all.
    """
    norms = {
        encoder: np.linalg.norm(np.asarray(table, np.float32), axis=-1)
        for encoder, table in vocabularies.items()
    }
    start = joined([learned, *loaded])
    count = {
        encoder: len(learned[encoder]) if encoder in learned and _learns(encoder, learning) else 0
        for encoder in start
    }
    return AddedRows(
        start,
        {encoder: np.arange(len(rows)) < count[encoder] for encoder, rows in start.items()},
        {encoder: float(np.median(each)) for encoder, each in norms.items()},
        {encoder: float(each.max()) for encoder, each in norms.items()},
    )


def _learns(encoder: str, learning: Sequence[str] | None) -> bool:
    return learning is None or encoder.removesuffix(BEHIND) in learning


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows one after the other, by text encoder.

    Args:
      parts: at least one, each `[tokens, width]` by text encoder; those that have nothing behind a text
        encoder have zeros there if others have something.
    """
    shapes = {encoder: rows.shape[1:] for part in parts for encoder, rows in part.items()}
    return {
        encoder: np.concatenate(
            [
                part[encoder]
                if encoder in part
                else np.zeros((len(part[encoder.removesuffix(BEHIND)]), *width), np.float32)
                for part in parts
            ]
        )
        for encoder, width in shapes.items()
    }


def before(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Those that text encoders read, without those that go behind them."""
    return {encoder: each for encoder, each in rows.items() if not encoder.endswith(BEHIND)}


def concept_rows(rows: Mapping[str, Any], num_vectors: int) -> dict[str, Any]:
    """Those of the concept, which come first: `[num_vectors, width]` by text encoder."""
    return {encoder: each[:num_vectors] for encoder, each in rows.items()}


def rows_of_words(rows: Mapping[str, Any], vectors: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Those of each word, which lie one word after the other: `[vectors, width]` by word and text encoder.

    Args:
      rows: `[added_tokens, width]` by text encoder.
      vectors: how many each word has.
    """
    found, first = {}, 0
    for word, count in vectors.items():
        found[word] = {encoder: each[first : first + count] for encoder, each in rows.items()}
        first += count
    return found


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("norm", "pull", "kappa", "start", "ema_decay"),
    meta_fields=("only_longer",),
)
@dataclass(frozen=True, eq=False, kw_only=True)
class RowRules:
    """What is done to the rows that learn besides the optimizer's updates: a tree whose leaves are numbers.

    Attributes:
      norm: `[]` by text encoder, what vectors are rescaled to after each update; None for no rescaling.
      only_longer: rescales only vectors that are longer than `norm`.
      pull: `[]`, weight p of the pull towards the start, p / 2 x the squared distance in the loss; None
        without one.
      kappa: `[]`, concentration of the prior over directions, where the rows stay on the sphere of radius
        `norm` (arXiv:2512.13672); None where their norms learn too.
      start: `[added_tokens, width]` float32 by text encoder, where the pull or the prior is to; None without.
      ema_decay: `[]`, largest share of the average that an update keeps; None for no average.
    """

    norm: Mapping[str, float | jax.Array] | None = None
    only_longer: bool = False
    pull: float | jax.Array | None = None
    kappa: float | jax.Array | None = None
    start: Mapping[str, np.ndarray | jax.Array] | None = None
    ema_decay: float | jax.Array | None = None


def sum_of(numbers: Iterable[jax.Array]) -> jax.Array:
    """The sum of at least one, each `[]`."""
    return reduce(jnp.add, numbers)


def l2_to_init(
    rules: RowRules, rows: dict[str, jax.Array], trainable: Mapping[str, np.ndarray]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss p / 2 x sum over the vectors that learn of |row - start|^2, and its gradient by the rows."""
    pull, start = rules.pull, rules.start
    assert pull is not None and start is not None
    offset = {
        encoder: jnp.where(jnp.asarray(trainable[encoder])[:, None], each - jnp.asarray(start[encoder]), 0.0)
        for encoder, each in rows.items()
    }
    distance = sum_of(jnp.sum(jnp.square(each)) for each in offset.values())
    return 0.5 * pull * distance, {encoder: pull * each for encoder, each in offset.items()}


def less_prior(
    rules: RowRules, gradient: dict[str, jax.Array], trainable: Mapping[str, np.ndarray]
) -> dict[str, jax.Array]:
    """The gradient less that of a von Mises-Fisher prior around the start (arXiv:2512.13672).

    The log density of a direction v is kappa x the cosine between v and the start's direction. Rows are
    `norm` x v and the start has the same norm, so the prior's gradient by the row is kappa x start / norm^2.

    A row that no prompt of the batch names has a gradient of exactly 0 and keeps it: alone, the prior would
    make the whole step, as an update divides by the gradient's norm.

    Args:
      rules: hold kappa, the start and its norms.
      gradient: `[added_tokens, width]` by text encoder.
      trainable: `[added_tokens]` bool by text encoder.
    """
    kappa, start, norm = rules.kappa, rules.start, rules.norm
    if kappa is None or start is None or norm is None:
        return gradient
    return {
        encoder: jnp.where(
            jnp.asarray(trainable[encoder])[:, None] & jnp.any(each != 0, axis=-1, keepdims=True),
            each - kappa * jnp.asarray(start[encoder]) / jnp.square(norm[encoder]),
            each,
        )
        if encoder in norm
        else each
        for encoder, each in gradient.items()
    }


def rescale_norms(
    rules: RowRules, rows: dict[str, jax.Array], trainable: Mapping[str, np.ndarray]
) -> dict[str, jax.Array]:
    """Rescales the vectors that learn, each to the norm of its text encoder; the others keep their bits.

    A vector too long for float32 to hold its norm comes out infinite, so that the update does not count as
    finite.
    """
    if rules.norm is None:
        return rows
    rescaled = {}
    for encoder, each in rows.items():
        if encoder not in rules.norm:  # what goes behind a text encoder has no like in the vocabulary
            rescaled[encoder] = each
            continue
        norm = rules.norm[encoder]
        norms = jnp.linalg.norm(each, axis=-1, keepdims=True)
        chosen = jnp.asarray(trainable[encoder])[:, None] & (norms > norm if rules.only_longer else norms > 0)
        scaled = each * (norm / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny))
        scaled = jnp.where(jnp.isfinite(norms), scaled, norms)
        rescaled[encoder] = jnp.where(chosen, scaled, each)
    return rescaled


def ema_update(
    rules: RowRules,
    mean: dict[str, jax.Array],
    rows: dict[str, jax.Array],
    *,
    step: jax.Array,
    trainable: Mapping[str, np.ndarray],
) -> dict[str, jax.Array]:
    """Moves the mean of the rows on by an update, as diffusers' EMAModel does.

    The mean keeps a share of min(ema_decay, (1 + step) / (10 + step)), and nothing at the first update. The
    mean of directions is put back on their sphere.

    Args:
      rules: hold the largest share, and the sphere where there is one.
      mean: `[added_tokens, width]` float32 by text encoder, before.
      rows: `[added_tokens, width]` float32 by text encoder, after the update.
      step: `[]` int32, updates made before this one.
      trainable: `[added_tokens]` bool by text encoder; the other rows keep their bits.
    """
    assert rules.ema_decay is not None
    warming = (1.0 + step) / (10.0 + step)
    decay = jnp.where(step == 0, 0.0, jnp.minimum(rules.ema_decay, warming))
    moved = {
        encoder: jnp.where(
            jnp.asarray(trainable[encoder])[:, None], each + decay * (mean[encoder] - each), mean[encoder]
        )
        for encoder, each in rows.items()
    }
    return moved if rules.kappa is None else rescale_norms(rules, moved, trainable)


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


def angles_between(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The angle between each vector and its other, in radians, exact for small ones too.

    Args:
      rows: `[vectors, width]`, none of them zero.
      others: likewise.

    Returns:
      `[vectors]` float64.
    """
    unit, other = (
        each / np.linalg.norm(each, axis=-1, keepdims=True)
        for each in (np.asarray(rows, np.float64), np.asarray(others, np.float64))
    )
    return 2 * np.arcsin(np.minimum(np.linalg.norm(unit - other, axis=-1) / 2, 1))


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
    table: jax.Array, rows: np.ndarray | jax.Array, token_ids: jax.Array, *, first_added_id: int
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


def put_behind(
    hidden_states: jax.Array, rows: np.ndarray | jax.Array, token_ids: jax.Array, *, first_added_id: int
) -> jax.Array:
    """Puts rows in the place of a text encoder's output at the added tokens that have some.

    OneTrainer's output embeddings are that: behind the final norm, or where there is none behind the last
    layer that is run. Other places still carry what the text encoder read in the word's place.

    Args:
      hidden_states: `[batch, tokens, width]`, of the text encoder.
      rows: `[added_tokens, width]` float32; rows of zeros stand for none.
      token_ids: `[batch, tokens]` int32.
      first_added_id: the id of `rows[0]`.
    """
    added = token_ids >= first_added_id
    given = jnp.take(rows, jnp.where(added, token_ids - first_added_id, 0), axis=0, mode="clip")
    there = added & jnp.any(given != 0, axis=-1)
    return jnp.where(there[..., None], given.astype(hidden_states.dtype), hidden_states)


def grown_table(table: np.ndarray, rows: np.ndarray, *, first_added_id: int) -> np.ndarray:
    """The token table with the added rows at its end: `[first_added_id + added_tokens, width]`."""
    return np.concatenate([table[:first_added_id], np.asarray(rows).astype(table.dtype)])
