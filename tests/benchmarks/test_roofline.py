"""The roofline of a compiled program: FLOP, bytes, kinds, parts and how often a step runs them."""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

# As a TPU's compiler writes it, cut down: a chunk's loop, and in it a round of each thing that is told apart.
PROGRAM = (Path(__file__).resolve().parent / "step.hlo").read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def _path():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def found():
    from roofline import operations

    return operations(PROGRAM)


def test_a_step_is_one_round_of_the_chunks_loop(found):
    assert [each.times for each in found] == [1] * 6 + [5]
    assert [each.kind for each in found] == [
        "products",
        "products",
        "attention",
        "norms and elementwise",
        "copies and layout",
        "between chips",
        "attention",
    ]


def test_parts_and_passes(found):
    assert [(each.part, each.backward) for each in found] == [
        ("text encoder", True),
        ("UNet down 1", False),
        ("UNet up 3", True),
        ("samples and update", False),
        ("text encoder", True),
        ("text encoder", True),
        ("UNet mid", False),
    ]


def test_flop_and_bytes(found):
    product, second, kernel, row, copy, _, softmax = found
    assert product.flop == second.flop == 2 * 8 * 128 * 256
    # Fetched once; what lies on the chip takes nothing; the result is written.
    assert product.traffic == 2 * 128 * 256 + 4 * 8 * 256
    assert second.traffic == 0
    # Five products with heads of 40 as wide as the matrix unit, and arrays filled up to whole tiles.
    assert kernel.flop == 5 * 2 * 4 * 4096 * 4096 * 128
    assert kernel.traffic == 4 * (2 * 4 * 4096 * 128) + 4 * 512 * 128
    # One row of the table, not the table; one row takes a tile.
    assert row.traffic == 2 * (2 * 8 * 128)
    assert copy.traffic == 4 * (8 * 256 + 256 * 128) and copy.flop == 0
    assert (softmax.flop, softmax.traffic) == (0, 2 * 4 * 8 * 128)


def test_time_is_the_longer_of_work_and_bytes(found):
    from roofline import Chip, summed

    chip = Chip(peak=1e6, bandwidth=1e6, clock=1e3)
    product, second, *_, softmax = found
    assert product.seconds(chip) == 0.524288 and not product.waits_for_memory(chip)
    assert softmax.seconds(chip) == pytest.approx(5 * 0.008192) and softmax.waits_for_memory(chip)
    # The compiler's cycles, and never less than the roofline.
    assert (product.estimate(chip), second.estimate(chip)) == (3.0, second.seconds(chip))
    sums = summed(found, lambda each: each.kind, chip)["products"]
    assert (sums.flop, sums.waiting) == (2 * product.flop, 0.0)
    assert sums.estimate == 3.0 + second.seconds(chip)


def test_the_table_adds_up(found):
    from roofline import CHIPS, shown

    chip = CHIPS["v5e"]
    text = shown(found, chip, model_flop=10**9)
    numbers = [
        line.split()[-5:] for line in text.splitlines() if re.match("  (products|attention|step) ", line)
    ]
    total = sum(each.estimate(chip) for each in found)
    assert float(numbers[-1][4]) == pytest.approx(1e3 * total, abs=0.01)
    assert f"{1e9 / total / chip.peak:.1%} by the compiler's estimate" in text


@pytest.mark.parametrize(
    ("inputs", "outputs", "window", "expected"),
    [
        (4, 4, {"size": "3", "pad": "1_1"}, 3 * 4 - 2),
        (8, 4, {"size": "3", "stride": "2", "pad": "1_1"}, 3 * 4 - 1),
        (4, 8, {"size": "3", "lhs_dilate": "2", "pad": "1_2"}, 3 * 4 - 1 + 0),
        (1, 8, {"size": "8", "pad": "7_7", "rhs_reversal": "1"}, 8),
        (6, 2, {"size": "3", "rhs_dilate": "2"}, 6),
    ],
    ids=["same", "strided", "transposed", "heads", "dilated"],
)
def test_padding_and_holes_are_nobodys_work(inputs, outputs, window, expected):
    from work import _WINDOW, _pairs

    assert _pairs(inputs, outputs, _WINDOW | window) == expected


# A scan over ten layers in a loop over accumulated batches, as a TPU's compiler writes both. Each layer's
# weights are cut out of all by a fusion within that of its product, and what it keeps is put into a stack.
SCAN = (Path(__file__).resolve().parent / "scan.hlo").read_text(encoding="utf-8")


def test_layers_of_a_scan_count_each_with_its_own_weights_and_accumulated_batches_once():
    from roofline import operations

    (layer,) = operations(SCAN)
    assert (layer.times, layer.kind, layer.flop) == (10, "products", 2 * 8 * 128 * 128)
    # One layer's weights and its number are read, one place of the stack is written; the rest is on the chip.
    assert layer.traffic == 2 * 128 * 128 + 4 + 2 * 8 * 128


def test_what_is_more_than_cut_from_is_read_whole():
    from roofline import operations

    text = SCAN.replace("dynamic-slice(%stack, %layer)", "convert(%stack)")
    (layer,) = operations(text)
    assert layer.traffic == 10 * 2 * 128 * 128 + 2 * 8 * 128 + 4


def test_a_program_of_this_machine():
    from hlo import read_program
    from roofline import operations

    def chunk(x, kernel, steps):
        def step(_, x):
            return jnp.tanh(jax.lax.dot_general(x, kernel, (((1,), (0,)), ((), ()))))

        return jax.lax.fori_loop(0, steps, step, x)

    shapes = (jnp.zeros((16, 32)), jnp.zeros((32, 32)), jnp.int32(7))
    text = jax.jit(chunk).lower(*shapes).compile().as_text() or ""
    assert any(
        each.opcode == "while" for each in read_program(text).computations[read_program(text).entry].values()
    )
    assert sum(each.flop for each in operations(text)) == 2 * 16 * 32 * 32


def test_arrays_take_whole_tiles():
    from hlo import arrays

    (array,) = arrays("bf16[8,4096,40]{2,1,0:T(8,128)(2,1)S(1)}")
    assert (array.size, array.in_memory) == (2 * 8 * 4096 * 128, False)
    scalar, vector, plain = arrays("(f32[]{:T(128)}, f32[320]{0:T(512)}, /*index=2*/s32[3,5])")
    assert (scalar.size, vector.size, plain.size) == (4, 4 * 512, 4 * 15)
    assert all(each.in_memory for each in (scalar, vector, plain))


def test_text_that_is_no_program_is_an_error():
    from hlo import read_program

    with pytest.raises(ValueError, match="ENTRY"):
        read_program("HloModule x\n")
