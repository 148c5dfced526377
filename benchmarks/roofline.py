"""Predicts the time of a compiled step from its operations: each as slow as its products or its bytes.

An operation (a fusion, a copy, a kernel) takes the longer of its FLOP at the chip's peak and its bytes at the
memory's bandwidth (the roofline model, doi:10.1145/1498765.1498785), and operations follow one another. A
TPU's compiler writes its own estimate of cycles to most operations; that one knows the shapes that the matrix
unit wastes, and arithmetic on vectors, which the roofline takes for free.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from hlo import Instruction, Program, read_program
from work import Body, flop, is_free, traffic

KINDS = ("products", "attention", "norms and elementwise", "copies and layout", "between chips")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_PROJECTIONS = r"to_q|to_k|to_v|to_out_0|q_proj|k_proj|v_proj|out_proj"
# What belongs to no model.
_OUTSIDE = "samples and update"
# Instructions that leave numbers as they are.
_LAYOUT = frozenset(
    ("parameter", "constant", "copy", "copy-start", "slice-start", "transpose", "bitcast", "reshape", "pad")
    + ("slice", "concatenate", "broadcast", "dynamic-slice", "dynamic-update-slice", "tuple", "iota")
    + ("get-tuple-element", "copy-done", "slice-done", "custom-call")
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do.

    Attributes:
      peak: FLOP per second in bfloat16.
      bandwidth: bytes per second of its main memory.
      clock: cycles per second.
    """

    peak: float
    bandwidth: float
    clock: float


# cloud.google.com/tpu/docs, one page a version. The clock is the peak over what the matrix units do in a
# cycle: 2 x 4 of 128 x 128 (v4), 4 (v5e), 2 x 4 (v5p), and 4 of 256 x 256 (v6e), two FLOP a cell.
CHIPS = {
    "v4": Chip(275e12, 1228e9, 1.05e9),
    "v5e": Chip(197e12, 819e9, 1.5e9),
    "v5p": Chip(459e12, 2765e9, 1.75e9),
    "v6e": Chip(918e12, 1640e9, 1.75e9),
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a step.

    Attributes:
      kind: one of `KINDS`.
      part: of the model, such as `text encoder` or `down 0`.
      backward: whether it belongs to the backward pass.
      flop: of its matrix products and convolutions.
      traffic: bytes of main memory.
      cycles: the compiler's estimate, None where it gives none.
      times: how often it runs in a step.
      name: path of modules and primitives, or the instruction's name.
    """

    kind: str
    part: str
    backward: bool
    flop: int
    traffic: int
    cycles: int | None
    times: int
    name: str

    def seconds(self, chip: Chip) -> float:
        """By the roofline."""
        return self.times * max(self.flop / chip.peak, self.traffic / chip.bandwidth)

    def estimate(self, chip: Chip) -> float:
        """Seconds by the compiler's estimate, or the roofline's where that is longer or there is no other."""
        return max(self.seconds(chip), self.times * (self.cycles or 0) / chip.clock)

    def waits_for_memory(self, chip: Chip) -> bool:
        """Whether its bytes take longer than its FLOP."""
        return self.traffic / chip.bandwidth > self.flop / chip.peak


def operations(text: str) -> list[Operation]:
    """The operations of one step of a compiled chunk, in the order of running.

    Where the program begins a loop, as a chunk does, what is outside of it belongs to a call and not to a
    step, and is left out. A loop over a model's layers counts all of its rounds. Any other whose number the
    program does not say counts one round: the chunk's own loop is one, and so is that over accumulated
    batches. Of a conditional the branch with the most operations counts.

    Args:
      text: what `jax.stages.Compiled.as_text` returns.
    """
    program = read_program(text)
    loops = [each for each in program.computations[program.entry].values() if each.opcode == "while"]
    bodies = [body for loop in loops for body in loop.called("body")] or [program.entry]
    return [each for body in bodies for each in _of_computation(program, body, 1)]


def _of_computation(program: Program, name: str, times: int) -> Iterable[Operation]:
    body, fetched = program.computations[name], set[str]()
    for instruction in body.values():
        if instruction.opcode == "while":
            for inner in instruction.called("body"):
                yield from _of_computation(program, inner, times * _rounds(program, instruction))
        elif instruction.opcode == "conditional":
            branches = instruction.called("branch_computations", "true_computation", "false_computation")
            yield from max((list(_of_computation(program, each, times)) for each in branches), key=len)
        elif instruction.opcode in ("call", "async-start"):
            for inner in instruction.called("to_apply", "calls"):
                yield from _of_computation(program, inner, times)
        elif not is_free(instruction):
            yield _operation(program, body, instruction, fetched, times)


def _rounds(program: Program, loop: Instruction) -> int:
    """How often a loop runs: as the program says, or up to what a scan's condition compares with."""
    known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
    if known:
        return int(known)
    for name in loop.called("condition") if _part(loop.op_name) != _OUTSIDE else ():
        condition = program.computations[name]
        last = list(condition.values())[-1]
        compared = [condition[operand] for operand in last.operands if operand in condition]
        numbers = [each.number for each in compared if each.opcode == "constant"]
        if numbers and "direction=LT" in last.attributes:
            return numbers[0] or 1
    return 1


def _operation(
    program: Program, body: Body, instruction: Instruction, fetched: set[str], times: int
) -> Operation:
    path = _path(program, body, instruction)
    work = flop(program, body, instruction)
    cycles = instruction.attribute(r'"estimated_cycles":"(\d+)"')
    return Operation(
        kind=_kind(program, instruction, path, work),
        part=_part(path),
        backward="transpose(" in path,
        flop=work,
        traffic=traffic(program, body, instruction, fetched),
        cycles=int(cycles) if cycles else None,
        times=times,
        name=path or instruction.name,
    )


def _path(program: Program, body: Body, instruction: Instruction, steps: int = 8) -> str:
    """Where an operation comes from, as it says itself, or what it holds, or what gives its first operand."""
    inner = [
        each.op_name for name in instruction.called("calls") for each in program.computations[name].values()
    ]
    known = [name for name in (*inner, instruction.op_name) if name]
    if known:
        return known[-1]
    source = body.get(instruction.operands[0]) if instruction.operands else None
    return _path(program, body, source, steps - 1) if source is not None and steps else ""


def _kind(program: Program, instruction: Instruction, path: str, work: int) -> str:
    if instruction.opcode.removesuffix("-start") in _COLLECTIVES:
        return "between chips"
    if not work and _only_moves(program, instruction):
        return "copies and layout"
    inside = re.search(r"/(attn\d|self_attn)/(\w*)", path)
    if inside and not re.fullmatch(_PROJECTIONS, inside[2]):
        return "attention"
    return "products" if work else "norms and elementwise"


def _only_moves(program: Program, instruction: Instruction) -> bool:
    inner = [each for name in instruction.called("calls") for each in program.computations[name].values()]
    return (
        all(
            each.opcode in _LAYOUT or (each.opcode == "fusion" and _only_moves(program, each))
            for each in inner or [instruction]
        )
        and '"tpu_custom_call"' not in instruction.attributes
    )


def _part(path: str) -> str:
    if "CLIPText" in path:
        return "text encoder"
    found = re.search(r"/(down|up|mid)_blocks?(?:_(\d+))?/", path)
    if found:
        return f"UNet {found[1]} {found[2] or ''}".strip()
    return "UNet, the rest" if "UNet2D" in path else _OUTSIDE


@dataclasses.dataclass
class Sums:
    """Sums over operations; seconds by the roofline, of those that wait for memory, and the compiler's."""

    flop: int = 0
    traffic: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    estimate: float = 0.0

    def add(self, operation: Operation, chip: Chip) -> None:
        seconds = operation.seconds(chip)
        self.flop += operation.times * operation.flop
        self.traffic += operation.times * operation.traffic
        self.seconds += seconds
        self.waiting += seconds if operation.waits_for_memory(chip) else 0.0
        self.estimate += operation.estimate(chip)


def summed(found: Sequence[Operation], key: Callable[[Operation], str], chip: Chip) -> dict[str, Sums]:
    """The sums of operations by a key, the slowest by the compiler's estimate first."""
    sums: dict[str, Sums] = defaultdict(Sums)
    for each in found:
        sums[key(each)].add(each, chip)
    return dict(sorted(sums.items(), key=lambda item: -item[1].estimate))


def shown(found: Sequence[Operation], chip: Chip, model_flop: int) -> str:
    """The prediction as lines of text.

    Args:
      found: operations of a step.
      chip: that runs it.
      model_flop: of a device and step, without what is padded or computed again (`flop.count_flop`).
    """
    whole = summed(found, lambda each: "step", chip)["step"]
    lines = [
        f"predicted  at {chip.peak / 1e12:.0f} TFLOP/s and {chip.bandwidth / 1e9:.0f} GB/s, nothing measured",
        f"{'':24}{'TFLOP':>9}{'GB':>9}{'ms':>9}{'memory ms':>11}{'compiler ms':>13}",
    ]
    for sums in (
        summed(found, lambda each: each.kind, chip),
        summed(found, lambda each: each.part, chip),
        {"step": whole},
    ):
        lines += [_line(name, each) for name, each in sums.items()]
    by_roofline, by_compiler = (
        model_flop / seconds / chip.peak for seconds in (whole.seconds, whole.estimate)
    )
    return "\n".join(
        [
            *lines,
            f"MFU        {by_roofline:.1%} by the roofline, {by_compiler:.1%} by the compiler's estimate",
        ]
    )


def _line(name: str, sums: Sums) -> str:
    times = f"{1e3 * sums.seconds:9.2f}{1e3 * sums.waiting:11.2f}{1e3 * sums.estimate:13.2f}"
    return f"  {name:22}{sums.flop / 1e12:9.3f}{sums.traffic / 1e9:9.2f}{times}"
