"""Measure what evaluations take of a run's time.

    python benchmarks/evaluation_cost.py --max_train_steps auto
    python benchmarks/evaluation_cost.py --max_train_steps 200 --eval_steps 20

Trains from a configuration, the demo's by default, without previews. What is timed lies between the second
evaluation and the last: the first two wait for programs to compile. Other options are those of train_flax.py.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import ti_flax  # noqa: E402, F401  # first: it says so where Python is too old

# isort: split
from help_format import HelpFormatter  # noqa: E402

from ti_flax.config import parse_config  # noqa: E402
from ti_flax.console.arguments import ArgumentParser  # noqa: E402
from ti_flax.console.program import exit_code  # noqa: E402
from ti_flax.errors import ConfigError  # noqa: E402
from ti_flax.monitoring.evaluation import Evaluate  # noqa: E402
from ti_flax.training.state import TrainState  # noqa: E402

_FEWEST = 4


class Span(NamedTuple):
    """An evaluation: the updates before it, and when it began and ended, in seconds."""

    step: int
    began: float
    ended: float


class Cost(NamedTuple):
    """What was measured.

    Attributes:
      evaluations, updates: how many lie in the time that was measured.
      evaluation, update: seconds of one.
      share: of the time that evaluations took.
    """

    evaluations: int
    updates: int
    evaluation: float
    update: float
    share: float


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    parser = ArgumentParser(
        description="Measure what evaluations take of a run's time.",
        formatter_class=HelpFormatter,
        epilog="All other options are those of train_flax.py.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, default=ROOT / "configs" / "demo.yaml", help="settings of the training")
    return parser.parse_known_args(argv)


class Timed(Evaluate):
    """Evaluations that note when they begin and end."""

    spans: list[Span] = []

    def on_step(self, step: int, state: TrainState) -> None:
        began = time.perf_counter()
        super().on_step(step, state)
        self.spans.append(Span(step, began, time.perf_counter()))


def cost(spans: Sequence[Span]) -> Cost:
    """What a run's evaluations cost, from the end of the second.

    Raises:
      ConfigError: there are too few of them.
    """
    if len(spans) < _FEWEST:
        raise ConfigError(
            "max_train_steps",
            expected=f"a run with {_FEWEST} evaluations or more after its start",
            found=str(len(spans)),
            remedy="Give more steps, or a smaller eval_steps.",
        )
    _, first, *others = spans
    whole, inside = spans[-1].ended - first.ended, sum(each.ended - each.began for each in others)
    updates = spans[-1].step - first.step
    return Cost(len(others), updates, inside / len(others), (whole - inside) / updates, inside / whole)


def main(argv: Sequence[str] | None = None) -> None:
    from ti_flax.run import hooks
    from ti_flax.run.train import train

    options, training = parse_arguments(argv)
    Timed.spans, hooks.Evaluate = [], Timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = parse_config(["--config", str(options.config), *training])
            train(config.replace(output_dir=folder, overwrite_output_dir=True, validation_prompt=None))
    finally:
        hooks.Evaluate = Evaluate
    found = cost(Timed.spans)
    print(f"{found.evaluations} evaluations of {found.evaluation:.3f} s, ", end="")
    print(f"{found.updates} updates of {found.update:.4f} s")
    updates = found.evaluation / found.update
    print(f"an evaluation takes as long as {updates:.1f} updates, all of them {found.share:.0%} of the time")


if __name__ == "__main__":
    sys.exit(exit_code(main))
