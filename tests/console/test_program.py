"""How a program names another one of ours."""

import sys

import pytest

from ti_flax.console.program import started_alike


@pytest.mark.parametrize(
    ("started", "named"),
    [
        ("/home/me/.venv/bin/ti-flax", ["ti-flax", "push"]),
        ("train_flax.py", ["python", "scripts/push_to_hub.py"]),
        ("/usr/lib/python3/dist-packages/ipykernel_launcher.py", ["python", "scripts/push_to_hub.py"]),
    ],
)
def test_a_program_is_named_as_this_one_was_started(monkeypatch, started, named):
    monkeypatch.setattr(sys, "argv", [started, "train"])
    assert started_alike("push", "push_to_hub") == named
