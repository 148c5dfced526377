"""Learn a concept from a few images."""

from collections.abc import Sequence

from ti_flax.config import parse_config
from ti_flax.console.interrupt import end_process, listening
from ti_flax.console.program import exit_code


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the training that the arguments (None: those of the command line) ask for.

    Returns:
      The exit code; a program that a signal has ended does not return.
    """

    def run() -> None:
        with listening():  # from here on, as what is imported takes seconds
            config = parse_config(argv, prog)
            from ti_flax.run.train import train  # here, so that a wrong option is reported before JAX starts

            train(config)

    return end_process(exit_code(run))
