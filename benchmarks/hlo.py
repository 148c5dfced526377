"""Reads the text of a program as XLA compiled it: computations, instructions, arrays and where they lie."""

import dataclasses
import math
import re
from collections.abc import Iterator

# Bytes of an element; what is not listed here (tokens, opaque things) takes none.
ELEMENT_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1.0),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2.0),
    **dict.fromkeys(("f32", "s32", "u32"), 4.0),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8.0),
    **dict.fromkeys(("s4", "u4"), 0.5),
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_NAME = re.compile(r"%([\w.-]+)")
_WHOLE, _NUMBERED = re.compile(r"-?\d+"), ("parameter", "constant")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array as a program keeps it.

    Attributes:
      dtype: XLA's name of it.
      shape: of the elements.
      size: bytes that it takes, with what its tiles are filled up by.
      in_memory: whether it lies in the device's main memory; a TPU's compiler keeps some arrays on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: of its result.
      opcode: what it does.
      results: its arrays; several where it gives a tuple.
      operands: names of the instructions whose results it takes.
      attributes: the rest of its line.
      number: of a parameter, or that a constant is, if it is whole; None for everything else.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    number: int | None = None

    @property
    def op_name(self) -> str:
        """The path of modules and primitives that it comes from; empty where XLA does not say."""
        return self.attribute(r'op_name="([^"]*)"') or ""

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern's first match in the attributes."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None

    def called(self, *names: str) -> tuple[str, ...]:
        """The computations that attributes of these names call."""
        found = []
        for name in names:
            listed = self.attribute(rf"\b{name}=(\{{[^}}]*\}}|%[\w.-]+)")
            found += _NAME.findall(listed or "")
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name, each its instructions by name in the order of the text, which is that of running.

    Attributes:
      computations: all of them.
      entry: name of the one that the program runs.
    """

    computations: dict[str, dict[str, Instruction]]
    entry: str


def read_program(text: str) -> Program:
    """Reads what `jax.stages.Compiled.as_text` returns.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in _whole_lines(text):
        head = _HEAD.match(line)
        if head:
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], found[3])
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text of a compiled program has to have an ENTRY computation, found none")
    return Program(computations, entry)


def _whole_lines(text: str) -> Iterator[str]:
    """The lines, with those of an attribute that holds line breaks joined to their first."""
    whole = ""
    for line in text.splitlines():
        if line.startswith((" ", "%", "ENTRY ", "HloModule ")) or line == "}":
            yield whole
            whole = line
        else:
            whole += line
    yield whole


def _instruction(name: str, text: str) -> Instruction:
    kept = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opens = text.index("(", kept)
    closes = _closing(text, opens)
    opcode, inside = text[kept:opens].strip(), text[opens + 1 : closes]
    return Instruction(
        name=name,
        opcode=opcode,
        results=arrays(text[:kept]),
        operands=tuple(_NAME.findall(inside)),
        attributes=text[closes + 1 :],
        number=int(inside) if opcode in _NUMBERED and _WHOLE.fullmatch(inside) else None,
    )


def _closing(text: str, opens: int) -> int:
    """Where the parenthesis that opens at a place closes."""
    depth = 0
    for place in range(opens, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"the parenthesis at {opens} has to close, found {text[opens : opens + 80]}")


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a result's type, such as `(f32[8,40]{1,0:T(8,128)}, s32[])`."""
    found = []
    for dtype, numbers, layout in _ARRAY.findall(text):
        shape = tuple(int(number) for number in numbers.split(",") if number)
        size = ELEMENT_BYTES.get(dtype, 0.0) * math.prod(_filled(shape, layout))
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Array(dtype, shape, math.ceil(size), space is None or space[1] == "0"))
    return tuple(found)


def _filled(shape: tuple[int, ...], layout: str) -> list[int]:
    """The shape, major axes first, with the axes of a tile rounded up to it."""
    order, _, rest = layout.partition(":")
    minor_first = [int(axis) for axis in order.split(",") if axis]
    sides = [shape[axis] for axis in reversed(minor_first)] if minor_first else list(shape)
    tile = re.match(r"T\(([\d,]+)\)", rest)
    if not tile or not sides:
        return sides
    tiled = [int(side) for side in tile[1].split(",")][-len(sides) :]
    outer = sides[: len(sides) - len(tiled)]
    return outer + [-(-side // by) * by for side, by in zip(sides[-len(tiled) :], tiled, strict=True)]
