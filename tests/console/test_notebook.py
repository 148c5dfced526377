"""What is different in the kernel of a notebook: commands to type are named, and errors are one line."""

import sys
import types

import pytest
from IPython.core.interactiveshell import InteractiveShell

from ti_flax.console.notebook import in_notebook
from ti_flax.console.program import started_alike
from ti_flax.errors import ConfigError, Stopped, TiFlaxError


def shell_is(monkeypatch, shell):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def test_a_kernel_is_told_from_other_pythons(monkeypatch):
    shell_is(monkeypatch, types.SimpleNamespace(kernel=None))
    assert in_notebook() and started_alike("push", "push_to_hub") == ["ti-flax", "push"]
    shell_is(monkeypatch, object())  # IPython on a terminal
    assert not in_notebook()
    shell_is(monkeypatch, None)  # imported by a program
    assert not in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ConfigError("--seed", expected="a number", found="'x'"),
            "error: --seed: expected a number, found 'x'",
        ),
        (Stopped("SIGINT: stopped after step 3"), "SIGINT: stopped after step 3"),
        (TiFlaxError("one"), "error: one"),
    ],
)
def test_below_a_cell_an_error_is_one_line(error, shown, capsys):
    def cell():
        raise error

    try:
        cell()
    except BaseException:
        InteractiveShell.showtraceback(InteractiveShell())
    assert capsys.readouterr().out.strip() == shown
