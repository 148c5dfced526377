"""Learn a concept from a few images."""

from collections.abc import Sequence

from ti_flax.config import parse_with_notes, print_notes
from ti_flax.console.interrupt import listening
from ti_flax.console.program import exit_code


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the training that `argv` (None: the command line) asks for; returns the exit code."""

    def run() -> None:
        with listening():  # from here on, as what is imported takes seconds
            config, notes = parse_with_notes(argv, prog)
            # Imported here, so that a wrong option is reported before JAX starts.
            if config.output.dry_run:
                from ti_flax.run.dry_run.show import dry_run

                dry_run(config, notes, alone=True)
                return
            print_notes(config, notes)
            from ti_flax.run.train import train

            train(config)

    return exit_code(run)
