"""Learn a concept: `python train_flax.py --config configs/demo.yaml`."""

import sys
from collections.abc import Sequence

from ti_flax.config import parse_config
from ti_flax.console.interrupt import end_process, listening
from ti_flax.console.program import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the training that `argv` (None: the command line) asks for and return the exit code."""

    def command() -> None:
        config = parse_config(argv)
        from ti_flax.run.train import train  # here, so that a wrong option is reported before JAX starts

        train(config)

    def heard() -> None:
        with listening():  # from here on, as what is imported takes seconds
            command()

    return exit_code(heard)


if __name__ == "__main__":
    sys.exit(end_process(main()))
