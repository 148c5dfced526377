"""learned_embeds files: one key, the placeholder token, and its vectors `[num_vectors, width]`.

Both are what diffusers' `save_progress` writes: `.safetensors` with metadata `{"format": "pt"}`, and
`.bin`, the zip archive of `torch.save`, here written without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ti_flax.embedding.read import checked_width, load_embedding
from ti_flax.embedding.torch_archive import torch_bytes
from ti_flax.errors import OutputError, TokenError, WeightsError
from ti_flax.files.atomic import atomic_write
from ti_flax.models.tokenizer import vector_tokens


def save_learned_embeds(
    path: Path, placeholder_token: str, rows: np.ndarray, *, details: Mapping[str, str] | None = None
) -> None:
    """Writes rows as a `.safetensors` or `.bin` file, by the path's suffix.

    Args:
      path: where to; replaced in one rename.
      placeholder_token: the only key.
      rows: `[num_vectors, width]`, saved as contiguous float32.
      details: what else a `.safetensors` file says of them.

    Raises:
      OutputError: the file cannot be written.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    content = torch_archive(placeholder_token, rows)
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        content = save({placeholder_token: rows}, metadata={"format": "pt", **(details or {})})
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


def add_learned_embeds(tokenizer: Any, path: Path, *, width: int) -> np.ndarray:
    """Adds the tokens of an embedding file to a tokenizer.

    Args:
      tokenizer: a CLIP tokenizer; it learns `tok`, `tok_1`, ..., one token a vector.
      path: a file of any form; one without a token inside goes by its name.
      width: of the text encoder the rows are for.

    Returns:
      The rows `[num_vectors, width]` float32, in the order of the new tokens.

    Raises:
      WeightsError: the file is no embedding, or of another width.
      TokenError: the tokenizer has the token already.
    """
    file = load_embedding(path)
    rows = checked_width(file, path, width)
    token = file.token or path.stem
    tokens = list(vector_tokens(token, len(rows)))
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
