"""Write report.html anew from the files of a run's folder, also while the run goes on."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ti_flax.console.program import exit_code
from ti_flax.errors import unwritable


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write report.html anew from the files of a run's folder, also while the run goes on.",
    )
    parser.add_argument("output_dir", metavar="FOLDER", type=Path, help="output_dir of a run")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Writes the page and says where it is."""
    from ti_flax.monitoring.report.page import write_report

    try:
        print(write_report(options.output_dir))
    except OSError as error:
        raise unwritable(options.output_dir, error) from None


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
