"""Counts what one instruction of a compiled program computes and moves."""

import math
import re
from collections.abc import Iterator

from hlo import Array, Instruction, Program

# What only names, bundles or waits for arrays that are there.
_FREE = frozenset(
    (
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
    )
    + ("copy-done", "slice-done", "async-done", "all-reduce-done", "all-gather-done", "opt-barrier")
)
_SLICES = ("slice", "dynamic-slice", "gather")
# Products of a score's size that a kernel of JAX's splash attention makes, by a part of its name; the fused
# backward pass makes the scores again and four gradients. Its first operands are numbers of blocks.
_SPLASH_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 5}
# Columns that a TPU's matrix unit takes at least.
_LANES = 128
_WINDOW = {"size": "1", "stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}

Body = dict[str, Instruction]


def is_free(instruction: Instruction) -> bool:
    """Whether it takes no time of its own: a transfer to the chip's own memory is its first user's."""
    if instruction.opcode in ("copy-start", "slice-start"):
        return not instruction.results[1].in_memory
    return instruction.opcode in _FREE or '"ConcatBitcast"' in instruction.attributes


def flop(program: Program, body: Body, instruction: Instruction) -> int:
    """Products and sums of matrix products and convolutions, two for each multiply-add."""
    if instruction.opcode == "convolution":
        return _of_convolution(body, instruction)
    if instruction.opcode == "dot":
        left, _ = (body[name].results[0].shape for name in instruction.operands)
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        taken = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
        return 2 * math.prod(instruction.results[0].shape) * taken
    if instruction.opcode == "custom-call":
        return _of_kernel(body, instruction)
    inner = (program.computations[name] for name in instruction.called("calls"))
    return sum(flop(program, called, each) for called in inner for each in called.values())


def _of_kernel(body: Body, instruction: Instruction) -> int:
    """Of a Pallas kernel, as it says itself or its name does, with heads as wide as the matrix unit."""
    said = instruction.attribute(r'cost_estimate":\{"flops":"(\d+)"')
    products = [
        count for name, count in _SPLASH_PRODUCTS.items() if name in instruction.name + instruction.op_name
    ]
    if said or not products:
        return int(said or 0)
    taken = [body[name].results[0] for name in instruction.operands]
    query, key = [array.shape for array in taken if array.dtype in ("bf16", "f32") and len(array.shape) == 3][
        :2
    ]
    width = -(-query[-1] // _LANES) * _LANES
    return 2 * products[0] * math.prod(query[:-1]) * key[-2] * width


def _of_convolution(body: Body, instruction: Instruction) -> int:
    labels = instruction.attribute(r"dim_labels=([\w>-]+)") or ""
    of_left, of_right, of_result = re.split(r"_|->", labels)
    left, right = (body[name].results[0].shape for name in instruction.operands[:2])
    result = instruction.results[0].shape
    pairs = 1
    for axis in (label for label in of_left if label.isdigit()):
        window = _window(instruction, int(axis))
        pairs *= _pairs(left[of_left.index(axis)], result[of_result.index(axis)], window)
    batch, features = result[of_result.index("b")], result[of_result.index("f")]
    return 2 * batch * features * right[of_right.index("i")] * pairs


def _window(instruction: Instruction, axis: int) -> dict[str, str]:
    given = instruction.attribute(r"window=\{([^}]*)\}") or ""
    return _WINDOW | {
        name: numbers.split("x")[axis] for name, numbers in re.findall(r"(\w+)=([\dx_-]+)", given)
    }


def _pairs(inputs: int, outputs: int, window: dict[str, str]) -> int:
    """How often an element of one axis of the kernel meets one of the input, not padding or a hole."""
    size, stride = int(window["size"]), int(window["stride"])
    holes, spread = int(window["lhs_dilate"]), int(window["rhs_dilate"])
    before = int(re.match(r"-?\d+", window["pad"])[0])  # type: ignore[index]
    last = (inputs - 1) * holes
    places = (out * stride + tap * spread - before for out in range(outputs) for tap in range(size))
    return sum(0 <= place <= last and place % holes == 0 for place in places)


def traffic(program: Program, body: Body, instruction: Instruction, fetched: set[str]) -> int:
    """Bytes of the device's main memory that an instruction reads and writes.

    What the compiler fetches into the chip's own memory ahead of time counts where it is used first; of an
    array that an instruction only cuts pieces from, the pieces count.

    Args:
      fetched: names of the transfers that were counted; those that count here are added.
    """
    if instruction.opcode in ("copy-start", "slice-start"):
        return _of_transfer(body, instruction)
    if instruction.opcode in _SLICES:
        return 2 * _in_memory(instruction.results)
    used = list(_used(program, body, instruction))
    total = sum(part for name, part in used if part is not None) + sum(
        _read(body, name, fetched) for name, part in used if part is None
    )
    return total + _written(program, body, instruction)


def _in_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.size for array in arrays if array.in_memory)


def _of_transfer(body: Body, instruction: Instruction) -> int:
    """Of a copy in the background that no later instruction is charged for: one to main memory."""
    source = body[instruction.operands[0]].results if instruction.operands[0] in body else ()
    return instruction.results[1].size + _in_memory(source[:1])


def _read(body: Body, name: str, fetched: set[str]) -> int:
    """Bytes that come out of main memory for an operand."""
    source = body.get(name)
    if source is None or source.opcode == "constant":
        return 0
    if source.opcode in ("copy-start", "slice-start"):
        target = source.results[1]
        if target.in_memory:
            return target.size
        if name in fetched or not source.results[0].in_memory:
            return 0
        fetched.add(name)
        return target.size
    if source.opcode in ("copy-done", "slice-done", "bitcast", "custom-call") and is_free(source):
        return sum(_read(body, operand, fetched) for operand in source.operands)
    return _in_memory(source.results)


def _used(program: Program, body: Body, instruction: Instruction) -> Iterator[tuple[str, int | None]]:
    """The operands, each with the bytes of the pieces that are cut from it, None where it is used whole."""
    inner = [program.computations[name] for name in instruction.called("calls")]
    for index, name in enumerate(instruction.operands):
        array = body[name].results[:1] if name in body else ()
        pieces = _pieces(program, inner[0], index) if inner else None
        if instruction.opcode == "dynamic-update-slice" and index == 0:
            pieces = 0
        yield name, pieces if pieces is not None and array and array[0].in_memory else None


def _pieces(program: Program, inner: Body, index: int) -> int | None:
    """Bytes cut from a parameter of a fusion; None if it is used in another way too."""
    parameter = next((name for name, each in inner.items() if _is_parameter(each, index)), None)
    users = [each for each in inner.values() if parameter in each.operands]
    found = 0
    for user in users:
        first = user.operands[0] == parameter and parameter not in user.operands[1:]
        if user.opcode in _SLICES and first:
            found += user.results[0].size
        elif user.opcode == "fusion":
            # A layer of stacked weights is often cut out by a fusion within that of its product.
            nested = [program.computations[name] for name in user.called("calls")]
            places = [place for place, name in enumerate(user.operands) if name == parameter]
            pieces = [_pieces(program, called, place) for called in nested for place in places]
            if None in pieces:
                return None
            found += sum(each for each in pieces if each)
        elif not (user.opcode == "dynamic-update-slice" and first):
            return None
    return found


def _is_parameter(instruction: Instruction, index: int) -> bool:
    return instruction.opcode == "parameter" and instruction.number == index


def _written(program: Program, body: Body, instruction: Instruction) -> int:
    """Bytes of main memory that an instruction writes; of an update in place, those of what is put in."""
    update = _update(program, body, instruction)
    if update is not None:
        return update if instruction.results[0].in_memory else 0
    inner = [program.computations[name] for name in instruction.called("calls")]
    last = list(inner[0].values())[-1] if inner else None
    if last is None or last.opcode != "tuple" or len(last.operands) != len(instruction.results):
        return _in_memory(instruction.results)
    updates = [_update(program, inner[0], inner[0][name]) for name in last.operands]
    pairs = zip(instruction.results, updates, strict=True)
    return sum(array.size if update is None else update for array, update in pairs if array.in_memory)


def _update(program: Program, body: Body, instruction: Instruction) -> int | None:
    """Bytes that an update in place, or a fusion that ends in one, puts in; None for all others."""
    last, where = instruction, body
    for name in instruction.called("calls"):
        where = program.computations[name]
        last = list(where.values())[-1]
    if last.opcode != "dynamic-update-slice":
        return None
    return where[last.operands[1]].results[0].size
