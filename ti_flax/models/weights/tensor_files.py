"""Files of named tensors, safetensors and Flax msgpack, read and written one tensor at a time.

The libraries for both formats hold a file's bytes beside the arrays, or map the file, whose pages then
count as this program's memory. Here an array is filled straight from its place in the file.

Formats: https://github.com/huggingface/safetensors#format, https://github.com/msgpack/msgpack/blob/master/spec.md
and the array extension of flax.serialization: type 1, holding [shape, dtype name, bytes].
"""

import dataclasses
import io
import itertools
import json
import math
import os
import pathlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from ti_flax.errors import WeightsError
from ti_flax.files.atomic import atomic_write
from ti_flax.files.regular import open_regular

_SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_SAFETENSORS_NAMES = {dtype: name for name, dtype in _SAFETENSORS_DTYPES.items()}
_FLAX_DTYPES = {dtype.name: dtype for dtype in _SAFETENSORS_DTYPES.values()} | {
    name: np.dtype(name) for name in ("int8", "int16", "uint16", "uint32", "uint64")
}
# Ten times what the largest models have. Parsed, a header made to can take twenty times its length; the
# format's own limit (safetensors/src/tensor.rs) is 100 MB.
_LONGEST_HEADER = 2**24

# More than any array of these libraries can have.
_MOST_AXES, _LARGEST_SIZE = 16, 2**48
_LONGEST_NAME = 2**16
# Trees of real models are less than 10 deep.
_DEEPEST = 64
_DAMAGE = (struct.error, IndexError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError)

_FLAX_ARRAY = b"\1"
# First byte of a msgpack object -> kind and the struct format of the number that follows (length or value).
_MSGPACK_KINDS = {
    0xC4: ("bin", ">B"),
    0xC5: ("bin", ">H"),
    0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"),
    0xC8: ("ext", ">H"),
    0xC9: ("ext", ">I"),
    0xCC: ("int", ">B"),
    0xCD: ("int", ">H"),
    0xCE: ("int", ">I"),
    0xCF: ("int", ">Q"),
    0xD9: ("str", ">B"),
    0xDA: ("str", ">H"),
    0xDB: ("str", ">I"),
    0xDC: ("array", ">H"),
    0xDD: ("array", ">I"),
    0xDE: ("map", ">H"),
    0xDF: ("map", ">I"),
}
# Ranges of first bytes that carry the number themselves: first byte, last byte, kind.
_MSGPACK_SHORT = (
    (0x00, 0x7F, "int"),
    (0x80, 0x8F, "map"),
    (0x90, 0x9F, "array"),
    (0xA0, 0xBF, "str"),
)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a file; `read` fetches it.

    Attributes:
      path: of the file.
      offset: of the first element, in bytes.
      shape: of the tensor.
      dtype: of its elements.
      strides: elements between neighbours along each axis, where they are not in row-major order.
    """

    path: pathlib.Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...] | None = None

    @property
    def size_in_bytes(self) -> int:
        """Bytes between the first and the end of the last element in the file."""
        if self.strides is None or 0 in self.shape:
            return math.prod(self.shape) * self.dtype.itemsize
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> "StoredTensor":
        """Return the part from row `start` to before row `stop` of the first axis."""
        row = math.prod(self.shape[1:]) if self.strides is None else self.strides[0]
        return dataclasses.replace(
            self,
            offset=self.offset + start * row * self.dtype.itemsize,
            shape=(stop - start, *self.shape[1:]),
        )

    def transposed(self) -> "StoredTensor":
        """Return the tensor with its axes in reverse order."""
        steps = self.strides or tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        return dataclasses.replace(self, shape=self.shape[::-1], strides=steps[::-1])

    def __setstate__(self, state: Any) -> None:
        """Raise a ValueError: a pickle that sets attributes could name any file and place."""
        raise ValueError("attributes of a tensor")

    def read(self) -> np.ndarray:
        """Read the tensor into a new array."""
        spread = self.strides is not None and 0 not in self.shape
        shape = (self.size_in_bytes // self.dtype.itemsize,) if spread else self.shape
        values = np.empty(shape, self.dtype)
        with open_regular(self.path) as file:
            file.seek(self.offset)
            _fill(file, values)
        if self.strides is None or not spread:
            return values
        steps = tuple(stride * self.dtype.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(values, self.shape, steps).copy()


def index_safetensors(path: pathlib.Path) -> dict[str, StoredTensor]:
    """List the tensors of a safetensors file by name.

    Raises:
      WeightsError: for a file that is damaged or holds a dtype other than the usual ones.
    """
    header, start = _read_safetensors_header(path)
    try:
        tensors = {
            name: _safetensors_entry(path, entry, start)
            for name, entry in header.items()
            if name != "__metadata__"
        }
        _refuse_overlaps(tensors)
    except _DAMAGE as error:
        raise damaged(path, "safetensors", error) from None
    check_ends(path, "safetensors", tensors)
    return tensors


def safetensors_metadata(path: pathlib.Path) -> dict[str, str]:
    """Return what a safetensors file says about itself in words.

    Raises:
      WeightsError: for a file that is damaged.
    """
    said = _read_safetensors_header(path)[0].get("__metadata__") or {}
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise damaged(path, "safetensors", "a __metadata__ that is not all text")
    return said


def index_msgpack(path: pathlib.Path) -> dict[str, StoredTensor]:
    """List the arrays of a Flax msgpack file by path, `down_blocks_0/resnets_0/conv1/kernel`.

    Raises:
      WeightsError: for a file that is damaged or is not a tree of named arrays.
    """
    tensors: dict[str, StoredTensor] = {}
    try:
        with open_regular(path) as file:
            for name, tensor in _walk_msgpack(file, path, ()):
                if name in tensors:
                    raise ValueError(f"{name} twice")
                tensors[name] = tensor
    except _DAMAGE as error:
        raise damaged(path, "Flax msgpack", error) from None
    check_ends(path, "Flax msgpack", tensors)
    return tensors


def write_safetensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors, which may be transposed views; the file appears complete or not at all.

    Args:
      path: of the file; its folder is made where there is none.
      tensors: by name.
    """
    with atomic_write(path) as file:
        _write_safetensors(file, tensors, {"format": "pt"})


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file whose bytes depend on its content alone.

    The library's own writer keeps the metadata in a hash map, in another order each time.

    Args:
      tensors: by name.
      metadata: what the file says about itself in words.
    """
    file = io.BytesIO()
    _write_safetensors(file, tensors, metadata)
    return file.getvalue()


def _write_safetensors(
    file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None
) -> None:
    header: dict[str, Any] = {}
    if metadata is not None:
        header["__metadata__"] = dict(sorted(metadata.items()))
    # As the library sorts them: behind wider elements, narrower ones are aligned as well.
    placed = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    offset = 0
    for name in placed:
        tensor = tensors[name]
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(struct.pack("<Q", len(encoded)) + encoded)
    for name in placed:
        _pour(file, tensors[name])


def write_msgpack(path: pathlib.Path, tree: Mapping[str, Any]) -> None:
    """Write a tree of arrays as flax.serialization does; the file appears complete or not at all."""
    with atomic_write(path) as file:
        _write_msgpack_node(file, tree)


def _read_safetensors_header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where the numbers begin."""
    try:
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            size = os.fstat(file.fileno()).st_size
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length), object_pairs_hook=_without_twins)
        if not isinstance(header, dict):
            raise ValueError("a header that names nothing")
    except _DAMAGE as error:
        raise damaged(path, "safetensors", error) from None
    return header, 8 + length


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name that is there twice")
    return made


def _safetensors_entry(path: pathlib.Path, entry: Mapping[str, Any], data_start: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _SAFETENSORS_DTYPES:
        raise ValueError(f"dtype {entry['dtype']}")
    shape = checked_shape(entry["shape"])
    if not all(type(place) is int for place in (begin, end)) or not 0 <= begin <= end:
        raise ValueError(f"bytes {begin!r} to {end!r}")
    tensor = StoredTensor(path, data_start + begin, shape, _SAFETENSORS_DTYPES[entry["dtype"]])
    if tensor.size_in_bytes != end - begin:
        raise ValueError(f"{end - begin} bytes for shape {list(shape)}")
    return tensor


def checked_shape(sizes: Any) -> tuple[int, ...]:
    """Return a shape that a file gives.

    Raises:
      ValueError: it is none, or one that no array has.
    """
    # Other things may be lists of lists of lists, which take forever to show.
    if (
        not isinstance(sizes, (list, tuple))
        or len(sizes) > _MOST_AXES
        or not all(isinstance(size, (int, float)) for size in sizes)
    ):
        raise ValueError("a shape that is no list of sizes")
    if not all(type(size) is int and 0 <= size <= _LARGEST_SIZE for size in sizes):
        raise ValueError(f"the shape {list(sizes)}")
    if 0 not in sizes and math.prod(sizes) > _LARGEST_SIZE:
        raise ValueError(f"the shape {list(sizes)}")
    return tuple(sizes)


def _refuse_overlaps(tensors: Mapping[str, StoredTensor]) -> None:
    """Raise a ValueError if two tensors share bytes, which could stand for any number of them."""
    placed = sorted((tensor.offset, tensor.size_in_bytes, name) for name, tensor in tensors.items())
    filled = [each for each in placed if each[1]]
    for (offset, size, name), (following, _, other) in itertools.pairwise(filled):
        if offset + size > following:
            raise ValueError(f"{name} and {other} in the same place")


def _walk_msgpack(
    file: BinaryIO, path: pathlib.Path, names: tuple[str, ...]
) -> Iterator[tuple[str, StoredTensor]]:
    if len(names) > _DEEPEST:
        raise ValueError("names within names, too deep")
    kind, length = _msgpack_header(file)
    if kind == "map":
        for _ in range(length):
            name = _msgpack_text(file)
            yield from _walk_msgpack(file, path, (*names, name))
    elif kind == "ext" and file.read(1) == _FLAX_ARRAY:
        yield "/".join(names), _msgpack_array(file, path)
    else:
        raise ValueError(f"{'/'.join(names) or 'the file'} is neither a tree nor an array")


def _msgpack_array(file: BinaryIO, path: pathlib.Path) -> StoredTensor:
    _msgpack_header(file)
    _, rank = _msgpack_header(file)
    if rank > _MOST_AXES:
        raise ValueError(f"{rank} axes")
    shape = checked_shape([_msgpack_header(file)[1] for _ in range(rank)])
    named = _msgpack_text(file)
    if named not in _FLAX_DTYPES:
        raise ValueError(f"dtype {named}")
    dtype = _FLAX_DTYPES[named]
    kind, length = _msgpack_header(file)
    tensor = StoredTensor(path, file.tell(), shape, dtype)
    if kind not in ("bin", "str") or tensor.size_in_bytes != length:
        raise ValueError(f"{length} bytes for shape {list(shape)}")
    file.seek(length, os.SEEK_CUR)
    return tensor


def _msgpack_header(file: BinaryIO) -> tuple[str, int]:
    """Read an object's kind and its length, or its value if it is an integer."""
    (first,) = struct.unpack("B", file.read(1))
    for lowest, highest, kind in _MSGPACK_SHORT:
        if lowest <= first <= highest:
            return kind, first - lowest
    if 0xD4 <= first <= 0xD8:
        return "ext", 2 ** (first - 0xD4)
    if first not in _MSGPACK_KINDS:
        raise ValueError(f"an object of type {first:#x}")
    kind, number = _MSGPACK_KINDS[first]
    return kind, struct.unpack(number, file.read(struct.calcsize(number)))[0]


def _msgpack_text(file: BinaryIO) -> str:
    kind, length = _msgpack_header(file)
    if kind not in ("str", "bin"):
        raise ValueError(f"{kind} in the place of a name")
    if length > _LONGEST_NAME:
        raise ValueError(f"a name of {length} bytes")
    return file.read(length).decode()


def _write_msgpack_node(file: BinaryIO, node: Any) -> None:
    import msgpack

    packer = msgpack.Packer()
    if isinstance(node, Mapping):
        file.write(packer.pack_map_header(len(node)))
        for name, child in node.items():
            file.write(packer.pack(name))
            _write_msgpack_node(file, child)
        return
    values = np.asarray(node)
    head = packer.pack_array_header(3) + packer.pack(list(values.shape)) + packer.pack(values.dtype.name)
    head += struct.pack(">BI", 0xC6, values.nbytes)
    file.write(struct.pack(">BI", 0xC9, len(head) + values.nbytes) + _FLAX_ARRAY + head)
    _pour(file, values)


def _fill(file: Any, values: np.ndarray) -> None:
    """Fill an array from the file's position; one call of the system reads 2 GiB at most."""
    buffer = values.reshape(-1).view(np.uint8).data
    while buffer:
        read = file.readinto(buffer)
        if not read:
            raise WeightsError(file.name, expected=f"{len(buffer)} more bytes", found="the end of the file")
        buffer = buffer[read:]


def _pour(file: BinaryIO, values: np.ndarray) -> None:
    """Write an array's bytes in row-major order, which copies only a transposed view."""
    file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def check_ends(path: pathlib.Path, kind: str, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise a WeightsError if a tensor would end behind the end of its file."""
    size = path.stat().st_size
    end = max((tensor.offset + tensor.size_in_bytes for tensor in tensors.values()), default=0)
    if end > size:
        raise damaged(path, kind, f"{size} bytes instead of {end}")


def reason(cause: object) -> str:
    """Return what a parser stumbled upon, in a line."""
    if isinstance(cause, RecursionError):
        return "brackets within brackets, too deep"
    if isinstance(cause, MemoryError):
        return "more numbers than there is memory for"
    if isinstance(cause, (struct.error, EOFError)):
        return "it ends too early"
    said = str(cause).strip().splitlines()
    return said[0] if said else type(cause).__name__


def damaged(path: pathlib.Path, kind: str, cause: object) -> WeightsError:
    """Return the error for a file that is cut short or not what it was taken for."""
    if isinstance(cause, OSError):
        return WeightsError(path, expected=f"a {kind} file", found=cause.strerror or str(cause))
    return WeightsError(
        path,
        expected=f"a {kind} file of parameters",
        found=f"something else ({reason(cause)})",
        remedy="The file may be cut short or be a Git LFS pointer: download it again.",
    )
