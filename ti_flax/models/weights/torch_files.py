"""Tensors in PyTorch's own files (`.ckpt`, `.pt`, `.bin`), found without running anything a file says.

Such a file holds a pickle: a program for a stack machine that may name any function there is and call it.
The machine here makes containers, numbers, text and the places of tensors. It has no way to call anything:
other objects that training programs leave in a file become empty ones, and any further name is refused.

Formats: the zip archive that torch.save writes since 1.6, and the row of pickles with bare numbers behind
them that it wrote before (torch/serialization.py); opcodes as the standard library's pickletools has them.
"""

import dataclasses
import math
import pathlib
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from ti_flax.errors import WeightsError
from ti_flax.files.regular import open_regular
from ti_flax.models.weights.tensor_files import StoredTensor, check_ends, checked_shape, damaged

# What old files begin with: a pickle of this number (torch/serialization.py: MAGIC_NUMBER).
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_OLD_BEGINNING = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# Objects of training programs that lie beside the tensors: counters, callbacks, settings.
_EMPTY = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric|omegaconf|ldm|numpy|torch\.nn|torch\.optim)\..+"
    r"|torch\.(device|float\w*|bfloat16|half|int\w*|torch_version\.TorchVersion)"
    r"|argparse\.Namespace|collections\.(defaultdict|Counter)|pathlib\.\w*Path|typing\.Any"
    r"|(builtins|__builtin__)\.(set|frozenset|int|float|list|dict|tuple|complex|bytearray|slice|object)"
    r"|_codecs\.encode|copy_reg\._reconstructor|copyreg\._reconstructor"
)
_LITERALS = frozenset(
    {
        *("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
# What the parsers of numbers, text and archives stumble upon; an encrypted archive is a RuntimeError.
DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, RuntimeError, MemoryError),
    *(struct.error, zipfile.BadZipFile, OverflowError, OSError, SyntaxError),
)
# A model's pickle has some 30,000 instructions. Each can take 70 bytes or copy what others made, so they are
# counted, and copies by their length.
_MOST_WORK = 500_000
# What may name something in a mapping; others are kept apart by what they are, not by what is in them, as a
# tuple of tuples of tuples is compared for longer than anybody waits.
_NAMES = (str, bytes, int, float, bool, type(None))
_LARGEST_NAME = 2**63


class Empty:
    """Stands for an object that the file describes and that is not made.

    Attributes:
      kind: its class, as `module.name`.
      arguments: what it would be made of.
      state: what the file says its attributes are, if it does.
    """

    def __init__(self, kind: str, arguments: tuple = ()):
        self.kind = kind
        self.arguments = arguments
        self.state: Any = None


class _Name(NamedTuple):
    """A class or function that the pickle names; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A run of numbers that tensors are cut from; `place` and `size` are unknown on a first reading."""

    dtype: np.dtype
    place: int
    size: int


def is_torch_file(beginning: bytes) -> bool:
    """Tell a file of torch.save, or another pickle, from its first bytes."""
    return beginning.startswith((b"PK\x03\x04", b"\x80"))


def read_torch(path: pathlib.Path) -> Any:
    """Read what torch.save wrote: containers, numbers and text, with a `StoredTensor` for each tensor.

    Raises:
      WeightsError: the file is damaged, or names something that no file of tensors needs.
    """
    try:
        with open_regular(path) as file:
            return _read_zip(file, path) if file.read(2) == b"PK" else _read_old(file, path)
    except DAMAGE as error:
        raise damaged(path, "PyTorch", error) from None


def read_plain_pickle(stream: BinaryIO, path: pathlib.Path) -> Any:
    """Read one pickle that refers to nothing outside itself, from where a stream stands.

    Returns:
      Containers, numbers and text, with an `Empty` for every other object.

    Raises:
      WeightsError: it is damaged, or names something that no file of numbers needs.
    """

    def no_storage(key: str, dtype: np.dtype) -> _Storage:
        raise ValueError("a reference to numbers elsewhere")

    try:
        return _Machine(path, no_storage).run(stream)
    except DAMAGE as error:
        raise damaged(path, "pickle", error) from None


def named_tensors(content: Any, path: pathlib.Path) -> dict[str, StoredTensor]:
    """Choose the tensors by name from what `read_torch` gives; training programs put them under `state_dict`.

    Raises:
      WeightsError: there are none, or one ends behind the end of the file.
    """
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = content.items() if isinstance(content, dict) else ()
    tensors = {str(name): tensor for name, tensor in tensors if isinstance(tensor, StoredTensor)}
    if not tensors:
        raise WeightsError(path, expected="a PyTorch file of named tensors", found="none")
    check_ends(path, "PyTorch", tensors)
    return tensors


def _read_zip(file: BinaryIO, path: pathlib.Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("an archive without data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("a compressed archive")
        order = f"{root}byteorder"
        if order in entries and archive.open(order).read(8) != b"little":
            raise ValueError("numbers in big-endian order")

        def storage(key: str, dtype: np.dtype) -> _Storage:
            entry = entries[f"{root}data/{key}"]
            return _Storage(dtype, _content_place(file, entry), entry.file_size // dtype.itemsize)

        with archive.open(pickles[0]) as stream:
            return _Machine(path, storage).run(stream)


def _content_place(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Find where an entry's bytes begin: behind a header of 30 bytes, the name and an extra field."""
    position = file.tell()
    file.seek(entry.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    file.seek(position)
    return entry.header_offset + 30 + name + extra


def _read_old(file: BinaryIO, path: pathlib.Path) -> Any:
    """Read the older format twice: only behind the pickle does it say where the numbers are."""
    file.seek(0)
    if file.read(len(_OLD_BEGINNING)) != _OLD_BEGINNING:
        # No file of torch.save; what it would have called is worth saying all the same.
        file.seek(0)
        _Machine(path, lambda key, dtype: _Storage(dtype, 0, 0), measured=False).run(file)
        raise ValueError("a pickle of something else")
    kinds: dict[str, np.dtype] = {}

    def first(key: str, dtype: np.dtype) -> _Storage:
        kinds[key] = dtype
        return _Storage(dtype, 0, 0)

    version, system = (_Machine(path, first).run(file) for _ in range(2))
    if version != 1001 or not system.get("little_endian", True):
        raise ValueError(f"format {version}")
    start = file.tell()
    _Machine(path, first, measured=False).run(file)
    storages = {}
    for key in _Machine(path, first).run(file):
        (size,) = struct.unpack("<q", file.read(8))
        if size < 0:
            raise ValueError(f"{size} numbers")
        storages[key] = _Storage(kinds[key], file.tell(), size)
        file.seek(size * kinds[key].itemsize, 1)
    file.seek(start)
    return _Machine(path, lambda key, dtype: storages[key]).run(file)


class _Machine:
    """Follows a pickle's instructions as far as they make data.

    Args:
      path: of the file.
      storage: finds a storage by key and dtype.
      measured: whether it knows sizes, so that tensors can be checked against them.
    """

    def __init__(
        self, path: pathlib.Path, storage: Callable[[str, np.dtype], _Storage], *, measured: bool = True
    ):
        self._path = path
        self._storage = storage
        self._measured = measured
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._work = 0

    def run(self, stream: Any) -> Any:
        """Read one pickle from a stream and return what it makes."""
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            self.count(1)
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name == "STOP":
                return self._stack.pop()
            elif name not in ("PROTO", "FRAME"):
                self._follow(name, argument)
        raise ValueError("a pickle without an end")

    def count(self, work: int) -> None:
        """Raise a ValueError after more work than any real file asks for."""
        self._work += work
        if self._work > _MOST_WORK:
            raise ValueError(f"a pickle of more than {_MOST_WORK} instructions")

    def mapping(self, names: Any, values: Any) -> dict[Any, Any]:
        """Put values under names, none of which takes long to compare."""
        return {
            name if isinstance(name, _NAMES) and _is_small(name) else Empty(type(name).__name__): value
            for name, value in zip(names, values, strict=True)
        }

    def _follow(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "MARK":
                self._marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._above_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "TUPLE" | "LIST" | "FROZENSET":
                items = self._above_mark()
                stack.append(tuple(items) if name == "TUPLE" else items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(reversed([stack.pop() for _ in range(int(name[-1]))])))
            case "DICT":
                items = self._above_mark()
                stack.append(self.mapping(items[::2], items[1::2]))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                items = [stack.pop()] if name == "APPEND" else self._above_mark()
                if not isinstance(stack[-1], Empty):
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self._above_mark()
                if not isinstance(stack[-1], Empty):
                    stack[-1].update(self.mapping(items[::2], items[1::2]))
            case _:
                self._make(name, argument)

    def _make(self, name: str, argument: Any) -> None:
        """Follow an instruction that names or makes an object."""
        stack = self._stack
        match name:
            case "GLOBAL":
                stack.append(self._admit(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                last = stack.pop()
                stack.append(self._admit(stack.pop(), last))
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(self._made(stack.pop(), arguments))
            case "NEWOBJ_EX":
                del stack[-2:]
                stack.append(self._made(stack.pop(), ()))
            case "INST":
                self._above_mark()
                stack.append(self._made(self._admit(*argument.split(" ", 1)), ()))
            case "OBJ":
                stack.append(self._made(self._above_mark()[0], ()))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Empty):
                    stack[-1].state = state
            case "BINPERSID":
                stack.append(self._stored(stack.pop()))
            case _:
                raise ValueError(f"the instruction {name}")

    def _above_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _admit(self, module: str, name: str) -> _Name:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a class whose name is no text")
        named = _Name(module, name)
        storage = module == "torch" and name in _STORAGES
        if not (storage or str(named) in _MAKERS or _EMPTY.fullmatch(str(named))):
            raise WeightsError(
                self._path,
                expected="tensors, numbers and text",
                found=f"a pickle that would call {named}",
                remedy="Nothing of it was run. Use a .safetensors file, from a source you trust.",
            )
        return named

    def _made(self, named: Any, arguments: tuple) -> Any:
        if not isinstance(named, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something without a name")
        maker = _MAKERS.get(str(named))
        return Empty(str(named), arguments) if maker is None else maker(self, *arguments)

    def _stored(self, identifier: tuple) -> _Storage:
        """Find the storage of a persistent id: a word, class, key, device, size, and in old files a view."""
        word, kind, key, _, _, *view = identifier
        if word != "storage" or not isinstance(kind, _Name) or kind.name not in _STORAGES:
            raise ValueError("a reference to no storage")
        if view and view[0] is not None:
            raise ValueError("a view of a storage")
        if not isinstance(key, (str, int)) or not _is_small(key):
            raise ValueError("a storage without a name")
        return self._storage(str(key), _STORAGES[kind.name])

    def tensor(self, storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> StoredTensor:
        """Cut a tensor from its storage (torch._utils._rebuild_tensor_v2)."""
        shape = checked_shape(shape)
        for number in (offset, *strides):
            checked_shape([number])
        plain = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        in_order = all(size == 1 or a == b for size, a, b in zip(shape, strides, plain, strict=True))
        place = storage.place + offset * storage.dtype.itemsize
        made = StoredTensor(
            self._path, place, tuple(shape), storage.dtype, None if in_order else tuple(strides)
        )
        if self._measured and offset * storage.dtype.itemsize + made.size_in_bytes > (
            storage.size * storage.dtype.itemsize
        ):
            raise ValueError(f"a tensor of shape {list(shape)} in {storage.size} numbers")
        if self._measured and 0 not in shape and math.prod(shape) > storage.size:
            raise ValueError(f"one of {storage.size} numbers laid out as {list(shape)}")
        return made


def _is_small(name: Any) -> bool:
    """Tell names that are compared at once: whole numbers beyond 64 bits can be made to look alike."""
    return not isinstance(name, int) or abs(name) < _LARGEST_NAME


def _ordered(machine: _Machine, pairs: Any = ()) -> dict[Any, Any]:
    machine.count(len(pairs))
    return machine.mapping([name for name, _ in pairs], [value for _, value in pairs])


_MAKERS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "torch.Size": lambda machine, sizes=(): checked_shape(sizes),
    "torch._utils._rebuild_tensor": _Machine.tensor,
    "torch._utils._rebuild_tensor_v2": _Machine.tensor,
    "torch._utils._rebuild_parameter": lambda machine, tensor, *rest: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda machine, tensor, *rest: tensor,
}
