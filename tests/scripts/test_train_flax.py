"""The program: exit codes, one line for a mistake, and nothing heavy imported before it is printed."""

import pathlib
import subprocess
import sys
import time

import pytest

from ti_flax.errors import Stopped

ROOT = pathlib.Path(__file__).parents[2]


def test_parsing_imports_nothing_heavy():
    code = (
        "import sys; from ti_flax.config import parse_config; parse_config(sys.argv[1:]); "
        "print({'jax', 'numpy', 'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "--config", "configs/demo.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_program_prints_one_line_for_a_mistake():
    start = time.monotonic()
    command = [sys.executable, "train_flax.py", "--config", "configs/demo.yaml", "--sed=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown flag --sed. Did you mean --seed?\n"
    assert time.monotonic() - start < 5  # JAX has not been imported


def test_exit_codes(monkeypatch, capsys):
    from ti_flax.commands import train

    def fails_with(error):
        def parse(argv, prog):
            raise error

        monkeypatch.setattr(train, "parse_with_notes", parse)

    assert train.main(["--nothing"]) == 2
    fails_with(KeyboardInterrupt())
    assert train.main([]) == 130
    fails_with(Stopped("stopped after step 3"))
    assert train.main([]) == 75
    fails_with(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        train.main([])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: unknown flag --nothing")
    assert lines[1:] == ["interrupted", "stopped after step 3"]
