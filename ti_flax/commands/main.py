"""`ti-flax COMMAND ...`: one command for each part of the job."""

import importlib
import sys
from collections.abc import Sequence

from ti_flax.console.interrupt import end_process
from ti_flax.console.program import exit_code
from ti_flax.console.versions import __version__
from ti_flax.errors import ConfigError, nearest

# Command: the module that holds its `main`, and what it does.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "look at a folder of images and write a configuration file that trains on it"),
    "train": ("train", "learn a concept from a few images"),
    "demo": ("demo", "learn the concept that comes with the package, in about a minute, without a download"),
    "generate": ("generate", "draw images with a base model and learned embeddings"),
    "convert": ("convert", "convert an embedding file into another program's form, or show what is in one"),
    "convert-pipeline": (
        "convert_pipeline",
        "write a model with its embeddings as a PyTorch pipeline folder",
    ),
    "prepare": ("prepare", "crop, split and mirror images for training"),
    "caption": ("caption", "write a caption beside every image"),
    "report": ("report", "write the pages of a run anew"),
    "watch": ("watch", "show a run in the browser while it goes on"),
    "web": ("web", "serve a page in the browser that starts runs, watches them and gives their results"),
    "push": ("push", "upload a finished run to the Hugging Face Hub"),
    "completion": ("completion", "print a script with which bash, zsh or tcsh completes these commands"),
}


def usage() -> str:
    """What `ti-flax --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ti-flax COMMAND [--help] ...",
            "",
            "Textual Inversion for Stable Diffusion in JAX/Flax: teach a model a new word from a few images.",
            "",
            *lines,
            "",
            "Try it: ti-flax demo",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        return exit_code(lambda: print(usage()))
    if name == "--version":
        return exit_code(lambda: print(f"ti_flax {__version__}"))
    if name not in COMMANDS:
        return exit_code(lambda: _refuse(name))
    module = importlib.import_module(f"ti_flax.commands.{COMMANDS[name][0]}")
    return module.main(rest, f"ti-flax {name}")


def _refuse(name: str) -> None:
    close = nearest(name, COMMANDS)
    raise ConfigError(
        f"unknown command {name.partition('=')[0]!r}",
        remedy=f"Did you mean ti-flax {close}?" if close else f"Commands: {', '.join(COMMANDS)}.",
    )


def program() -> None:
    """The installed command `ti-flax`."""
    sys.exit(end_process(main()))


if __name__ == "__main__":
    program()
