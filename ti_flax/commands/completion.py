"""Print a script with which a shell completes commands, options, their values, and names of files."""

import argparse
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ti_flax.config.flags import ALL, make_parser
from ti_flax.config.run_config import GROUPS, OPTIONS
from ti_flax.config.values import Option
from ti_flax.console.arguments import ArgumentParser
from ti_flax.console.program import exit_code
from ti_flax.errors import ConfigError

SHELLS = ("bash", "zsh", "tcsh")
# Commands that take the options of a training.
_TRAINING = ("train", "demo")
# What stands for a value that is a file or folder, in the commands' own help.
_FILES = ("FILE", "FILE.yaml", "MODEL", "VAE", "ID_OR_PATH", "ID_OR_FOLDER", "FOLDER_OR_ID", "FOLDER_OR_FILE")
_FILES += ("SOURCE", "[TOKEN=]FILE")
_FOLDERS = ("FOLDER", "DIR")
_EPILOG = """\
For the current shell, and for all later ones:
  bash  source <(ti-flax completion bash)
        ti-flax completion bash > ~/.local/share/bash-completion/completions/ti-flax
  zsh   ti-flax completion zsh > DIR/_ti-flax, where DIR is in $fpath; then start zsh anew
  tcsh  ti-flax completion tcsh > ~/.ti-flax.tcsh; source ~/.ti-flax.tcsh, in ~/.tcshrc too"""


def parse_arguments(argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="that the script is for")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Prints the script.

    Raises:
      ConfigError: the package that makes it is not installed.
    """
    try:
        shtab = importlib.import_module("shtab")
    except ImportError:
        raise ConfigError(
            "completion",
            expected="the Python package shtab, which makes the script",
            found="that it is not installed",
            remedy="Install it: pip install shtab.",
        ) from None
    parser = whole_parser(shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, shell=options.shell, root_prefix="ti_flax"))


def whole_parser(file: Any, folder: Any) -> argparse.ArgumentParser:
    """A parser of all commands, of which each argument says what it is completed with.

    Args:
      file: what `complete` of an argument is set to where it is the name of a file.
      folder: the same of a folder.
    """
    from ti_flax.commands.main import COMMANDS

    whole = argparse.ArgumentParser(prog="ti-flax")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers(dest="command")
    for name, (module, does) in COMMANDS.items():
        parser = _parser_of(name, module)
        for action in _actions(parser):
            _complete(action, file, folder)
        commands.add_parser(name, help=does, parents=[parser], add_help=False)
    return whole


def _parser_of(name: str, module: str) -> argparse.ArgumentParser:
    if name in _TRAINING:
        return make_parser(f"ti-flax {name}")
    if name == "completion":
        own = argparse.ArgumentParser()
        own.add_argument("shell", choices=SHELLS)
        return own
    return importlib.import_module(f"ti_flax.commands.{module}").make_parser(f"ti-flax {name}")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    yield from parser._actions  # which argparse has no public name for


def _complete(action: argparse.Action, file: Any, folder: Any) -> None:
    """Sets the values of an argument, or that they are files or folders."""
    option = OPTIONS.get(action.dest)
    if action.dest == "help" and action.nargs == "?":
        action.choices = [ALL, *GROUPS]
    elif option is not None and action.choices is None and action.nargs != 0:
        action.choices = values_of(option)
    if action.choices is None:
        if action.metavar in _FOLDERS:
            action.complete = folder  # type: ignore[attr-defined]
        elif action.metavar in _FILES or action.type is Path or (option is not None and option.rule.path):
            action.complete = file  # type: ignore[attr-defined]


def values_of(option: Option) -> list[str] | None:
    """What an option may be set to, where there are only a few texts."""
    if option.kind is bool:
        return ["true", "false"]
    return [*option.choices, *option.words] or None


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command with these arguments (None: those of the command line); returns the exit code."""
    return exit_code(lambda: run(parse_arguments(argv, prog)))
