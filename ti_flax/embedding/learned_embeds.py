"""learned_embeds files: one key, the placeholder token, and its vectors `[num_vectors, width]`.

Both are what diffusers' `save_progress` writes: `.safetensors` with metadata `{"format": "pt"}`, and
`.bin`, the zip archive of `torch.save`, here written without torch. For SDXL there are two of each, the
second text encoder's called `learned_embeds_2`, and a file named by the word that has both text encoders'.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.embedding.bases import rows_to_draw_with
from ti_flax.embedding.contents import FIRST, SECOND
from ti_flax.embedding.file_names import LEARNED_EMBEDS, second_half, word_stem
from ti_flax.embedding.formats import Embedding, embedding_bytes
from ti_flax.embedding.read import load_embedding
from ti_flax.embedding.torch_archive import torch_bytes
from ti_flax.errors import OutputError, TokenError, WeightsError
from ti_flax.files.atomic import atomic_write
from ti_flax.models.tokenizer import vector_tokens
from ti_flax.models.weights.tensor_files import safetensors_bytes


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
    tree = {FIRST: rows} if isinstance(rows, np.ndarray) else rows
    if SECOND in tree:
        _save(second_half(path), placeholder_token, tree[SECOND], details)
    _save(path, placeholder_token, tree[FIRST], details)


def save_in_one_file(
    path: Path, placeholder_token: str, rows: Mapping[str, np.ndarray], *, details: Mapping[str, str]
) -> None:
    """Writes rows as one `.safetensors` file, which is replaced in one rename for SDXL too.

    Args:
      path: where to.
      placeholder_token: the word.
      rows: `[num_vectors, width]` by text encoder, saved as contiguous float32: one is written as
        `save_learned_embeds` does, two as `clip_l` and `clip_g`.
      details: what else the file says of them.

    Raises:
      OutputError: the file cannot be written.
    """
    if SECOND not in rows:
        save_learned_embeds(path, placeholder_token, rows, details=details)
        return
    _write(path, _both_encoders(placeholder_token, rows, details))


def _both_encoders(token: str, rows: Mapping[str, np.ndarray], details: Mapping[str, str]) -> bytes:
    made = {name: np.ascontiguousarray(values, np.float32) for name, values in rows.items()}
    return embedding_bytes(Embedding(token, token, made, details=details, sdxl=True), "kohya", ".safetensors")


def write_learned_embeds(
    folder: Path,
    placeholder_token: str,
    rows: np.ndarray | Mapping[str, np.ndarray],
    *,
    details: Mapping[str, str] | None = None,
) -> None:
    """Writes every file of an embedding into a folder, in the order in which `learned_embeds_files` has them.

    Each is replaced in one rename, and `learned_embeds.safetensors` comes last: where it is for the first
    time, all are there and whole.

    Args:
      folder: where to.
      placeholder_token: the word.
      rows: `[num_vectors, width]`, saved as contiguous float32; for SDXL by text encoder.
      details: what else the `.safetensors` files say of them.

    Raises:
      OutputError: a file cannot be written.
    """
    save_learned_embeds(folder / f"{LEARNED_EMBEDS}.bin", placeholder_token, rows)
    if not isinstance(rows, np.ndarray) and SECOND in rows:
        content = _both_encoders(placeholder_token, rows, details or {})
        _write(folder / f"{word_stem(placeholder_token)}.safetensors", content)
    save_learned_embeds(folder / f"{LEARNED_EMBEDS}.safetensors", placeholder_token, rows, details=details)


def learned_embeds_files(placeholder_token: str, *, sdxl: bool) -> tuple[str, ...]:
    """Names of the files that `write_learned_embeds` writes, in its order."""
    bins, tensors = f"{LEARNED_EMBEDS}.bin", f"{LEARNED_EMBEDS}.safetensors"
    if not sdxl:
        return bins, tensors
    seconds = [second_half(Path(name)).name for name in (bins, tensors)]
    return seconds[0], bins, f"{word_stem(placeholder_token)}.safetensors", seconds[1], tensors


def _save(path: Path, token: str, rows: np.ndarray, details: Mapping[str, str] | None) -> None:
    rows = np.ascontiguousarray(rows, np.float32)
    content = torch_archive(token, rows)
    if path.suffix == ".safetensors":
        content = safetensors_bytes({token: rows}, {"format": "pt", **(details or {})})
    _write(path, content)


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise OutputError(
            path, expected="a place to write to", found=str(error), remedy="Choose another output_dir."
        ) from error


def torch_archive(key: str, rows: np.ndarray) -> bytes:
    """The bytes `torch.save({key: tensor})` would give, loadable with `weights_only=True`.

    Args:
      key: the dictionary's one key.
      rows: `[num_vectors, width]` float32.
    """
    return torch_bytes({key: rows}, root="learned_embeds")


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
    file = load_embedding(path)
    rows = rows_to_draw_with(file, path, widths)
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
    return rows
