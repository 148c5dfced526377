"""The known words, and what is measured of rows against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ti_flax.embedding.contents import FIRST
from ti_flax.embedding.file_names import word_stem

# Words shown as nearest to a row.
NEAREST = 3


# Ends a token that is a whole word, in CLIP's byte-pair encoding.
_END_OF_WORD = "</w>"


@dataclass(frozen=True)
class RowStatistics:
    """What is known of one row.

    Attributes:
      norm: its length.
      norm_to_median: that, divided by the median length of the vocabulary's vectors.
      norm_percentile: share of the vocabulary's vectors that are shorter, 0 to 100.
      cosine_to_start: of the angle between it and what it started as.
      nearest_words: whole words of the vocabulary and their cosines, such as `toy 0.83, doll 0.51`.
    """

    norm: float
    norm_to_median: float
    norm_percentile: float
    cosine_to_start: float
    nearest_words: str


def measure_rows(
    vocabularies: Mapping[str, Vocabulary],
    rows: Mapping[str, np.ndarray],
    start: Mapping[str, np.ndarray],
    vectors: Mapping[str, int] | None = None,
) -> dict[str, RowStatistics]:
    """What is known of the vectors of a concept, by their names.

    A vector is named by its number, from 1, and of a second text encoder by that as well: `1_text_encoder_2`.
    Of several words each begins at 1, and the name begins with the word's: `cat.1_text_encoder_2`.

    Args:
      vocabularies: known words by text encoder.
      rows: `[num_vectors, width]` float32 by text encoder.
      start: likewise, before the first update.
      vectors: how many each word has; None: all are of one.
    """
    return {
        name if encoder == FIRST else f"{name}_{encoder}": found
        for encoder, vocabulary in vocabularies.items()
        for name, found in zip(
            _names(vectors, len(rows[encoder])),
            vocabulary.measure(rows[encoder], start[encoder]),
            strict=True,
        )
    }


def _names(vectors: Mapping[str, int] | None, count: int) -> list[str]:
    if vectors is None or len(vectors) == 1:
        return [str(number) for number in range(1, count + 1)]
    return [f"{word_stem(word)}.{number}" for word, its in vectors.items() for number in range(1, its + 1)]


def known_vocabularies(tokenizer: Any, tables: Mapping[str, Any], known: int) -> dict[str, Vocabulary]:
    """The words that a tokenizer knew before anything was added to it, and their vectors, by text encoder.

    Args:
      tokenizer: the words' ids come first in it; SDXL's two have the same words.
      tables: the token tables by text encoder, `[vocabulary, width]` with at least `known` rows each.
      known: how many tokens it knew.
    """
    names = tokenizer.convert_ids_to_tokens(list(range(known)))
    special = [token_id for token_id in tokenizer.all_special_ids if token_id < known]
    return {
        encoder: Vocabulary(table[:known], names, lambda token_id: tokenizer.decode([token_id]), special)
        for encoder, table in tables.items()
    }


class Vocabulary:
    """The known words, to measure rows against.

    Args:
      table: `[known_tokens, width]`, the rows of the token table that the tokenizer names.
      names: their tokens, as the tokenizer writes them.
      decode: from a token id to its text.
      special: ids that are no words.
    """

    def __init__(self, table: np.ndarray, names: Sequence[str], decode: Any, special: Sequence[int] = ()):
        self._table, self._decode = np.asarray(table, np.float32), decode
        self._norms = np.linalg.norm(self._table, axis=1)
        self._sorted = np.sort(self._norms)
        self.median_norm = float(np.median(self._norms))
        whole = np.asarray([name.endswith(_END_OF_WORD) for name in names])
        whole[list(special)] = False
        self._words = np.flatnonzero(whole & (self._norms > 0))

    def measure(self, rows: np.ndarray, start: np.ndarray) -> tuple[RowStatistics, ...]:
        """The signals of rows, `[vectors, width]` float32, that were `start` before the first update."""
        lines = zip(rows, start, self._cosines(rows), strict=True)
        return tuple(self._measure(*line) for line in lines)

    def _measure(self, row: np.ndarray, start: np.ndarray, cosines: np.ndarray) -> RowStatistics:
        norm = float(np.linalg.norm(row))
        return RowStatistics(
            norm=norm,
            norm_to_median=norm / self.median_norm,
            norm_percentile=100.0 * float(np.searchsorted(self._sorted, norm)) / len(self._sorted),
            cosine_to_start=float(row @ start / max(norm * float(np.linalg.norm(start)), 1e-12)),
            nearest_words=", ".join(f"{word} {cosine:.2f}" for word, cosine in self._nearest(cosines)),
        )

    def nearest(self, row: np.ndarray, count: int = NEAREST) -> list[tuple[str, float]]:
        """The whole words whose vectors point most nearly the same way, and the cosines."""
        return self._nearest(self._cosines(row[None])[0], count)

    def _cosines(self, rows: np.ndarray) -> np.ndarray:
        """Of rows with all known tokens, `[vectors, known_tokens]`."""
        norms = np.linalg.norm(rows, axis=1, keepdims=True) * self._norms
        return (rows @ self._table.T) / np.maximum(norms, 1e-12)

    def _nearest(self, cosines: np.ndarray, count: int = NEAREST) -> list[tuple[str, float]]:
        found: dict[str, float] = {}
        order = self._words[np.argsort(-cosines[self._words], kind="stable")]
        for index in order[: 20 * count]:
            word = self._decode(int(index)).strip()
            if word.isprintable() and word and word not in found:
                found[word] = float(cosines[index])
            if len(found) == count:
                break
        return list(found.items())
