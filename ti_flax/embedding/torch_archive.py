"""What `torch.save` writes, written without torch: a zip archive of a pickle and the numbers beside it.

The pickle is put together as opcodes, because pickling the real objects would take torch. The names in it
are those that `torch.load(weights_only=True)` lets through, `ParameterDict` alone excepted.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# torch aligns every storage in the archive, so that it can be memory-mapped.
_ALIGNMENT = 64
_STORAGES = {
    np.dtype(np.float32): b"FloatStorage",
    np.dtype(np.float16): b"HalfStorage",
    np.dtype(np.int64): b"LongStorage",
}
_NO_HOOKS = b"ccollections\nOrderedDict\n)R"
# What torch.nn.Module expects in the state it is restored from, in all versions since 1.8.
_MODULE_STATE = ("_buffers", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_modules")


@dataclass(frozen=True)
class Parameters:
    """Stands for a `torch.nn.ParameterDict` of parameters that learn.

    Attributes:
      values: arrays by name.
    """

    values: Mapping[str, np.ndarray]


def torch_bytes(tree: Any, *, root: str = "archive", byteorder: bool = True) -> bytes:
    """The bytes `torch.save(tree)` would give.

    Args:
      tree: mappings, text, whole numbers, None, `Parameters`, and arrays of float32, float16 or int64,
        which become tensors.
      root: the folder in the archive.
      byteorder: whether the archive says its byte order, which torch does since 2.1, and which the Web UI's
        reader of pickles refused before 1.7.
    """
    arrays: list[np.ndarray] = []
    pickled = b"\x80\x02" + _node(tree, arrays) + b"."
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        _add(file, archive, f"{root}/data.pkl", pickled)
        if byteorder:
            _add(file, archive, f"{root}/byteorder", b"little")
        for key, array in enumerate(arrays):
            _add(file, archive, f"{root}/data/{key}", array.astype(array.dtype.newbyteorder("<")).tobytes())
        _add(file, archive, f"{root}/version", b"3\n")
    return archive.getvalue()


def _add(file: zipfile.ZipFile, archive: io.BytesIO, name: str, content: bytes) -> None:
    """Stores an entry whose content starts at a multiple of `_ALIGNMENT`."""
    entry = zipfile.ZipInfo(name)
    # The content follows a header of 30 bytes, the name, and an extra field of 4 bytes or more.
    gap = -(archive.tell() + 34 + len(entry.filename.encode())) % _ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", gap) + b"Z" * gap
    file.writestr(entry, content)


def _node(node: Any, arrays: list[np.ndarray]) -> bytes:
    """Opcodes that make a node; `arrays` grows by those that it refers to."""
    if node is None:
        return b"N"
    if isinstance(node, str):
        return _text(node)
    if isinstance(node, int):
        return _integer(node)
    if isinstance(node, np.ndarray):
        return _tensor(node, arrays)
    if isinstance(node, Parameters):
        return _parameter_dict(node, arrays)
    if isinstance(node, Mapping):
        return b"}" + b"".join(_text(key) + _node(value, arrays) + b"s" for key, value in node.items())
    raise TypeError(type(node).__name__)


def _tensor(array: np.ndarray, arrays: list[np.ndarray]) -> bytes:
    """A tensor in row-major order, without gradient, whose storage is the archive's next `data/N`."""
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    storage = _tuple(
        _text("storage"),
        b"ctorch\n" + _STORAGES[array.dtype] + b"\n",
        _text(str(len(arrays))),
        _text("cpu"),
        _integer(array.size),
    )
    arrays.append(np.ascontiguousarray(array).reshape(array.shape))
    parts = [storage + b"Q", _integer(0), _sizes(array.shape), _sizes(strides), b"\x89", _NO_HOOKS]
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + _tuple(*parts) + b"R"


def _parameter_dict(node: Parameters, arrays: list[np.ndarray]) -> bytes:
    """An `nn.ParameterDict` with the state that its pickle has, so that modules of any version restore it."""
    parameters = b"".join(
        _text(name)
        + b"ctorch._utils\n_rebuild_parameter\n"
        + _tuple(_tensor(array, arrays), b"\x88", _NO_HOOKS)
        + b"Rs"
        for name, array in node.values.items()
    )
    state = _text("training") + b"\x88s" + _text("_parameters") + b"}" + parameters + b"s"
    state += b"".join(_text(name) + _NO_HOOKS + b"s" for name in _MODULE_STATE)
    state += _text("_keys") + _node(dict.fromkeys(node.values), arrays) + b"s"
    return b"ctorch.nn.modules.container\nParameterDict\n)\x81}" + state + b"b"


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _sizes(sizes: Any) -> bytes:
    return _tuple(*(_integer(size) for size in sizes))


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"
