"""Measure how much gradient and loss scatter from update to update, for each way of drawing timesteps.

    python benchmarks/timestep_variance.py                     200 batches of 8 on the demo's model
    python benchmarks/timestep_variance.py --batch 4 --updates 400

The rows do not move, so two updates differ only in what they draw. Each line shows the variance of a batch's
mean and its ratio to that of `uniform`; a ratio of one half is worth twice the batch. The last lines let the
timesteps alone vary: every update sees the same images, posteriors, noise and prompts.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from help_format import HelpFormatter  # noqa: E402

from ti_flax.config import parse_config  # noqa: E402
from ti_flax.config.options import LossOptions  # noqa: E402
from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.data.dataset import padded  # noqa: E402
from ti_flax.run.inputs import load_inputs  # noqa: E402
from ti_flax.run.step_config import make_step_config  # noqa: E402
from ti_flax.training.batches import choose, draw, example_of  # noqa: E402
from ti_flax.training.step import denoising_loss  # noqa: E402

SAMPLINGS = get_args(get_type_hints(LossOptions)["timestep_sampling"])


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = ArgumentParser(
        description="Measure how much gradient and loss scatter, for each way of drawing timesteps.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        default=ROOT / "configs" / "demo.yaml",
        help="configuration with model, images and word",
    )
    add("--batch", type=int, default=8, help="samples per update")
    add("--updates", type=int, default=200, help="updates to draw in each way")
    return parser.parse_args(argv)


def variances(config, updates: int) -> dict[str, dict[str, tuple[float, float]]]:
    """For each sampling and kind of draws, the variances of gradient, summed over its values, and loss."""
    inputs = load_inputs(config)
    found = {}
    for sampling in SAMPLINGS:
        step_config, _ = make_step_config(
            config.replace(timestep_sampling=sampling),
            inputs.model,
            inputs.concept.token_ids[0],
            added=inputs.added,
            devices=1,
            batches=1,
        )
        frozen = jax.tree.map(jnp.asarray, inputs.model.step_params)
        examples = padded(inputs.examples)

        sample = partial(sample_of, step_config.draw_rules, examples)
        positions, rows = jnp.arange(step_config.global_batch), jax.tree.map(jnp.asarray, inputs.added.start)

        @jax.jit
        def draws(step, sample=sample, positions=positions):
            drawn, same = (
                jax.vmap(lambda position, step=each: sample(step=step, position=position))(positions)
                for each in (step, jnp.int32(0))
            )
            return drawn, same._replace(timesteps=drawn.timesteps)

        differentiate = jax.jit(partial(jax.value_and_grad(denoising_loss), config=step_config))
        measured = [
            [jax.device_get(differentiate(rows, frozen, batch)) for batch in draws(jnp.int32(step))]
            for step in range(updates)
        ]
        found[sampling] = {
            kind: (
                float(np.var([flat(each[i][1]) for each in measured], axis=0, ddof=1).sum()),
                float(np.var([each[i][0] for each in measured], ddof=1)),
            )
            for i, kind in enumerate(("all draws", "timesteps alone"))
        }
    return found


def sample_of(rules, examples, step, position):
    """One sample of the first bucket, without the batch axis."""
    bucket, key, where = examples.buckets[0], jax.random.key(0), {"step": step, "position": position}
    choice = choose(rules, key, bucket, examples.prompts, **where)
    shown = {"image": choice.image, "mirrored": choice.mirrored, "prompt": choice.prompt}
    return draw(rules, example_of(bucket, examples.prompts, **shown), choice.timestep, choice.keys)


def flat(gradient):
    """The numbers of a gradient by the rows of every text encoder, one after another."""
    return np.concatenate([each.ravel() for each in gradient.values()])


def main(argv=None) -> None:
    options = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(
            ["--config", str(options.config), f"--train_batch_size={options.batch}", f"--output_dir={folder}"]
        )
        found = variances(config, options.updates)
    print(f"{options.updates} updates of {options.batch}; variance, and its ratio to that of uniform")
    for kind in ("all draws", "timesteps alone"):
        for sampling in SAMPLINGS:
            figures = zip(("gradient", "loss"), found[sampling][kind], found["uniform"][kind])
            text = ", ".join(f"{what} {value:.3e} ({value / base:.2f})" for what, value, base in figures)
            print(f"{kind:16} {sampling:11} {text}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
