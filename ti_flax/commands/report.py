"""Write the page of a run anew from the files of its folder, also while the run goes on."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import unwritable


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        description="Write report.html anew from the files of a run's folder, also while the run goes on; "
        "for a run of many concepts, that of each concept and index.html.",
    )
    parser.add_argument("output_dir", metavar="FOLDER", type=Path, help="output_dir of a run")
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Writes the page, or those of a run of many concepts, and says where it is."""
    from ti_flax.files.written_files import CONCEPTS
    from ti_flax.monitoring.report.index_page import write_pages
    from ti_flax.monitoring.report.page import write_report

    folder = options.output_dir
    try:
        print(write_pages(folder) if os.path.lexists(folder / CONCEPTS) else write_report(folder))
    except OSError as error:
        raise unwritable(options.output_dir, error) from None


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
