"""A word between two others: each vector lies on the great circle between theirs, with a norm between."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ti_flax.embedding.bases import base_of
from ti_flax.embedding.contents import EmbeddingFile
from ti_flax.errors import WeightsError

# Of the sum of two directions, below which rounding alone would say which way lies between them.
_OPPOSITE = 1e-4
# What is true of each of two files and not of what lies between them.
_OWN = ("step", "validation_loss")


def slerp(one: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    """Interpolates rows: their directions spherically (Shoemake 1985), their norms linearly.

    Args:
      one: `[vectors, width]` float32.
      other: likewise; no row opposite to its counterpart, and none zero that its counterpart is not.
      weight: from 0, which gives the bits of `one`, to 1, which gives those of `other`.

    Returns:
      `[vectors, width]` float32.
    """
    if weight in (0, 1):
        return (other if weight else one).copy()
    norms = [np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (one, other)]
    first, second = (rows / np.where(norm == 0, 1, norm) for rows, norm in zip((one, other), norms))
    angle = 2 * np.arctan2(
        *(np.linalg.norm(each, axis=1, keepdims=True) for each in (first - second, first + second))
    )
    # sinc keeps its precision where the angle is small, and is 1 where it is 0.
    shares = [part * np.sinc(part * angle / np.pi) / np.sinc(angle / np.pi) for part in (1 - weight, weight)]
    norm = (1 - weight) * norms[0] + weight * norms[1]
    return (norm * (shares[0] * first + shares[1] * second)).astype(np.float32)


def mixed(one: EmbeddingFile, other: EmbeddingFile, weight: float, paths: tuple[Path, Path]) -> EmbeddingFile:
    """The embedding between two, without a word of its own.

    Args:
      one: the embedding that weight 0 gives.
      other: the embedding that weight 1 gives, for the same base model and with as many vectors.
      weight: from 0 to 1.
      paths: of the two, for messages.

    Raises:
      WeightsError: they are for other base models, differ in their number of vectors, or have opposite ones.
    """
    _require_alike(one, other, paths)
    if weight in (0, 1):
        behind = (other if weight else one).behind
    else:
        _require_behind_of_both(one, other, paths)
        for part, its in ((one.rows, other.rows), (one.behind, other.behind)):
            for encoder, rows in part.items():
                _require_direction(rows, its[encoder], encoder, paths)
        behind = {encoder: slerp(rows, other.behind[encoder], weight) for encoder, rows in one.behind.items()}
    alike = {
        name: said
        for name, said in one.details.items()
        if other.details.get(name) == said and name not in _OWN
    }
    return EmbeddingFile(
        {encoder: slerp(rows, other.rows[encoder], weight) for encoder, rows in one.rows.items()},
        "sdxl" if one.is_sdxl else "diffusers",
        details=alike,
        behind=behind,
    )


def _require_alike(one: EmbeddingFile, other: EmbeddingFile, paths: tuple[Path, Path]) -> None:
    bases = base_of(one), base_of(other)
    if bases[0] != bases[1]:
        raise WeightsError(
            paths[1],
            expected=f"an embedding for {bases[0]}, as {paths[0]} is",
            found=f"one for {bases[1]}",
            remedy="Mix words that were learned on the same base.",
        )
    if one.vectors != other.vectors:
        raise WeightsError(
            paths[1],
            expected=f"as many vectors as {paths[0]} has ({one.vectors})",
            found=str(other.vectors),
            remedy="Mix words with the same num_vectors.",
        )


def _require_behind_of_both(one: EmbeddingFile, other: EmbeddingFile, paths: tuple[Path, Path]) -> None:
    if [*one.behind] != [*other.behind]:
        having, lacking = paths if one.behind else paths[::-1]
        raise WeightsError(
            lacking,
            expected=f"vectors that go behind the text encoder, as {having} has them",
            found="none",
            remedy="Weights 0 and 1 give the words themselves.",
        )


def _require_direction(one: np.ndarray, other: np.ndarray, encoder: str, paths: tuple[Path, Path]) -> None:
    """Refuses rows without a direction between them: opposite ones, and one of two that is zero."""
    for place, rows in enumerate(zip(one.astype(np.float64), other.astype(np.float64), strict=True), start=1):
        norms = [float(np.linalg.norm(row)) for row in rows]
        if norms == [0, 0]:
            continue
        if 0 in norms:
            problem = f"one of zeros in {paths[norms.index(0)]}"
        elif np.linalg.norm(rows[0] / norms[0] + rows[1] / norms[1]) < _OPPOSITE:
            problem = "opposite directions"
        else:
            continue
        raise WeightsError(
            f"{paths[0]} and {paths[1]}",
            expected="vectors with a direction between them",
            found=f"{problem} at vector {place} of {encoder}",
            remedy="Weights 0 and 1 give the words themselves.",
        )
