"""The added rows of the token table: where they start, and how they enter the sequence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.errors import TokenError


def initial_rows(table: np.ndarray, *, initializer_id: int, num_vectors: int) -> np.ndarray:
    """Starts every vector of a concept at the row of a known word.

    Args:
      table: `[vocabulary, width]`, the frozen token table.
      initializer_id: the known word's row.
      num_vectors: how many rows the concept has.

    Returns:
      `[num_vectors, width]` float32.
    """
    return np.repeat(np.asarray(table[initializer_id], np.float32)[None], num_vectors, axis=0)


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


def splice(table: jax.Array, rows: jax.Array, token_ids: jax.Array, *, first_added_id: int) -> jax.Array:
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
