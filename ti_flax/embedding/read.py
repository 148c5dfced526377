"""Embeddings of every trainer, read as one thing whether a file holds them or two.

diffusers writes an embedding for SDXL as two files, `learned_embeds.safetensors` for the first text encoder
and `learned_embeds_2.safetensors` for the second (examples/textual_inversion/textual_inversion_sdxl.py); the
path of either, or of their folder, stands for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ti_flax.embedding.contents import (
    FIRST,
    FIRST_WIDTH,
    SD2_WIDTH,
    SECOND,
    SECOND_WIDTH,
    EmbeddingFile,
    read_file,
)
from ti_flax.embedding.file_names import LEARNED_EMBEDS, PAIRED, first_half, second_half
from ti_flax.errors import WeightsError

__all__ = ["EmbeddingFile", "load_embedding", "read_embeddings"]


def load_embedding(path: Path, token: str | None = None) -> EmbeddingFile:
    """Reads an embedding of any kind; nothing in its files is executed.

    Args:
      path: of the file, of either half of diffusers' pair for SDXL, or of the folder of learned_embeds.
      token: which one, where the file holds several.

    Raises:
      WeightsError: there is no such file, it is no embedding, or holds several and none of them is chosen.
    """
    found = read_embeddings(path)
    if len(found) == 1:
        return found[0]
    for embedding in found:
        if embedding.token == token:
            return embedding
    tokens = [str(embedding.token) for embedding in found]
    shown = ", ".join(tokens[:4]) + (f" and {len(tokens) - 4} more" if len(tokens) > 4 else "")
    raise WeightsError(
        path,
        expected="one token" if token is None else f"the token {token}",
        found=f"{len(tokens)}, {shown}",
        remedy="Take one out with `scripts/convert_embeds.py IN OUT --token TOKEN`.",
    )


def read_embeddings(path: Path) -> list[EmbeddingFile]:
    """Reads every token of an embedding of any kind; nothing in its files is executed.

    Raises:
      WeightsError: there is no such file, it is no embedding, or half of a pair whose halves do not match.
    """
    path = _in_folder(path) if path.is_dir() else path
    found = read_file(path)
    if _may_be_half(found) and path.suffix.lower() in PAIRED:
        found = _joined(path, found)
    return [each if each.files else dataclasses.replace(each, files=(path,)) for each in found]


def _in_folder(folder: Path) -> Path:
    """The learned_embeds file of a folder, as diffusers looks for it; the folder itself if there is none."""
    paths = [folder / f"{LEARNED_EMBEDS}{suffix}" for suffix in PAIRED]
    return next((path for path in paths if path.is_file()), folder)


def _may_be_half(found: Sequence[EmbeddingFile]) -> bool:
    diffusers = all(each.kind == "diffusers" and each.token is not None for each in found)
    return diffusers and len({_width(each) for each in found}) == 1 and _width(found[0]) != SD2_WIDTH


def _width(embedding: EmbeddingFile) -> int:
    return next(iter(embedding.rows.values())).shape[1]


def _joined(path: Path, found: list[EmbeddingFile]) -> list[EmbeddingFile]:
    """The words of a file with their other halves if those lie beside it, or else as they are."""
    for first, second in _pairs(path, _width(found[0])):
        place = second if first == path else first
        other = _other_half(place) if place.is_file() else None
        if other is not None and _may_belong(found, other):
            one, two = (found, other) if first == path else (other, found)
            if _are_sdxls(_width(one[0]), _width(two[0])):
                return _both(first, one, second, two)
    return found


def _may_belong(found: Sequence[EmbeddingFile], other: Sequence[EmbeddingFile]) -> bool:
    """Whether two files may be halves of one another: of one word each, or of the same words."""
    tokens, others = ({half.token for half in halves} for halves in (found, other))
    return len(found) == len(other) and (len(found) == 1 or tokens == others)


def _pairs(path: Path, width: int) -> Iterator[tuple[Path, Path]]:
    """The pairs that a file of vectors of a width may belong to by its name."""
    first = first_half(path)
    if first is not None and width != FIRST_WIDTH:
        yield first, path
    if width != SECOND_WIDTH:
        yield path, second_half(path)


def _other_half(path: Path) -> list[EmbeddingFile] | None:
    """What lies at the place of another half, if that can be one.

    Raises:
      WeightsError: it is called as one and is damaged.
    """
    try:
        found = read_file(path)
    except WeightsError:
        if path.stem.startswith(LEARNED_EMBEDS):
            raise
        return None  # another file that happens to be called so, such as a LoRA
    return found if _may_be_half(found) else None


def _are_sdxls(first: int, second: int) -> bool:
    """Whether widths are those of SDXL's text encoders, or of a model with two that nobody released."""
    known = (FIRST_WIDTH, SD2_WIDTH, SECOND_WIDTH)
    return (first, second) == (FIRST_WIDTH, SECOND_WIDTH) or not {first, second} & {*known}


def _both(
    first: Path, one: Sequence[EmbeddingFile], second: Path, other: Sequence[EmbeddingFile]
) -> list[EmbeddingFile]:
    if len(one) > 1:
        named = {half.token: half for half in other}
        other = [named[half.token] for half in one]
    expected, found = map(_described, (one, other))
    steps = [half[0].details.get("step") for half in (one, other)]
    if expected == found and None not in steps:
        expected, found = (
            f"{said} of step {step}" for said, step in zip((expected, found), steps, strict=True)
        )
    if expected != found:
        raise WeightsError(
            second,
            expected=f"the second half of {first.name}, {expected}",
            found=found,
            remedy="Put two halves of one run beside one another, or move what is no half elsewhere.",
        )
    return [_pair(each, its, (first, second)) for each, its in zip(one, other, strict=True)]


def _pair(one: EmbeddingFile, other: EmbeddingFile, files: tuple[Path, Path]) -> EmbeddingFile:
    dtype = one.dtype if one.dtype == other.dtype else f"{one.dtype} and {other.dtype}"
    return dataclasses.replace(one, rows={FIRST: _only(one), SECOND: _only(other)}, dtype=dtype, files=files)


def _described(halves: Sequence[EmbeddingFile]) -> str:
    """What a file holds, in words: `the word <cat> with 2 vectors`."""
    return " and ".join(f"the word {half.token} with {_counted(half.vectors)}" for half in halves)


def _only(half: EmbeddingFile) -> np.ndarray:
    return next(iter(half.rows.values()))


def _counted(vectors: int) -> str:
    return f"{vectors} vector{'' if vectors == 1 else 's'}"
