"""Files <-> parameter trees. Every transposition between PyTorch's layout and Flax's happens here.

A Flax leaf has one PyTorch name, which `torch_name` works out; reading and writing both go through it.
Flax kernels are `[height, width, in, out]` or `[in, out]`, PyTorch's weights `[out, in, height, width]` or
`[out, in]`. Leaves in memory may be those of many layers, which files have one by one (`stacked_layers`).
"""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from ti_flax.errors import WeightsError
from ti_flax.models.weights.hub import resolve_model
from ti_flax.models.weights.ignored_tensors import is_ignored
from ti_flax.models.weights.model_folder import (
    MSGPACK,
    SAFETENSORS,
    check_kind,
    choose_weights,
    flax_name,
    read_config,
    torch_stem,
)
from ti_flax.models.weights.stacked_layers import Gathered, Path, Tree, flat, unstacked, unstacked_places
from ti_flax.models.weights.tensor_files import (
    StoredTensor,
    index_msgpack,
    index_safetensors,
    write_msgpack,
    write_safetensors,
)

__all__ = [
    "check_kind",
    "check_place",
    "check_tensors",
    "read_config",
    "read_params",
    "read_place",
    "read_tensors",
    "resolve_model",
    "torch_name",
    "torch_state",
    "write_flax_params",
    "write_torch_params",
]

# Names in an error message before "and N more".
_NAMES_SHOWN = 8
# Numbers looked at together, so that no second copy of a large parameter is made.
_PORTION = 2**20

_NUMBERED = re.compile(
    r"(down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|transformer_blocks|to_out|net)_(\d+)"
)
_CLIP, _OF_CLIP = ("text_encoder", "text_encoder_2"), ("text_model.", "text_projection.")
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
# The autoencoder's attention: Flax kept the names PyTorch had before diffusers 0.13.
_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_VAE_ATTENTION = re.compile(r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)")


def read_params(
    folder: pathlib.Path,
    component: str,
    expected: Tree,
    *,
    dtype: DTypeLike | None,
    variant: str | None = None,
) -> dict[str, Any]:
    """Read the parameters of one component into host memory.

    Tensors are read, converted and transposed one by one, so that little more than the result is held.

    Args:
      folder: the model folder.
      component: `text_encoder`, `text_encoder_2`, `unet` or `vae`.
      expected: tree of `jax.ShapeDtypeStruct` the file has to match, name by name and shape by shape.
      dtype: of the result; None keeps the file's.
      variant: as in `model.fp16.safetensors`.

    Returns:
      A tree of NumPy arrays with the structure of `expected`.

    Raises:
      WeightsError: listing what is missing, left over or of another shape.
    """
    return read_place(folder / component, component, expected, dtype=dtype, variant=variant)


def read_place(
    place: pathlib.Path,
    component: str,
    expected: Tree,
    *,
    dtype: DTypeLike | None,
    variant: str | None = None,
) -> dict[str, Any]:
    """Read the parameters of a component from the folder that holds its files, as `read_params` does."""
    files = _chosen_files(place, component, variant)
    if files[0].suffix == MSGPACK:
        return _read_flax(files[0], component, expected, dtype)
    where = files[0] if len(files) == 1 else place
    return read_tensors(_index_shards(files, component), component, expected, dtype=dtype, where=where)


def check_place(place: pathlib.Path, component: str, expected: Tree, *, variant: str | None = None) -> None:
    """Check by their headers that a component's files hold what is expected; reads no numbers.

    Raises:
      WeightsError: as `read_params`, but for numbers that are none.
    """
    files = _chosen_files(place, component, variant)
    if files[0].suffix == MSGPACK:
        _account_of_flax(files[0], component, expected)
    else:
        where = files[0] if len(files) == 1 else place
        check_tensors(_index_shards(files, component), component, expected, where=where)


def _chosen_files(place: pathlib.Path, component: str, variant: str | None) -> list[pathlib.Path]:
    names = [entry.name for entry in place.iterdir()] if place.is_dir() else []
    return [place / name for name in choose_weights(names, component, variant, str(place))]


def read_tensors(
    stored: Mapping[str, StoredTensor],
    component: str,
    expected: Tree,
    *,
    dtype: DTypeLike | None,
    where: pathlib.Path,
) -> dict[str, Any]:
    """Read the parameters of one component from tensors under PyTorch's names, one by one.

    Args:
      stored: by name.
      component: `text_encoder`, `text_encoder_2`, `unet` or `vae`.
      expected: tree of `jax.ShapeDtypeStruct` they have to match, name by name and shape by shape.
      dtype: of the result; None keeps the file's.
      where: the file, for messages.

    Raises:
      WeightsError: listing what is missing, left over or of another shape.
    """
    shapes = check_tensors(stored, component, expected, where=where)
    wanted = {torch_name(each.path, component): each for each in unstacked_places(expected)}
    read = Gathered(expected, dtype)
    for name, tensor in stored.items():
        values = tensor.read().reshape(shapes[name])
        _require_finite(values, name, where)
        read.put(wanted[name], _to_flax(wanted[name].path, values))
    return read.tree()


def check_tensors(
    stored: Mapping[str, StoredTensor], component: str, expected: Tree, *, where: pathlib.Path
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the tensors of a component have in PyTorch, if they have them; reads none.

    Raises:
      WeightsError: listing what is missing, left over or of another shape.
    """
    shapes = {
        torch_name(each.path, component): _torch_shape(each.path, each.shape)
        for each in unstacked_places(expected)
    }
    found = {name: _linear_shape(tensor.shape, shapes.get(name)) for name, tensor in stored.items()}
    _check_account(where, shapes, found)
    return shapes


def torch_state(params: Tree, component: str) -> dict[str, np.ndarray]:
    """Return the parameters under PyTorch's names and in PyTorch's layouts.

    The arrays are views, transposed in place of copied. Names of the text encoder begin with `text_model.`.
    """
    return {
        torch_name(path, component): _to_torch(path, np.asarray(leaf))
        for path, leaf in flat(unstacked(params)).items()
    }


def write_flax_params(folder: pathlib.Path, component: str, params: Tree) -> pathlib.Path:
    """Write a component in the msgpack format of FlaxStableDiffusionPipeline and return the file."""
    path = folder / component / flax_name(component)
    write_msgpack(path, unstacked(params))
    return path


def write_torch_params(folder: pathlib.Path, component: str, params: Tree) -> pathlib.Path:
    """Write a component as safetensors under PyTorch's names and return the file."""
    path = folder / component / (torch_stem(component) + SAFETENSORS)
    write_safetensors(path, torch_state(params, component))
    return path


def torch_name(path: Path, component: str) -> str:
    """Name the PyTorch parameter of a Flax leaf: `('conv_in', 'kernel')` is `conv_in.weight`."""
    *modules, leaf = path
    if component == "vae":
        modules = [_VAE_ATTENTION.get(module, module) for module in modules]
    numbered = (_NUMBERED.sub(r"\1.\2", module) for module in modules)
    return ".".join([*numbered, _LEAVES[leaf]])


def _current_name(name: str, component: str) -> str:
    """Translate what older and newer files call a parameter to the name that `torch_name` gives it."""
    if component in _CLIP and not name.startswith(_OF_CLIP):
        return f"text_model.{name}"
    if component == "vae":
        return _OLD_VAE_ATTENTION.sub(lambda match: _VAE_ATTENTION[match[1]], name)
    return name


def _read_flax(file: pathlib.Path, component: str, expected: Tree, dtype: DTypeLike | None) -> dict[str, Any]:
    stored = _account_of_flax(file, component, expected)
    wanted = {"/".join(each.path): each for each in unstacked_places(expected)}
    read = Gathered(expected, dtype)
    for name, tensor in stored.items():
        values = tensor.read()
        _require_finite(values, name, file)
        read.put(wanted[name], values)
    return read.tree()


def _account_of_flax(file: pathlib.Path, component: str, expected: Tree) -> dict[str, StoredTensor]:
    """The tensors of a msgpack file, which have the names and shapes that are expected."""
    stored = {name: tensor for name, tensor in index_msgpack(file).items() if not is_ignored(name, component)}
    shapes = {"/".join(each.path): each.shape for each in unstacked_places(expected)}
    _check_account(file, shapes, {name: tensor.shape for name, tensor in stored.items()})
    return stored


# Of a float's bits, those that are all set in infinities and in what is no number.
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}


def _require_finite(values: np.ndarray, name: str, where: pathlib.Path) -> None:
    """Raise a WeightsError if a parameter is no number; its bits are looked at, a fraction of its reading."""
    exponent = _EXPONENTS.get(values.dtype.name)
    if exponent is None:
        broken = not np.isfinite(values).all()
    else:
        bits = values.reshape(-1).view(f"i{values.dtype.itemsize}")
        broken = any(
            bool(((bits[start : start + _PORTION] & exponent) == exponent).any())
            for start in range(0, bits.size, _PORTION)
        )
    if broken:
        raise WeightsError(
            where,
            expected="numbers",
            found=f"infinity, or what is no number, in {name}",
            remedy="The file is damaged, or was saved by a run that failed: take another.",
        )


def _index_shards(files: list[pathlib.Path], component: str) -> dict[str, StoredTensor]:
    """Gather the tensors of all files under their current names, in the order they lie in the files."""
    stored: dict[str, StoredTensor] = {}
    for file in files:
        tensors = index_safetensors(file)
        for name in sorted(tensors, key=lambda name: tensors[name].offset):
            if is_ignored(name, component):
                continue
            current = _current_name(name, component)
            if current in stored:
                raise WeightsError(file, expected=f"one tensor {current}", found="two")
            stored[current] = tensors[name]
    return stored


def _linear_shape(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Take a 1x1 convolution for the linear layer it is, where one is wanted: old autoencoders have them."""
    if wanted is not None and len(wanted) == 2 and len(shape) == 4 and shape[2:] == (1, 1):
        return shape[:2]
    return shape


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_torch(path, np.broadcast_to(np.float32(0), shape)).shape


def _to_torch(path: Path, values: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return values
    return values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T


def _to_flax(path: Path, values: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return values
    return values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T


def _check_account(
    where: pathlib.Path, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise a WeightsError unless both sides have the same names with the same shapes."""
    faults = []
    if missing := [name for name in wanted if name not in found]:
        faults.append(f"missing {_listed(missing)}")
    if left_over := [name for name in found if name not in wanted]:
        faults.append(f"left over {_listed(left_over)}")
    differing = [name for name in wanted if name in found and tuple(found[name]) != tuple(wanted[name])]
    if differing:
        shown = [f"{name} {list(found[name])} instead of {list(wanted[name])}" for name in differing]
        faults.append(f"of another shape {_listed(shown)}")
    if faults:
        raise WeightsError(
            where,
            expected=f"the {len(wanted)} parameters that config.json describes",
            found="; ".join(faults),
            remedy="File and config.json do not belong together, or this kind of model is not supported.",
        )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"({len(names)}): " + ", ".join(names[:_NAMES_SHOWN]) + rest
