"""Embedding files of every trainer, told apart by what is in them, read as one thing.

diffusers: `.bin` and `.safetensors` of one key, the token. AUTOMATIC1111: `.pt`, and PNG pictures that carry
the embedding as text or in their pixels. kohya and invoke-training: key `emb_params`. OneTrainer: key
`emp_params`. SDXL files: `clip_l` and `clip_g`. rinongal: `.pt` with tokens as tensors.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ti_flax.errors import WeightsError
from ti_flax.models.tensor_files import StoredTensor, index_safetensors
from ti_flax.models.torch_files import Empty, is_torch_file, read_torch

# Keys of files that hold the vectors of two text encoders, in this order.
_TWO_ENCODERS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
# Keys that stand for the vectors in files that do not hold their token.
_NAMELESS = {"emb_params": "kohya", "emp_params": "onetrainer"}
# Stands for any word in files of the Web UI and of the first implementation.
_ANY_WORD = "*"
_TEXT_CHUNK = "sd-ti-embedding"
_PNG = b"\x89PNG\r\n\x1a\n"
# Wider than any text encoder's vectors, so that a model given by mistake is not read whole.
_MOST_VECTORS, _MOST_WIDTH = 4096, 16384
# The generator that the Web UI scrambles pixels with (Numerical Recipes' constants), from seed 0.
_SCRAMBLE_FACTOR, _SCRAMBLE_STEP, _SCRAMBLE_RANGE = 1664525, 1013904223, 2**32


@dataclass(frozen=True)
class EmbeddingFile:
    """An embedding as a file holds it.

    Attributes:
      rows: `[vectors, width]` float32.
      kind: diffusers, automatic1111, kohya, onetrainer, sdxl or rinongal.
      token: the word the file says it stands for, None where files of its kind do not say.
      second_rows: `[vectors, width]` float32 of the second text encoder, in files for SDXL.
      details: what else the file says: step, sd_checkpoint, modelspec keys, ...
    """

    rows: np.ndarray
    kind: str
    token: str | None = None
    second_rows: np.ndarray | None = None
    details: Mapping[str, str] = field(default_factory=dict)


def read_embedding(path: Path) -> EmbeddingFile:
    """Reads an embedding file of any kind; nothing in it is executed.

    Raises:
      WeightsError: there is no such file, or it is no embedding.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(32)
    except OSError as error:
        raise WeightsError(
            path,
            expected="an embedding file",
            found=error.strerror or str(error),
            remedy="Relative paths start at the current folder.",
        ) from None
    if start.startswith(_PNG):
        return _from_tree(path, _read_png(path))
    # A safetensors header of 128 bytes begins like a pickle does, so its brace is looked for first.
    if start[8:9] == b"{":
        return _from_tensors(path, index_safetensors(path), _metadata(path))
    if is_torch_file(start):
        return _from_tree(path, read_torch(path))
    raise _no_embedding(path, f"a file that begins with {start[:8]!r}" if start else "an empty file")


def checked_width(file: EmbeddingFile, path: Path, width: int) -> np.ndarray:
    """The rows of a file for a text encoder of a width.

    Raises:
      WeightsError: they belong to another model.
    """
    if file.second_rows is not None:
        raise WeightsError(
            path,
            expected=f"an embedding of one text encoder, {width} wide",
            found=f"one for SDXL, {file.rows.shape[1]} and {file.second_rows.shape[1]} wide",
            remedy="Use one that was trained on the same base model.",
        )
    if file.rows.shape[1] != width:
        raise WeightsError(
            path,
            expected=f"vectors of {width} numbers for this model",
            found=f"{file.rows.shape[1]}",
            remedy="Embeddings fit the base they were trained on: 768 is SD 1.x, 1024 is SD 2.x.",
        )
    return file.rows


def _from_tree(path: Path, tree: Any) -> EmbeddingFile:
    """What `torch.save` or a picture's JSON held: the Web UI's tree, rinongal's, or named tensors."""
    if not isinstance(tree, Mapping):
        raise _no_embedding(path, type(tree).__name__)
    if "string_to_param" not in tree:
        details = {str(name): str(value) for name, value in tree.items() if not _is_array(value)}
        return _from_tensors(path, {str(k): v for k, v in tree.items() if _is_array(v)}, details)
    rows = tree["string_to_param"]
    if isinstance(rows, Empty) and isinstance(rows.state, dict):  # a torch.nn.ParameterDict
        rows = rows.state.get("_parameters")
    if not isinstance(rows, Mapping) or len(rows) != 1:
        raise _no_embedding(path, "string_to_param with other than one token")
    ((word, values),) = rows.items()
    name = tree.get("name")
    kind = "automatic1111" if "name" in tree or "step" in tree else "rinongal"
    token = str(name) if name else str(word)
    details = {
        key: str(tree[key]) for key in ("step", "sd_checkpoint", "sd_checkpoint_name") if tree.get(key)
    }
    return EmbeddingFile(
        _as_rows(path, word, values), kind, token if token != _ANY_WORD else None, details=details
    )


def _from_tensors(path: Path, tensors: Mapping[str, Any], details: Mapping[str, str]) -> EmbeddingFile:
    for names in _TWO_ENCODERS:
        if set(names) == set(tensors):
            first, second = (_as_rows(path, name, tensors[name]) for name in names)
            return EmbeddingFile(first, "sdxl", second_rows=second, details=details)
    for name, kind in _NAMELESS.items():
        if name in tensors and set(tensors) <= {name, f"{name}_out"}:
            if f"{name}_out" in tensors:
                details = {**details, f"{name}_out": str(list(tensors[f"{name}_out"].shape))}
            return EmbeddingFile(_as_rows(path, name, tensors[name]), kind, details=details)
    if len(tensors) != 1:
        shown = ", ".join(sorted(tensors)[:4])
        raise _no_embedding(path, f"{len(tensors)} tensors, {shown}" if tensors else "no tensor")
    ((token, values),) = tensors.items()
    return EmbeddingFile(_as_rows(path, token, values), "diffusers", token, details=details)


def _is_array(value: Any) -> bool:
    return isinstance(value, (StoredTensor, np.ndarray))


def _as_rows(path: Path, name: Any, values: Any) -> np.ndarray:
    if not _is_array(values):
        raise _no_embedding(path, f"{name} that is no tensor")
    shape, floats = tuple(values.shape), values.dtype.kind == "f" or values.dtype == ml_dtypes.bfloat16
    fits = len(shape) in (1, 2) and 0 < shape[-1] <= _MOST_WIDTH
    if not floats or not fits or not all(0 < count <= _MOST_VECTORS for count in shape[:-1]):
        raise _no_embedding(path, f"{name} of shape {list(shape)} {values.dtype}")
    stored = values.read() if isinstance(values, StoredTensor) else values
    rows = np.atleast_2d(stored).astype(np.float32)
    if not np.isfinite(rows).all():
        raise _no_embedding(path, f"{name} with numbers that are not finite")
    return np.ascontiguousarray(rows)


def _metadata(path: Path) -> dict[str, str]:
    """What a safetensors file, already found whole, says about itself."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return {
            name: str(value) for name, value in json.loads(file.read(length)).get("__metadata__", {}).items()
        }


def _no_embedding(path: Path, found: str) -> WeightsError:
    return WeightsError(
        path,
        expected="an embedding: a .safetensors, .bin or .pt file of a trainer, or a picture of the Web UI",
        found=found,
        remedy="Name the embedding itself, not a model.",
    )


def _read_png(path: Path) -> Any:
    """The tree that a picture of the Web UI carries, as text or else in its pixels."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore")
            picture.load()
            text = picture.info.get(_TEXT_CHUNK)
            pixels = np.asarray(picture.convert("RGB"))
        if isinstance(text, str):
            return json.loads(base64.b64decode(text, validate=True), object_hook=_tensor_or_mapping)
        return json.loads(_hidden_bytes(pixels), object_hook=_tensor_or_mapping)
    except (OSError, ValueError, SyntaxError, binascii.Error, zlib.error, RecursionError) as error:
        raise _no_embedding(path, f"a picture that carries none ({str(error)[:80]})") from None


def _tensor_or_mapping(tree: dict[str, Any]) -> Any:
    return np.array(tree["TORCHTENSOR"], np.float32) if set(tree) == {"TORCHTENSOR"} else tree


def _hidden_bytes(pixels: np.ndarray) -> bytes:
    """What the Web UI hides in the low bits of the blocks left and right of its picture.

    Args:
      pixels: `[height, width, 3]` uint8, possibly with a black border.
    """
    nibbles = pixels & 0x0F
    lit = nibbles.max(axis=2) > 0
    if not lit.any():
        raise ValueError("black")
    rows, columns = np.flatnonzero(lit.max(axis=1)), np.flatnonzero(lit.max(axis=0))
    nibbles = nibbles[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    walls = np.flatnonzero(nibbles.max(axis=(0, 2)) == 0)
    if len(walls) < 2:
        raise ValueError("no columns of black between pixels and data")
    low, high = _unscrambled(nibbles[:, : walls[0]]), _unscrambled(nibbles[:, walls[-1] + 1 :])
    if low.shape != high.shape:
        raise ValueError("two blocks of different size")
    inflated = zlib.decompressobj()
    return inflated.decompress(((high << 4) | low).tobytes())


def _unscrambled(block: np.ndarray) -> np.ndarray:
    """Takes the Web UI's fixed pattern off a block of nibbles; `[values]` uint8."""
    pattern, value = np.empty(block.size, np.uint8), 0
    for place in range(block.size):
        value = (_SCRAMBLE_FACTOR * value + _SCRAMBLE_STEP) % _SCRAMBLE_RANGE
        pattern[place] = value % 255 & 0x0F
    return block.reshape(-1) ^ pattern
