"""Tensors in PyTorch's own files (`.ckpt`, `.pt`, `.bin`), found without running anything a file says.

Such a file holds a pickle: a program for a stack machine that may name any function there is and call it.
The standard library's `pickle.Unpickler` runs it here, under two conditions.

1. It gets stand-ins for all that it names. `find_class` looks nothing up: a name gives text, an `Empty`, an
   `_OrderedDict` or a `_Call` of a function below, or else an error. BUILD, which sets attributes, finds a
   `__setstate__` in each object of ours, or a tuple. So a pickle can do no more than make data.
2. It takes little time and memory. `_scan` follows it first, and makes nothing. That knows all instructions
   that it lets pass, and limits their number and the items that calls copy. What names something in a
   mapping is text, a number or told apart by identity: the hash of a tuple of tuples takes forever or
   overflows the stack, and large numbers can be made to have one hash.

Formats: the zip archive that torch.save writes since 1.6, and the row of pickles with bare numbers behind
them that it wrote before (torch/serialization.py); opcodes as the standard library's pickletools has them.
"""

import io
import math
import pathlib
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from ti_flax.errors import WeightsError
from ti_flax.files.regular import open_regular
from ti_flax.models.weights.tensor_files import StoredTensor, check_ends, checked_shape, damaged

# What old files begin with: a pickle of a number (torch/serialization.py: MAGIC_NUMBER).
_OLD_BEGINNING = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STORAGES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in (
        *(("Double", "f8"), ("Float", "f4"), ("Half", "f2"), ("BFloat16", ml_dtypes.bfloat16)),
        *(("Long", "i8"), ("Int", "i4"), ("Short", "i2"), ("Char", "i1"), ("Byte", "u1"), ("Bool", "?")),
    )
}
# Objects of training programs that lie beside the tensors: counters, callbacks, settings.
_EMPTY = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric|omegaconf|ldm|numpy|torch\.nn|torch\.optim)\..+"
    r"|torch\.(Size|device|float\w*|bfloat16|half|int\w*|torch_version\.TorchVersion)"
    r"|argparse\.Namespace|collections\.(defaultdict|Counter)|pathlib\.\w*Path|typing\.Any"
    r"|(builtins|__builtin__)\.(set|frozenset|int|float|list|dict|tuple|complex|bytearray|slice|object)"
    r"|_codecs\.encode|copy_reg\._reconstructor|copyreg\._reconstructor"
)
# All that pickles of data need. Not among them: EXT, whose names only this process knows; sets, which hash
# what they hold; POP, which may take a mark; buffers outside the pickle.
_INSTRUCTIONS = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT"),
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINBYTES", "SHORT_BINBYTES"),
        *("BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
        *("GET", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "NEWOBJ", "BUILD"),
        "BINPERSID",
    }
)
# What the parsers of numbers, text and archives stumble upon; an encrypted archive is a RuntimeError.
DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, RuntimeError, MemoryError),
    *(struct.error, zipfile.BadZipFile, OverflowError, OSError, SyntaxError, pickle.UnpicklingError),
)
# A model's pickle has some 30,000 instructions in less than a megabyte, and names some dozens of classes.
_MOST_WORK, _MOST_BYTES, _MOST_KINDS, _LONGEST_KIND = 500_000, 2**25, 1000, 300
_LARGEST_NAME = 2**63


class Empty:
    """Stands for an object that the file describes and that is not made.

    Attributes:
      kind: its class, as `module.name`; each kind is a subclass.
      arguments: what it would be made of.
      state: what the file says its attributes are, if it does.
    """

    __slots__ = ("arguments", "state")
    kind = ""

    arguments: tuple
    state: Any

    def __new__(cls, *arguments: Any) -> "Empty":
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def extend(self, items: Any) -> None:
        """Leave out items of a list."""

    def __setitem__(self, name: Any, value: Any) -> None:
        """Leave out an item of a mapping."""


class _OrderedDict(dict):
    """Stands for `collections.OrderedDict`; it is made empty, and filled as any mapping."""

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Leave out the attributes."""


class _Call:
    """Stands for a function, whose attributes cannot be set."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("attributes of a function")


class _Storage(NamedTuple):
    """A run of numbers that tensors are cut from; where it lies is not known on a first reading."""

    path: pathlib.Path
    dtype: np.dtype
    place: int = 0
    size: int | None = None


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
        return _Unpickler(_head(stream), path, no_storage).load()
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
            return _Storage(path, dtype, _content_place(file, entry), entry.file_size // dtype.itemsize)

        with archive.open(pickles[0]) as stream:
            return _Unpickler(_head(stream), path, storage).load()


def _content_place(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Find where an entry's bytes begin: behind a header of 30 bytes, the name and an extra field."""
    file.seek(entry.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return entry.header_offset + 30 + name + extra


def _read_old(file: BinaryIO, path: pathlib.Path) -> Any:
    """Run the older format's pickle twice: only behind it does the file say where the numbers are."""
    kinds: dict[str, np.dtype] = {}

    def unplaced(key: str, dtype: np.dtype) -> _Storage:
        kinds[key] = dtype
        return _Storage(path, dtype)

    file.seek(0)
    head = _head(file)
    if not head.getvalue().startswith(_OLD_BEGINNING):
        # No file of torch.save; what it would have called is worth saying all the same.
        _Unpickler(head, path, unplaced).load()
        raise ValueError("a pickle of something else")
    head.seek(len(_OLD_BEGINNING))
    version, system = (_Unpickler(head, path, unplaced).load() for _ in range(2))
    if version != 1001 or not system.get("little_endian", True):
        raise ValueError(f"format {version}")
    start = head.tell()
    _Unpickler(head, path, unplaced).load()
    keys = _Unpickler(head, path, unplaced).load()
    file.seek(head.tell())
    storages = {}
    for key in keys:
        (size,) = struct.unpack("<q", file.read(8))
        if size < 0:
            raise ValueError(f"{size} numbers")
        storages[key] = _Storage(path, kinds[key], file.tell(), size)
        file.seek(size * kinds[key].itemsize, 1)
    head.seek(start)
    return _Unpickler(head, path, lambda key, dtype: storages[key]).load()


def _head(stream: Any) -> io.BytesIO:
    """Read as much of a stream as a pickle may take."""
    return io.BytesIO(stream.read(_MOST_BYTES))


def _scan(stream: io.BytesIO) -> None:
    """Follow one pickle without making anything, to see that running it takes little time and memory.

    Raises:
      ValueError: it takes more than any real file asks for, or has an instruction that none has.
    """
    # For each value, how many items a call with it copies: 0 but for tuples. What is not 0 may name nothing
    # in a mapping, so large numbers count as tuples.
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    work = 0
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name not in _INSTRUCTIONS:
            raise ValueError(f"the instruction {name}")
        taken = _taken(opcode, stack, marks)
        work += 1 + sum(taken)
        # The Unpickler keeps values in an array as long as the largest place among them.
        if work > _MOST_WORK or (name.endswith("PUT") and not 0 <= argument < _MOST_WORK):
            raise ValueError(f"a pickle of more than {_MOST_WORK} instructions")
        if any(taken[::2] if name == "DICT" else taken[1::2] if name.startswith("SETITEM") else ()):
            raise ValueError("a mapping with a name that is neither text nor a small number")
        match name:
            case "MARK":
                marks.append(len(stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case _:
                stack += [_items(name, argument, taken)] * len(opcode.stack_after)
        if name == "MEMOIZE":
            memo[len(memo)] = stack[-1]


def _taken(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> list[int]:
    """Remove what an instruction takes from the stack, and return it, the lowest first."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        start = marks.pop() - before.index(pickletools.markobject)
    else:
        start = len(stack) - len(before)
    if start < 0:
        raise ValueError(f"the instruction {opcode.name} without its values")
    taken = stack[start:]
    del stack[start:]
    return taken


def _items(name: str, argument: Any, taken: list[int]) -> int:
    """Return what counts for an instruction's result; one that fills an object leaves it where it is."""
    if name.startswith("TUPLE"):
        return len(taken)
    if isinstance(argument, int):
        return int(abs(argument) >= _LARGEST_NAME)
    return taken[0] if taken else 0


class _Unpickler(pickle.Unpickler):
    """Runs the pickle at which a stream stands, once `_scan` lets it pass.

    Args:
      stream: with the pickle.
      path: of the file.
      storage: finds a storage by key and dtype.
    """

    def __init__(self, stream: io.BytesIO, path: pathlib.Path, storage: Callable[[str, np.dtype], _Storage]):
        start = stream.tell()
        _scan(stream)
        stream.seek(start)
        super().__init__(stream, encoding="latin-1")
        self._path = path
        self._storage = storage
        self._kinds: dict[str, type[Empty]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name, or refuse it; nothing is imported or looked up in a module."""
        kind = f"{module[:_LONGEST_KIND]}.{name[:_LONGEST_KIND]}"
        if kind in _STORAGES:
            return kind
        if kind in _STAND_INS:
            return _STAND_INS[kind]
        if not _EMPTY.fullmatch(kind):
            raise WeightsError(
                self._path,
                expected="tensors, numbers and text",
                found=f"a pickle that would call {kind}",
                remedy="Nothing of it was run. Use a .safetensors file, from a source you trust.",
            )
        if kind not in self._kinds:
            if len(self._kinds) == _MOST_KINDS:
                raise ValueError(f"objects of more than {_MOST_KINDS} classes")
            self._kinds[kind] = type("Empty", (Empty,), {"__slots__": (), "kind": kind})
        return self._kinds[kind]

    def persistent_load(self, pid: Any) -> _Storage:
        """Find the storage of a persistent id: a word, class, key, device, size, and in old files a view."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ValueError("a reference to no storage")
        _, kind, key, *_ = pid
        if not isinstance(kind, str) or kind not in _STORAGES:
            raise ValueError("a reference to no storage")
        if pid[5:] not in ((), (None,)):
            raise ValueError("a view of a storage")
        if not isinstance(key, (str, int)):
            raise ValueError("a storage without a name")
        return self._storage(str(key), _STORAGES[kind])


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    """Cut a tensor from its storage (torch._utils._rebuild_tensor_v2)."""
    shape = checked_shape(shape)
    if not isinstance(storage, _Storage) or not isinstance(strides, tuple) or len(strides) != len(shape):
        raise ValueError("a tensor that is not described as one")
    for number in (offset, *strides):
        checked_shape([number])
    plain = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    in_order = all(size == 1 or a == b for size, a, b in zip(shape, strides, plain, strict=True))
    place = storage.place + offset * storage.dtype.itemsize
    made = StoredTensor(storage.path, place, shape, storage.dtype, None if in_order else strides)
    if storage.size is None:
        return made
    if offset * storage.dtype.itemsize + made.size_in_bytes > storage.size * storage.dtype.itemsize:
        raise ValueError(f"a tensor of shape {list(shape)} in {storage.size} numbers")
    if 0 not in shape and math.prod(shape) > storage.size:
        raise ValueError(f"one of {storage.size} numbers laid out as {list(shape)}")
    return made


def _parameter(tensor: Any, *_: Any) -> StoredTensor:
    """Return a parameter's tensor (torch._utils._rebuild_parameter)."""
    if not isinstance(tensor, StoredTensor):
        raise ValueError("a parameter of no tensor")
    return tensor


_STAND_INS = {
    "collections.OrderedDict": _OrderedDict,
    "torch._utils._rebuild_tensor": _Call(_tensor),
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch._utils._rebuild_parameter": _Call(_parameter),
    "torch._utils._rebuild_parameter_with_state": _Call(_parameter),
}
