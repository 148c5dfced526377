"""Show a run in the browser while it goes on: a page that refreshes itself until the run is finished."""

import argparse
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        description="Show a run's folder as a page in the browser, which refreshes itself until the run is "
        "finished; for a run of many concepts, all of them and the page of each. Only browsers on this "
        "machine reach it: from another one, use ssh -L. Ctrl-C ends it, and does not touch the run.",
    )
    parser.add_argument("output_dir", metavar="FOLDER", type=Path, help="output_dir of a run")
    parser.add_argument(
        "--port",
        type=_port,
        metavar="PORT",
        help="port to listen on; 0 is a free one (default: 8765, or a free one where that is taken)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {2**16 - 1}, found {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C.

    Raises:
      DataError: it is no run's folder.
      OutputError: the port is taken.
    """
    try:
        from ti_flax.monitoring.watch.pages import RunPages, require_run
        from ti_flax.monitoring.watch.server import Server

        require_run(options.output_dir)
        with Server(RunPages(options.output_dir).answer, options.port) as server:
            print(f"{options.output_dir}: {server.address} (Ctrl-C ends it)", flush=True)
            if options.open:  # some browsers run in the terminal, and return when they are closed
                threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
            server.serve_forever()
    except KeyboardInterrupt:
        return


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
