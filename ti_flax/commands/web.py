"""Serve a page in the browser that teaches words: images, settings, previews and results, without a shell."""

import argparse
import fcntl
import importlib.util
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ti_flax.commands.demo import bundled
from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import ConfigError, OutputError, unwritable

HOST, PORT = "127.0.0.1", 7860
_SHORTEST_PASSWORD = 8


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog=prog,
        description="Serve a page in the browser on which to choose images, a word and settings, to start "
        "and stop runs, watch them and download the result. Runs are programs of their own: they go on when "
        "the page is closed, and when Ctrl-C ends this command.",
        epilog="Only browsers on this machine reach the page, unless --host or --share say otherwise; then "
        "it asks for a password.",
    )
    add = parser.add_argument
    add(
        "--work_dir",
        metavar="DIR",
        type=Path,
        default=Path("ti-flax-work"),
        help="folder for images and runs (default: ti-flax-work)",
    )
    add("--host", metavar="ADDRESS", default=HOST, help=f"address to listen on (default: {HOST})")
    add("--port", metavar="PORT", type=_port, default=PORT, help=f"port to listen on (default: {PORT})")
    add(
        "--share", action="store_true", help="also make a public link, through the servers of Gradio's makers"
    )
    add(
        "--password",
        metavar="TEXT",
        help=f"that browsers must give, {_SHORTEST_PASSWORD} signs or more; with "
        "--share or another --host one is made and printed if left out",
    )
    add(
        "--allow",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="another folder whose models and images the page may use; repeatable",
    )
    return parser


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    return make_parser(prog).parse_args(argv)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {2**16 - 1}, found {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C.

    Raises:
      ConfigError: Gradio is not installed, or an option is wrong.
      OutputError: the folder cannot be used, or the port is taken.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError(
            "ti-flax web",
            expected="the Python package gradio, which makes the page",
            found="that it is not installed",
            remedy='Install it: pip install "ti_flax[web]".',
        )
    password = _password(options)
    try:
        _serve(options, password)
    except KeyboardInterrupt:
        return


def _password(options: argparse.Namespace) -> str | None:
    from ti_flax.web.server import is_loopback

    if options.password is not None and len(options.password) < _SHORTEST_PASSWORD:
        raise ConfigError(
            "--password", expected=f"{_SHORTEST_PASSWORD} signs or more", found=f"{len(options.password)}"
        )
    if options.password is None and (options.share or not is_loopback(options.host)):
        return secrets.token_urlsafe(12)
    return options.password


def _serve(options: argparse.Namespace, password: str | None) -> None:
    from ti_flax.web.server import Door, Serving, is_loopback, launched, require_free
    from ti_flax.web.words import warm_up
    from ti_flax.web.work_folder import WorkFolder

    require_free(options.host, options.port)
    for folder in options.allow:
        if not folder.expanduser().is_dir():
            raise ConfigError("--allow", expected="a folder", found=str(folder))
    try:
        demo = bundled("assets/demo-model"), bundled("assets/demo-images")
        work = WorkFolder.made(options.work_dir, tuple(options.allow), *demo)
    except OSError as error:
        raise unwritable(options.work_dir, error) from None
    elsewhere = options.share or not is_loopback(options.host)
    serving = Serving(options.host, options.port, options.share, password, Door(any_host=elsewhere))
    with _only_page(work.root):
        _without_devices()
        blocks, address, shared = launched(work, serving)
        print(f"{options.work_dir}: {address} (Ctrl-C ends it, and no run)", flush=True)
        for line in (shared, password and f"password: {password}"):
            if line:
                print(line, flush=True)
        threading.Thread(target=warm_up, args=(str(work.demo_model),), daemon=True).start()
        try:
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)


@contextmanager
def _only_page(folder: Path) -> Iterator[None]:
    """Keeps a second page out of a work folder.

    Raises:
      OutputError: there is one.
    """
    with open(folder / "page.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"--work_dir {folder}",
                expected="a folder without another page",
                found="one that `ti-flax web` serves",
                remedy="Use that page, or choose another folder.",
            ) from None
        yield


def _without_devices() -> None:
    """Keeps this process from starting a TPU or GPU, which runs need for themselves."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
