"""Identical layers: one leaf each in memory, stacked along a first axis; one by one in files.

A stacked leaf's path has a `*` where those in files have the layer's number, `transformer_blocks_*`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, cast

import flax.traverse_util
import numpy as np
from jax.typing import DTypeLike

from ti_flax.models.layers import STACKED

Tree = Mapping[str, Any]
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a parameter of a file goes.

    Attributes:
      path: that names it in Flax files.
      shape: in Flax's layout.
      leaf: its path in memory.
      layer: its place in a stacked leaf; None in others.
    """

    path: Path
    shape: tuple[int, ...]
    leaf: Path
    layer: int | None = None


def flat(tree: Tree) -> dict[Path, Any]:
    """Return a tree's leaves by path."""
    return cast(dict[Path, Any], flax.traverse_util.flatten_dict(dict(tree)))


def unstacked(params: Tree) -> dict[str, Any]:
    """Return the parameters with stacked layers one by one, as files have them; these are views."""
    leaves = {}
    for path, leaf in flat(params).items():
        if _is_stacked(path):
            leaves |= {_of_layer(path, index): layer for index, layer in enumerate(np.asarray(leaf))}
        else:
            leaves[path] = leaf
    return flax.traverse_util.unflatten_dict(leaves)


def unstacked_places(expected: Tree) -> Iterator[Place]:
    """List what files hold of a tree of `jax.ShapeDtypeStruct`, in its order."""
    for path, leaf in flat(expected).items():
        if not _is_stacked(path):
            yield Place(path, leaf.shape, path)
            continue
        for index in range(leaf.shape[0]):
            yield Place(_of_layer(path, index), leaf.shape[1:], path, index)


class Gathered:
    """Parameters that are read one by one; stacked ones go straight into their stack.

    Args:
      expected: tree of `jax.ShapeDtypeStruct`.
      dtype: of the result; None keeps the files', and float32 where the layers of a stack differ.
    """

    def __init__(self, expected: Tree, dtype: DTypeLike | None):
        self._leaves, self._dtype = flat(expected), dtype
        self._read: dict[Path, np.ndarray] = {}

    def put(self, place: Place, values: np.ndarray) -> None:
        """Take a parameter in Flax's layout."""
        dtype = values.dtype if self._dtype is None else np.dtype(self._dtype)
        if place.layer is None:
            self._read[place.leaf] = np.ascontiguousarray(values, dtype=dtype)
            return
        stack = self._read.get(place.leaf)
        if stack is None:
            stack = np.empty(self._leaves[place.leaf].shape, dtype)
        elif stack.dtype != dtype:
            stack = stack.astype(np.float32)
        stack[place.layer] = values
        self._read[place.leaf] = stack

    def tree(self) -> dict[str, Any]:
        """Return all of them, in the order expected."""
        return flax.traverse_util.unflatten_dict({path: self._read[path] for path in self._leaves})


def _is_stacked(path: Path) -> bool:
    return any(STACKED in module for module in path)


def _of_layer(path: Path, index: int) -> Path:
    """Return the path in files of a stacked leaf's layer."""
    return tuple(module.replace(STACKED, str(index)) for module in path)
