"""Arrays in NumPy's `.npy` files; one that holds an object is a pickle, of which nothing is run.

Formats: numpy/lib/format.py, and what `ndarray.__reduce__` puts into a pickle.
"""

from __future__ import annotations

import itertools
import math
import os
import pathlib
import tokenize
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from ti_flax.files.regular import open_regular
from ti_flax.models.weights.tensor_files import checked_shape, damaged
from ti_flax.models.weights.torch_files import DAMAGE, Empty, read_plain_pickle

NUMPY_BEGINNING = b"\x93NUMPY"
_DTYPES = {code: np.dtype(code) for code in ("f2", "f4", "f8", "i4", "i8")}
# Containers and numbers that an object may hold, each counted as often as it is referred to.
_MOST_NODES = 2**17


def read_numpy(path: pathlib.Path) -> Any:
    """Read an array, or the containers and arrays of the object that `numpy.save` was given.

    Raises:
      WeightsError: the file is damaged, or its pickle names something that no file of numbers needs.
    """
    try:
        # NumPy warns of headers that Python 2 wrote.
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, dtype = _header(file)
            if dtype != np.dtype(object):
                _require_numbers(file, shape, dtype)
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
            made = _array(read_plain_pickle(file, path), itertools.count(1))
            return made[0] if shape == () and isinstance(made, list) and len(made) == 1 else made
    except DAMAGE as error:
        raise damaged(path, "NumPy", error) from None


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(file)
    except tokenize.TokenError as error:  # of the parser that mends the headers of Python 2
        raise ValueError(error.args[0]) from None
    return shape, dtype


def _require_numbers(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise a ValueError unless the file has what its header promises; NumPy makes the array first."""
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"values of type {str(dtype)[:80]}")
    needed, left = math.prod(checked_shape(shape)) * dtype.itemsize, os.fstat(file.fileno()).st_size
    if needed > left - file.tell():
        raise ValueError(f"{left - file.tell()} bytes for shape {list(shape)}")


def _array(node: Any, counted: Iterator[int]) -> Any:
    """Make arrays of their descriptions, in containers of containers."""
    if next(counted) > _MOST_NODES:
        raise ValueError("containers within containers, too many")
    if isinstance(node, dict):
        return {key: _array(value, counted) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_array(item, counted) for item in node]
    if not isinstance(node, Empty) or not node.kind.endswith(".multiarray._reconstruct"):
        return node
    _, shape, described, _, content = node.state
    if isinstance(content, list):
        return _array(content, counted)
    return np.frombuffer(_bytes(content), _dtype(described)).reshape(checked_shape(shape))


def _dtype(described: Empty) -> np.dtype:
    return _DTYPES[described.arguments[0]].newbyteorder(described.state[1])


def _bytes(content: Any) -> bytes:
    """Pickles of protocol 2 have bytes as text that names its encoding."""
    if isinstance(content, Empty) and content.kind == "_codecs.encode":
        return content.arguments[0].encode("latin-1")
    if not isinstance(content, bytes):
        raise ValueError("an array without bytes")
    return content
