"""Learn a concept from a few images."""

from collections.abc import Sequence

from ti_flax.config import parse_config
from ti_flax.console.interrupt import listening
from ti_flax.console.program import exit_code


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the training that `argv` (None: the command line) asks for; returns the exit code."""

    def run() -> None:
        with listening():  # from here on, as what is imported takes seconds
            config = parse_config(argv, prog)
            from ti_flax.run.train import train  # here, so that a wrong option is reported before JAX starts

            train(config)

    return exit_code(run)
