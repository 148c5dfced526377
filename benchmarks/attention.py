"""Compare the implementations of attention, in time and against float32.

    python benchmarks/attention.py                                on this machine's device
    python benchmarks/attention.py --dtype bfloat16 --batch 16
    python benchmarks/attention.py --tokens 64 128 256 --heads 8 --width 40

A shape is what one layer of a UNet asks for. The error is the largest difference of result and gradients from
the plain formula in float32, over the largest number there.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import numpy as np  # noqa: E402
from help_format import HelpFormatter  # noqa: E402

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402

# Tokens, context tokens, heads and width of a head, in Stable Diffusion 1.5 at 512 pixels, 2.1 at 768 pixels,
# and the middle model of presets.py at 256 pixels.
SHAPES = {
    "sd15": [(4096, 4096, 8, 40), (1024, 1024, 8, 80), (256, 256, 8, 160), (4096, 77, 8, 40)],
    "sd21": [(9216, 9216, 5, 64), (2304, 2304, 10, 64), (576, 576, 20, 64), (9216, 77, 5, 64)],
    "mid": [(1024, 1024, 8, 8), (256, 256, 8, 16), (64, 64, 8, 32), (1024, 77, 8, 8)],
}
# Above so many bytes of scores the plain formula is left out: its gradient holds three such arrays.
_PLAIN_BYTES = 4 * 2**30


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(
        description="Compare the implementations of attention, in time and against float32.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--preset", choices=sorted(SHAPES), default="mid", help="model whose shapes are measured")
    add("--tokens", type=int, nargs="+", metavar="N", help="measure self-attention over N tokens instead")
    add("--heads", type=int, default=8, help="number of heads, with --tokens")
    add("--width", type=int, default=40, help="width of a head, with --tokens")
    add("--batch", type=int, default=2, help="samples in a batch")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of query, key and value")
    add("--rounds", type=int, default=10, help="timed rounds; each runs all implementations in turn")
    return parser.parse_args(argv)


def shapes(options: argparse.Namespace) -> list[tuple[int, int, int, int]]:
    """Tokens, context tokens, heads and width of what is measured."""
    if options.tokens:
        return [(tokens, tokens, options.heads, options.width) for tokens in options.tokens]
    return SHAPES[options.preset]


def functions(implementation: str) -> tuple[Callable, Callable]:
    """Compiled: the result, and the result with the gradients of its product with `slope`."""
    import jax
    import jax.numpy as jnp

    from ti_flax.models.attention import Attention

    attention = Attention(implementation)

    def both(query, key, value, slope):
        mixed, pull = jax.vjp(attention, query, key, value)
        return mixed, pull(slope.astype(mixed.dtype))

    return jax.jit(lambda query, key, value, slope: jnp.asarray(attention(query, key, value))), jax.jit(both)


def inputs(shape: tuple[int, int, int, int], options: argparse.Namespace) -> list[Any]:
    """Query, key, value and slope."""
    import jax.numpy as jnp

    tokens, context, heads, width = shape
    rng = np.random.default_rng(0)
    lengths = (tokens, context, context, tokens)
    drawn = [rng.standard_normal((options.batch, length, heads, width), np.float32) for length in lengths]
    return [jnp.asarray(array, jnp.dtype(options.dtype)) for array in drawn]


def implementations(shape: tuple[int, int, int, int], arrays: list[Any]) -> list[str]:
    """Those that compute this shape here, and that fit in memory."""
    import jax

    from ti_flax.models.attention import IMPLEMENTATIONS, Attention

    platform = {"cuda": "gpu", "rocm": "gpu"}.get(jax.default_backend(), jax.default_backend())
    elsewhere = {
        "cudnn": platform != "gpu",
        "flash": platform != "tpu",
        "plain": not plain_fits(shape, arrays),
    }
    return [
        name
        for name in IMPLEMENTATIONS
        if not elsewhere.get(name) and Attention(name).chosen(arrays[0], arrays[1]) == name
    ]


def plain_fits(shape: tuple[int, int, int, int], arrays: list[Any]) -> bool:
    """Whether all scores at once are not too many."""
    tokens, context, heads, _ = shape
    return 4 * arrays[0].shape[0] * heads * tokens * context <= _PLAIN_BYTES


def errors(implementation: str, arrays: list[Any]) -> float:
    """The largest relative difference from the plain formula in float32."""
    import jax
    import jax.numpy as jnp

    exact = functions("plain")[1](*(array.astype(jnp.float32) for array in arrays))
    found = functions(implementation)[1](*arrays)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return max(float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)


def milliseconds(calls: dict[str, Callable], arrays: list[Any], rounds: int) -> dict[str, float]:
    """The median time of each call, taken in turns."""
    import jax

    repeats = {}
    for name, call in calls.items():
        jax.block_until_ready(call(*arrays))
        began = time.perf_counter()
        jax.block_until_ready(call(*arrays))
        # Short calls are repeated, so that starting them does not count.
        repeats[name] = max(1, min(50, round(0.02 / (time.perf_counter() - began))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready([call(*arrays) for _ in range(repeats[name])])
            times[name].append((time.perf_counter() - began) / repeats[name])
    return {name: 1e3 * float(np.median(found)) for name, found in times.items()}


def main(argv=None) -> None:
    import jax

    from ti_flax.models.attention import Attention

    options = parse_arguments(argv)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {options.batch}, {options.dtype}")
    print(f"{'tokens x context, heads x width':34}{'':12}{'forward':>10}{'with backward':>16}{'error':>10}")
    for shape in shapes(options):
        arrays = inputs(shape, options)
        names = implementations(shape, arrays)
        pairs = {name: functions(name) for name in names}
        forward = milliseconds({name: pair[0] for name, pair in pairs.items()}, arrays, options.rounds)
        backward = milliseconds({name: pair[1] for name, pair in pairs.items()}, arrays, options.rounds)
        chosen = Attention().chosen(arrays[0], arrays[1])
        tokens, context, heads, width = shape
        for name in names:
            title = f"{tokens} x {context}, {heads} x {width}"
            error = f"{errors(name, arrays):.1e}" if plain_fits(shape, arrays) else "-"
            star = "*" if name == chosen else ""
            print(
                f"{title:34}{name + star:12}{forward[name]:>7.2f} ms{backward[name]:>13.2f} ms{error:>10}",
                flush=True,
            )
    print("* what train_flax.py chooses for this shape")


if __name__ == "__main__":
    sys.exit(exit_code(main))
