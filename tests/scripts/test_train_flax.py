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
    monkeypatch.syspath_prepend(str(ROOT))
    import train_flax

    def stop(argv):
        raise KeyboardInterrupt

    assert train_flax.main(["--nothing"]) == 2
    monkeypatch.setattr(train_flax, "parse_config", stop)
    assert train_flax.main([]) == 130
    asked = Stopped("stopped after step 3")
    monkeypatch.setattr(train_flax, "parse_config", lambda argv: (_ for _ in ()).throw(asked))
    assert train_flax.main([]) == 75
    monkeypatch.setattr(train_flax, "parse_config", lambda argv: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_flax.main([])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: unknown flag --nothing")
    assert lines[1:] == ["interrupted", "stopped after step 3"]
