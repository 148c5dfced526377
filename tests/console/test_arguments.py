"""Every program says in one line which of its arguments is wrong, what it expected and what it found."""

import argparse
from pathlib import Path

import pytest

from ti_flax.console.arguments import ArgumentParser
from ti_flax.errors import ConfigError


def made() -> ArgumentParser:
    parser = ArgumentParser(prog="draw", allow_abbrev=True)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--step_size", type=float, nargs="+")
    parser.add_argument("-s", "--sampler", choices=("ddim", "euler"))
    parser.add_argument("--port", type=_port)
    parser.add_argument("--mix", nargs=3)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quiet", action="store_true")
    which.add_argument("--verbose", action="store_true")
    return parser


def _port(text: str) -> int:
    raise argparse.ArgumentTypeError(f"expected a port, found {text!r}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "x"], "--steps: expected a whole number, found 'x'"),
        (["--steps=2.0"], "--steps: expected a whole number, found '2.0'"),
        (["--step_size", "1", "y"], "--step_size: expected a number, found 'y'"),
        (
            ["-s", "eular"],
            "--sampler: expected one of ddim, euler, found 'eular'. Did you mean euler?",
        ),
        (["--port", "q"], "--port: expected a port, found 'q'"),
        (
            ["--steps"],
            "--steps: expected a whole number, found no value. "
            "A value that begins with - is written --steps=VALUE.",
        ),
        (
            ["--sampler"],
            "--sampler: expected one of ddim, euler, found no value. "
            "A value that begins with - is written --sampler=VALUE.",
        ),
        (["--mix", "a", "b"], "--mix: expected 3 values, found another number of them"),
        (["--quiet=yes"], "--quiet takes no value"),
        (["--quiet", "--verbose"], "--verbose and --quiet exclude each other"),
        (["--ste", "3"], "--ste may mean --steps, --step_size. Write it in full."),
        (["--stps=hf_secret"], "unknown flag --stps. Did you mean --steps?"),
        (["--zzz"], "unknown flag --zzz. draw --help lists all flags."),
        (
            ["another"],
            "'another' belongs to no flag. Options are written --name value. draw --help lists all flags.",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message):
    with pytest.raises(ConfigError) as caught:
        made().parse_args(["a", *arguments])
    assert str(caught.value) == message


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError) as caught:
        made().parse_args([])
    assert str(caught.value) == "missing: FOLDER. draw --help lists all flags."
    parser = ArgumentParser(prog="draw", all_help="--help all")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--object")
    group.add_argument("--style")
    with pytest.raises(ConfigError) as caught:
        parser.parse_args([])
    assert str(caught.value) == "missing: --object or --style. draw --help all lists all flags."


def test_a_program_may_say_what_a_value_is():
    parser = ArgumentParser(prog="draw", expected={"--rate": "a number > 0"})
    parser.add_argument("--rate")
    with pytest.raises(ConfigError, match="^--rate: expected a number > 0, found no value"):
        parser.parse_args(["--rate"])


def test_what_is_right_is_read():
    read = made().parse_args(["a", "--steps", "3", "--step_size", "1", "2", "--quiet"])
    assert (read.folder, read.steps, read.step_size, read.quiet) == (Path("a"), 3, [1.0, 2.0], True)
    assert made().parse_known_args(["a", "--zzz", "1"])[1] == ["--zzz", "1"]
