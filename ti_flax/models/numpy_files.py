"""Arrays in NumPy's `.npy` files; one that holds an object is a pickle, of which nothing is run.

Formats: numpy/lib/format.py, and what `ndarray.__reduce__` puts into a pickle.
"""

from __future__ import annotations

import pathlib
from typing import Any, BinaryIO

import numpy as np

from ti_flax.models.tensor_files import damaged
from ti_flax.models.torch_files import Empty, read_plain_pickle

NUMPY_BEGINNING = b"\x93NUMPY"
_DTYPES = {code: np.dtype(code) for code in ("f2", "f4", "f8", "i4", "i8")}
_DAMAGE = (ValueError, TypeError, KeyError, IndexError, EOFError, OSError, UnicodeError, MemoryError)


def read_numpy(path: pathlib.Path) -> Any:
    """Read an array, or the containers and arrays of the object that `numpy.save` was given.

    Raises:
      WeightsError: the file is damaged, or its pickle names something that no file of numbers needs.
    """
    try:
        with open(path, "rb") as file:
            shape, dtype = _header(file)
            if dtype != np.dtype(object):
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
            made = _array(read_plain_pickle(file, path))
            return made[0] if shape == () and isinstance(made, list) and len(made) == 1 else made
    except _DAMAGE as error:
        raise damaged(path, "NumPy", str(error).splitlines()[0] if str(error) else error) from None


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _array(node: Any) -> Any:
    """Make arrays of their descriptions, in containers of containers."""
    if isinstance(node, dict):
        return {_array(key): _array(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_array(item) for item in node]
    if not isinstance(node, Empty) or not node.kind.endswith(".multiarray._reconstruct"):
        return node
    _, shape, described, _, content = node.state
    if isinstance(content, list):
        return _array(content)
    return np.frombuffer(_bytes(content), _dtype(described)).reshape(shape)


def _dtype(described: Empty) -> np.dtype:
    return _DTYPES[described.arguments[0]].newbyteorder(described.state[1])


def _bytes(content: Any) -> bytes:
    """Pickles of protocol 2 have bytes as text that names its encoding."""
    if isinstance(content, Empty) and content.kind == "_codecs.encode":
        return content.arguments[0].encode("latin-1")
    if not isinstance(content, bytes):
        raise ValueError("an array without bytes")
    return content
