"""Measure how the cost of drawing samples and of evaluations grows with images, prompts and steps.

    python benchmarks/growth.py
    python benchmarks/growth.py --images 5 100000 --prompts 1 100000 --evaluations 100 20000

A line shows how long the host takes to choose and gather an update's 8 samples of tiny latents, what images
and prompts take of its memory, and what is sent to a device; or what an evaluation costs without the model,
after so many others.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo"), str(ROOT / "benchmarks")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from help_format import HelpFormatter  # noqa: E402
from presets import preset  # noqa: E402

from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.data.dataset import one_shape  # noqa: E402
from ti_flax.embedding.vocabulary import Vocabulary  # noqa: E402
from ti_flax.models.noise_schedule import NoiseSchedule  # noqa: E402
from ti_flax.models.stable_diffusion import random_stable_diffusion  # noqa: E402
from ti_flax.monitoring.evaluation import Evaluate  # noqa: E402
from ti_flax.training.state import StepConfig, TrainState  # noqa: E402
from ti_flax.training.streaming import Feed, shapes_of  # noqa: E402

BATCH, SIDE, TOKENS = 8, 2, 77


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(
        description="Measure how the cost of draws and evaluations grows.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--images", type=int, nargs="+", default=[5, 100, 5_000, 100_000], help="numbers of images")
    add("--prompts", type=int, nargs="+", default=[1, 100, 10_000, 100_000], help="numbers of prompts")
    add("--evaluations", type=int, nargs="+", default=[100, 2_000, 20_000], help="numbers of evaluations")
    add("--rounds", type=int, default=20, help="timed calls of each")
    return parser.parse_args(argv)


def step_config() -> StepConfig:
    """The fixed parts of a step, of which draws need the schedule and the sizes of batches alone."""
    model = random_stable_diffusion(preset("tiny"), seed=0, components=())
    return StepConfig(
        model=model,
        schedule=NoiseSchedule.from_config(model.configs["scheduler"]),
        optimizer=lambda rate, clip: optax.identity(),
        trainable={"text_encoder": np.ones(1, bool)},
        first_added_id=0,
        batch_size=BATCH,
    )


def draw_cost(config: StepConfig, images: int, prompts: int, rounds: int) -> tuple[float, int, int]:
    """Median milliseconds to choose and gather what an update shows, bytes held, and bytes sent."""
    posteriors = np.zeros((images, 2, SIDE, SIDE, 8), np.float32)
    examples = one_shape(posteriors, np.zeros((prompts, TOKENS), np.int32))
    feed = Feed(config, examples, np.zeros(2, np.uint32), shapes_of(examples), capacity=1)
    held = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(examples))
    sent = sum(leaf.nbytes for leaf in jax.tree.leaves(feed.windows(0, 1, [0])))
    return timed(lambda step: feed.windows(step, 1, [0]), rounds), held, sent


def evaluation_cost(count: int, rounds: int) -> tuple[float, int]:
    """Median milliseconds of an evaluation without the model after so many, and bytes of its table."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Vocabulary(np.eye(4, dtype=np.float32), ["a</w>"] * 4, lambda index: "a")
        hook = Evaluate(
            Path(folder),
            {"<thing>": 1},
            every=1,
            last_step=count + rounds,
            loss=lambda rows: 1.0,
            sensitivity=lambda rows: np.ones((1, 1)),
            result=lambda state: jax.tree.map(np.asarray, state.rows),
            start_rows={"text_encoder": np.ones((1, 4), np.float32)},
            vocabularies={"text_encoder": vocabulary},
        )
        state = TrainState({"text_encoder": jnp.ones((1, 4))}, None, jnp.int32(0))
        hook.on_start(0, state)
        for step in range(1, count):
            hook.on_step(step, state)
        milliseconds = timed(lambda round: hook.on_step(count + round, state), rounds)
        return milliseconds, (Path(folder) / "signals.csv").stat().st_size


def timed(call: Callable[[int], Any], rounds: int) -> float:
    """Median milliseconds of a call, which gets the number of the round."""
    call(0)
    taken = []
    for round in range(1, rounds + 1):
        began = time.perf_counter()
        call(round)
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


def main(argv=None) -> None:
    options = parse_arguments(argv)
    print(f"batch {BATCH}, on {jax.devices()[0].device_kind}")
    print(f"{'images':>8} {'prompts':>8} {'ms a batch':>11} {'MB held':>8} {'KB sent':>8}")
    fewest = options.prompts[0], options.images[0]
    pairs = [(each, fewest[0]) for each in options.images] + [(fewest[1], n) for n in options.prompts[1:]]
    config = step_config()
    for images, prompts in pairs:
        milliseconds, held, sent = draw_cost(config, images, prompts, options.rounds)
        print(f"{images:8} {prompts:8} {milliseconds:11.3f} {held / 1e6:8.2f} {sent / 1e3:8.1f}")
    print(f"{'evaluations':>12} {'ms for one':>11} {'MB of signals.csv':>18}")
    for count in options.evaluations:
        milliseconds, table = evaluation_cost(count, options.rounds)
        print(f"{count:12} {milliseconds:11.3f} {table / 1e6:18.3f}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
