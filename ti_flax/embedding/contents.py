"""What a single embedding file holds, of every trainer, told apart by what is in it.

diffusers: `.bin` and `.safetensors` of one key, the token. AUTOMATIC1111: `.pt`, and images that carry
the embedding as text or in their pixels. kohya and invoke-training: key `emb_params`. OneTrainer: key
`emp_params`. SDXL files of all of these: `clip_l` and `clip_g`, in older ones `text_encoders_0` and
`text_encoders_1`; of diffusers two files, which `ti_flax.embedding.read` joins. rinongal: `.pt` with tokens
as tensors. The first Flax script of diffusers: `.npy` of a mapping.

OneTrainer's output embeddings have `_out` behind their keys: vectors that take the place of what a text
encoder makes of the word. Its files hold zeros for the vectors that the text encoder reads then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ti_flax.embedding.png import is_image, read_image
from ti_flax.errors import WeightsError
from ti_flax.files.regular import open_regular
from ti_flax.models.weights.numpy_files import NUMPY_BEGINNING, read_numpy
from ti_flax.models.weights.tensor_files import StoredTensor, index_safetensors, safetensors_metadata
from ti_flax.models.weights.torch_files import Empty, is_torch_file, read_torch

# The text encoders that rows can be of; SDXL alone has the second.
FIRST, SECOND = "text_encoder", "text_encoder_2"
# Of SDXL's encoders, whose first is that of 1.x too, and of 2.x. Only SDXL's second is as wide as that, so a
# file of such vectors needs to say no more.
FIRST_WIDTH, SECOND_WIDTH, SD2_WIDTH = 768, 1280, 1024
# Keys of files that hold the vectors of SDXL's text encoders, in this order.
_TWO_ENCODERS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
# Keys that stand for the vectors in files that do not hold their token.
_NAMELESS = {"emb_params": "kohya", "emp_params": "onetrainer"}
# Follows the name of a text encoder, and keys of OneTrainer's files, for vectors that go behind it.
BEHIND = "_out"
# Stands for any word in files of the Web UI and of the first implementation.
_ANY_WORD = "*"
# Where kohya's files can say which word they were trained with.
_TRIGGER = "modelspec.trigger_phrase"
# Wider than any text encoder's vectors, so that a model given by mistake is not read whole.
_MOST_VECTORS, _MOST_WIDTH, _MOST_TOKENS = 4096, 16384, 1024
# Of all tokens together: many names can stand for the same bytes of a file.
_MOST_NUMBERS = _MOST_VECTORS * 4096
_LONGEST_DETAIL, _MOST_DETAILS = 4096, 1024


@dataclass(frozen=True)
class EmbeddingFile:
    """An embedding as a file holds it, or as diffusers' two files for SDXL do.

    Attributes:
      rows: `[vectors, width]` float32 by text encoder, `text_encoder` and in files for SDXL `text_encoder_2`,
        of which some hold one alone.
      kind: diffusers, automatic1111, kohya, onetrainer, sdxl, rinongal or flax.
      behind: likewise, what takes the place of the text encoder's output at the word; mostly none.
      token: the word the file says it stands for, None where files of its kind do not say.
      details: what else the file says: step, sd_checkpoint, modelspec keys, ...
      dtype: of the numbers in the file.
      files: where it was read from, of two files the first text encoder's first.
    """

    rows: Mapping[str, np.ndarray]
    kind: str
    token: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    files: tuple[Path, ...] = ()
    behind: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def vectors(self) -> int:
        """How many there are, the same for each text encoder."""
        return len(next(iter(self.rows.values())))

    @property
    def is_sdxl(self) -> bool:
        """Whether it can only be for SDXL."""
        return self.kind == "sdxl" or SECOND in self.rows


def read_file(path: Path) -> list[EmbeddingFile]:
    """Reads every token of a single file; nothing in it is executed.

    Raises:
      WeightsError: there is no such file, or it is no embedding.
    """
    try:
        with open_regular(path) as file:
            start = file.read(32)
    except OSError as error:
        raise WeightsError(
            path,
            expected="an embedding file",
            found=error.strerror or str(error),
            remedy="Relative paths start at the current folder.",
        ) from None
    if is_image(start):
        return _from_tree(path, read_image(path))
    # A safetensors header of 128 bytes begins like a pickle does, so its brace is looked for first.
    if start[8:9] == b"{":
        return _from_tensors(path, index_safetensors(path), safetensors_metadata(path))
    if is_torch_file(start):
        return _from_tree(path, read_torch(path))
    if start.startswith(NUMPY_BEGINNING):
        return _from_numpy(path, read_numpy(path))
    raise _no_embedding(path, f"a file that begins with {start[:8]!r}" if start else "an empty file")


def _from_tree(path: Path, tree: Any) -> list[EmbeddingFile]:
    """What `torch.save` or an image's JSON held: the Web UI's tree, rinongal's, or named tensors."""
    if _is_array(tree):  # diffusers takes these too, with the token given beside it
        return [EmbeddingFile(_rows(path, "the tensor", tree), "diffusers", dtype=str(tree.dtype))]
    if not isinstance(tree, Mapping):
        raise _no_embedding(path, _named(tree))
    if "string_to_param" not in tree:
        named = {name: values for name, values in tree.items() if isinstance(name, str)}
        return _from_tensors(path, {k: v for k, v in named.items() if _is_array(v)}, _details(named))
    rows = tree["string_to_param"]
    if isinstance(rows, Empty) and isinstance(rows.state, dict):  # a torch.nn.ParameterDict
        rows = rows.state.get("_parameters")
    if not isinstance(rows, Mapping) or not 0 < len(rows) <= _MOST_TOKENS:
        raise _no_embedding(path, "string_to_param without tokens")
    kind = "automatic1111" if "name" in tree or "step" in tree else "rinongal"
    _require_few_numbers(path, rows.values())
    details = _details({key: tree.get(key) for key in ("step", "sd_checkpoint", "sd_checkpoint_name")})
    name = tree.get("name")
    made = []
    for word, values in rows.items():
        token = name if isinstance(name, str) and name and len(rows) == 1 else _word(path, word)
        made.append(
            EmbeddingFile(
                _rows(path, word, values),
                kind,
                token if token != _ANY_WORD else None,
                details=details,
                dtype=str(values.dtype),
            )
        )
    return made


def _from_numpy(path: Path, content: Any) -> list[EmbeddingFile]:
    """A mapping of the token to its vectors, or bare vectors."""
    if isinstance(content, np.ndarray):
        return [EmbeddingFile(_rows(path, "the array", content), "flax", dtype=str(content.dtype))]
    if not isinstance(content, Mapping) or not content:
        raise _no_embedding(path, _named(content))
    _require_few_numbers(path, content.values())
    return [
        EmbeddingFile(_rows(path, token, values), "flax", _word(path, token), dtype=str(values.dtype))
        for token, values in content.items()
    ]


def _from_tensors(path: Path, tensors: Mapping[str, Any], details: Mapping[str, str]) -> list[EmbeddingFile]:
    outputs = {name.removesuffix(BEHIND): values for name, values in tensors.items() if _is_output(name)}
    inner = {name: values for name, values in tensors.items() if not _is_output(name)}
    if outputs:
        return [_with_outputs(path, inner, outputs, details)]
    trigger = details.get(_TRIGGER, "").strip()
    token = trigger if trigger and not set(trigger) & set(" ,") else None
    for names in _TWO_ENCODERS:
        if inner and set(inner) <= set(names):
            both = {name: inner[name] for name in names if name in inner}
            dtype = str(next(iter(both.values())).dtype)
            return [EmbeddingFile(_rows_of_both(path, both, names), "sdxl", token, details, dtype)]
    for name, kind in _NAMELESS.items():
        if set(inner) == {name}:
            rows = _rows(path, name, inner[name])
            return [EmbeddingFile(rows, kind, token, details=details, dtype=str(inner[name].dtype))]
    _require_tokens(path, inner)
    return [
        EmbeddingFile(_rows(path, name, values), "diffusers", name, details=details, dtype=str(values.dtype))
        for name, values in inner.items()
    ]


def _with_outputs(
    path: Path, inner: Mapping[str, Any], outputs: Mapping[str, Any], details: Mapping[str, str]
) -> EmbeddingFile:
    """What goes before and behind the text encoders; nothing goes before where a file has outputs alone."""
    behind, *others = _from_tensors(path, outputs, details)
    nothing = {encoder: np.zeros_like(rows) for encoder, rows in behind.rows.items()}
    before, *more = _from_tensors(path, inner, details) if inner else [replace(behind, rows=nothing)]
    if others or more or before.kind != behind.kind or before.kind == "diffusers":
        raise _no_embedding(path, f"tensors {', '.join(sorted({*inner, *_output_names(outputs)})[:4])}")
    for encoder, rows in behind.rows.items():
        if encoder not in before.rows or before.rows[encoder].shape != rows.shape:
            raise WeightsError(
                path,
                expected="as many vectors behind a text encoder as before it",
                found=f"{', '.join(sorted(_output_names(outputs)))} that others do not match",
                remedy="Take the file as its trainer wrote it.",
            )
    return replace(before, behind=behind.rows)


def _output_names(outputs: Iterable[str]) -> list[str]:
    return [f"{name}{BEHIND}" for name in outputs]


def _require_tokens(path: Path, tensors: Mapping[str, Any]) -> None:
    """Refuses tensors whose names are not those of tokens."""
    known = sorted(set(tensors) & {*_TWO_ENCODERS[0]})
    if known:
        others = ", ".join(sorted(set(tensors) - {*known})[:4])
        raise WeightsError(
            path,
            expected="an embedding for Stable Diffusion 1.x, 2.x or SDXL",
            found=f"{' and '.join(known)} with {others}, of another model",
            remedy="Use one that was trained on the same base.",
        )
    # A model's tensors have dots in their names, and there are hundreds.
    names = sorted(tensors)
    if not names or len(names) > 1 and (len(names) > _MOST_TOKENS or any(map(_has_dot, names))):
        raise _no_embedding(path, f"{len(names)} tensors, {', '.join(names[:4])}" if names else "no tensor")
    _require_few_numbers(path, tensors.values())


def can_be_key(word: str) -> bool:
    """Whether a word can be a key beside others, which no reader takes for something else."""
    others = {*_NAMELESS, *(name for names in _TWO_ENCODERS for name in names), "string_to_param"}
    return word not in others and not _is_output(word) and not _has_dot(word)


def _has_dot(name: str) -> bool:
    """Whether a name is like those of a model's tensors; words stand in angle brackets by custom."""
    return "." in name and not (name.startswith("<") and name.endswith(">"))


def _is_output(name: str) -> bool:
    inner = name.removesuffix(BEHIND)
    return inner != name and (inner in _NAMELESS or any(inner in names for names in _TWO_ENCODERS))


def _is_array(value: Any) -> bool:
    return isinstance(value, (StoredTensor, np.ndarray))


def _named(value: Any) -> str:
    """What something is that is no mapping, for messages."""
    return value.kind if isinstance(value, Empty) else f"a {type(value).__name__}"


def _word(path: Path, name: Any) -> str:
    """A token that a file names."""
    if not isinstance(name, str):
        raise _no_embedding(path, "a token that is no text")
    return name


def _details(said: Mapping[str, Any]) -> dict[str, str]:
    """What a file says beside its numbers, as far as it is a text or a number."""
    plain = {
        name: value
        for name, value in said.items()
        if isinstance(value, (str, float, bool)) or (isinstance(value, int) and abs(value) < 2**63)
    }
    return {
        name: str(plain[name])[:_LONGEST_DETAIL] for name in list(plain)[:_MOST_DETAILS] if plain[name] != ""
    }


def _require_few_numbers(path: Path, arrays: Iterable[Any]) -> None:
    sizes = [math.prod(values.shape) for values in arrays if _is_array(values)]
    if len(sizes) > _MOST_TOKENS or sum(sizes) > _MOST_NUMBERS:
        raise _no_embedding(path, f"{len(sizes)} tensors of {sum(sizes)} numbers")


def _rows(path: Path, name: Any, values: Any) -> dict[str, np.ndarray]:
    """The rows of a tensor that says nothing of its text encoder, which its width may tell."""
    rows = _as_rows(path, name, values)
    return {SECOND if rows.shape[1] == SECOND_WIDTH else FIRST: rows}


def _rows_of_both(path: Path, tensors: Mapping[str, Any], names: tuple[str, str]) -> dict[str, np.ndarray]:
    """The rows under keys that say their text encoder, of one or both."""
    read = {name: _as_rows(path, name, values) for name, values in tensors.items()}
    if len({len(rows) for rows in read.values()}) > 1:
        raise WeightsError(
            path,
            expected="as many vectors for each text encoder",
            found=" and ".join(f"{name} of {len(rows)}" for name, rows in read.items()),
            remedy="Take the file as its trainer wrote it.",
        )
    return {encoder: read[name] for encoder, name in zip((FIRST, SECOND), names, strict=True) if name in read}


def _as_rows(path: Path, name: Any, values: Any) -> np.ndarray:
    if not _is_array(values):
        raise _no_embedding(path, f"{name} that is no tensor")
    shape, floats = tuple(values.shape), values.dtype.kind == "f" or values.dtype == ml_dtypes.bfloat16
    fits = len(shape) in (1, 2) and 0 < shape[-1] <= _MOST_WIDTH and math.prod(shape) <= _MOST_NUMBERS
    if not floats or not fits or not all(0 < count <= _MOST_VECTORS for count in shape[:-1]):
        raise _no_embedding(path, f"{name} of shape {list(shape)} {values.dtype}")
    stored = values.read() if isinstance(values, StoredTensor) else values
    with np.errstate(over="ignore"):
        rows = np.atleast_2d(stored).astype(np.float32)
    if not np.isfinite(rows).all():
        raise _no_embedding(path, f"{name} with numbers that are not finite")
    return np.ascontiguousarray(rows)


def _no_embedding(path: Path, found: str) -> WeightsError:
    return WeightsError(
        path,
        expected="an embedding: a .safetensors, .bin or .pt file of a trainer, or an image of the Web UI",
        found=found,
        remedy="Name the embedding itself, not a model.",
    )
