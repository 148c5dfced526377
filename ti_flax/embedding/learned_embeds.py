"""learned_embeds files: a key for each word, its placeholder token, and its vectors `[num_vectors, width]`.

Both are what diffusers' `save_progress` writes: `.safetensors` with metadata `{"format": "pt"}`, and
`.bin`, the zip archive of `torch.save`, here written without torch. For SDXL there are two of each, the
second text encoder's called `learned_embeds_2`, and a file named by the word that has both text encoders'.
diffusers reads files of one word: of several that were learned together, each has one of its own as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.embedding.bases import rows_to_draw_with
from ti_flax.embedding.contents import FIRST, SECOND, can_be_key
from ti_flax.embedding.file_names import (
    LEARNED_EMBEDS,
    file_of_word,
    files_of_word,
    files_of_words,
    second_half,
    word_stem,
)
from ti_flax.embedding.formats import Embedding, embedding_bytes
from ti_flax.embedding.read import read_embeddings
from ti_flax.embedding.rows import before, joined
from ti_flax.embedding.torch_archive import torch_bytes
from ti_flax.errors import OutputError, TokenError, WeightsError
from ti_flax.files.atomic import atomic_write
from ti_flax.models.tokenizer import vector_tokens
from ti_flax.models.weights.tensor_files import safetensors_bytes

# Rows `[num_vectors, width]`, for SDXL by text encoder, by word.
WordRows = Mapping[str, np.ndarray | Mapping[str, np.ndarray]]
# Of all words of a concept; tables of evaluations have columns for each.
MOST_VECTORS_TOGETHER = 1000


def save_learned_embeds(
    path: Path,
    placeholder_token: str,
    rows: np.ndarray | Mapping[str, np.ndarray],
    *,
    details: Mapping[str, str] | None = None,
) -> None:
    """Writes rows as a `.safetensors` or `.bin` file, by the path's suffix, or as two for SDXL.

    Args:
      path: where to; replaced in one rename. The second text encoder's go before it into the file that
        `second_half` names, so that who finds the first finds both.
      placeholder_token: the only key.
      rows: `[num_vectors, width]`, saved as contiguous float32; for SDXL by text encoder.
      details: what else a `.safetensors` file says of them. With a `step`, halves of two steps are told
        apart, if a run ends or is read between them.

    Raises:
      OutputError: a file cannot be written.
    """
    save_words(path, {placeholder_token: rows}, details=details)


def save_words(path: Path, words: WordRows, *, details: Mapping[str, str] | None = None) -> None:
    """Writes the rows of one word or of several as `save_learned_embeds` does; each word is a key.

    Raises:
      OutputError: a file cannot be written.
    """
    trees = _trees(words)
    for encoder, place in ((SECOND, second_half(path)), (FIRST, path)):
        tensors = {token: tree[encoder] for token, tree in trees.items() if encoder in tree}
        if tensors:
            _save(place, tensors, details)


def save_in_one_file(path: Path, words: WordRows, *, details: Mapping[str, str]) -> None:
    """Writes the rows of a word as one `.safetensors` file, which is replaced in one rename for SDXL too.

    Args:
      path: where to.
      words: `[vectors, width]` by text encoder, saved as contiguous float32: one encoder's are written as
        `save_learned_embeds` does, two as `clip_l` and `clip_g`. That form holds one word: of several for
        SDXL there are two files, whose `step` tells those of two steps apart.
      details: what else the file says of them.

    Raises:
      OutputError: the file cannot be written.
    """
    ((token, rows), *others) = _trees(words).items()
    if others or SECOND not in rows:
        save_words(path, words, details=details)
        return
    _write(path, _both_encoders(token, rows, details))


def _trees(words: WordRows) -> dict[str, Mapping[str, np.ndarray]]:
    """The vectors that text encoders read, which are all that these files hold."""
    return {
        token: {FIRST: rows} if isinstance(rows, np.ndarray) else before(rows)
        for token, rows in words.items()
    }


def _both_encoders(token: str, rows: Mapping[str, np.ndarray], details: Mapping[str, str]) -> bytes:
    made = {name: np.ascontiguousarray(values, np.float32) for name, values in rows.items()}
    return embedding_bytes(Embedding(token, token, made, details=details, sdxl=True), "kohya", ".safetensors")


def write_learned_embeds(folder: Path, words: WordRows, *, details: Mapping[str, str] | None = None) -> None:
    """Writes every file of an embedding into a folder, in the order in which `learned_embeds_files` has them.

    Each is replaced in one rename, and `learned_embeds.safetensors` comes last: where it is for the first
    time, all are there and whole.

    Args:
      folder: where to.
      words: `[vectors, width]` by word, saved as contiguous float32; for SDXL by text encoder.
      details: what else the `.safetensors` files say of them.

    Raises:
      OutputError: a file cannot be written.
    """
    trees = _trees(words)
    save_words(folder / f"{LEARNED_EMBEDS}.bin", trees)
    for token, rows in trees.items():
        if len(trees) > 1:
            save_words(folder / file_of_word(token), {token: rows}, details=details)
        if SECOND in rows:
            content = _both_encoders(token, rows, details or {})
            _write(folder / f"{word_stem(token)}.safetensors", content)
    save_words(folder / f"{LEARNED_EMBEDS}.safetensors", trees, details=details)


def learned_embeds_files(words: Sequence[str], *, sdxl: bool) -> tuple[str, ...]:
    """Names of the files that `write_learned_embeds` writes, in its order."""
    bins, tensors = f"{LEARNED_EMBEDS}.bin", f"{LEARNED_EMBEDS}.safetensors"
    named = files_of_words(words, sdxl=sdxl)
    if not sdxl:
        return bins, *named, tensors
    seconds = [second_half(Path(name)).name for name in (bins, tensors)]
    return seconds[0], bins, *named, seconds[1], tensors


def check_words(vectors: Mapping[str, int], *, sdxl: bool) -> None:
    """Refuses words that cannot be learned together, since their files could not be told apart or read.

    Args:
      vectors: how many each word has.
      sdxl: whether they are for SDXL.

    Raises:
      TokenError: names one of them.
    """
    where, remedy = "placeholder_token", "Give one of them another name."
    if sum(vectors.values()) > MOST_VECTORS_TOGETHER:
        found = f"{len(vectors)} words with {sum(vectors.values())} vectors"
        raise TokenError(where, expected=f"at most {MOST_VECTORS_TOGETHER} vectors in all", found=found)
    owners: dict[str, str] = {}
    for word in vectors if len(vectors) > 1 else ():
        if not can_be_key(word):
            raise TokenError(
                f"{where} {word!r}",
                expected="a word that a file of several can hold",
                found="one that programs take for the name of something else",
                remedy=f"Write it in angle brackets, for example <{word}>.",
            )
        for name in files_of_word(word, sdxl=sdxl, several=True):
            other = owners.setdefault(name.casefold(), word)
            if other != word:
                found = f"{name}, which is that of {other!r}"
                expected = "a word whose file has a name of its own"
                raise TokenError(f"{where} {word!r}", expected=expected, found=found, remedy=remedy)


def _save(path: Path, tensors: Mapping[str, np.ndarray], details: Mapping[str, str] | None) -> None:
    tensors = {token: np.ascontiguousarray(rows, np.float32) for token, rows in tensors.items()}
    if path.suffix == ".safetensors":
        content = safetensors_bytes(tensors, {"format": "pt", **(details or {})})
    else:
        content = torch_archive(tensors)
    _write(path, content)


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise OutputError(
            path, expected="a place to write to", found=str(error), remedy="Choose another output_dir."
        ) from error


def torch_archive(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes `torch.save` would give for a dictionary of tensors, loadable with `weights_only=True`.

    Args:
      tensors: `[num_vectors, width]` float32 by key.
    """
    return torch_bytes(dict(tensors), root="learned_embeds")


def load_learned_embeds(path: Path) -> tuple[str, np.ndarray]:
    """Reads a `.safetensors` file of one key: the placeholder token and rows `[num_vectors, width]` float32.

    Raises:
      WeightsError: the file is not a learned_embeds file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise WeightsError(
            path,
            expected="a learned_embeds.safetensors file",
            found=str(error),
            remedy="Name the .safetensors file that a training run wrote.",
        ) from error
    if len(tensors) != 1:
        raise WeightsError(
            path,
            expected="one key, the placeholder token",
            found=f"{len(tensors)} keys {sorted(tensors)[:4]}",
            remedy="Name the .safetensors file that a training run wrote.",
        )
    ((token, rows),) = tensors.items()
    if rows.ndim not in (1, 2) or not np.issubdtype(rows.dtype, np.floating):
        raise WeightsError(
            f"{path}: {token}",
            expected="vectors [num_vectors, width] of floats",
            found=f"{list(rows.shape)} {rows.dtype}",
            remedy="Name the .safetensors file that a training run wrote.",
        )
    return token, np.atleast_2d(rows).astype(np.float32)


def add_learned_embeds(tokenizer: Any, path: Path, *, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Adds the tokens of an embedding file to a tokenizer.

    Args:
      tokenizer: a CLIP tokenizer; it learns `tok`, `tok_1`, ..., one token a vector.
      path: a file of any form; one without a token inside goes by its name.
      widths: of the text encoders the rows are for, by name.

    Returns:
      The rows `[num_vectors, width]` float32 by text encoder, in the order of the new tokens.

    Raises:
      WeightsError: the file is no embedding, or of another width.
      TokenError: the tokenizer has the token already.
    """
    rows = []
    for file in read_embeddings(path):
        rows.append(rows_to_draw_with(file, path, widths))
        token = file.token or path.stem
        tokens = list(vector_tokens(token, file.vectors))
        known = tokenizer.get_vocab()
        if any(name in known for name in tokens):
            raise TokenError(
                path,
                expected=f"{token!r} to be new to the tokenizer",
                found="that it is known",
                remedy="Leave the file out if the model already has the concept.",
            )
        tokenizer.add_tokens(tokens)
    return joined(rows)
