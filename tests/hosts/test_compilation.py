"""Programs that threads compile: in which order they are lowered, that they overlap, and what is said."""

import threading

import pytest

from ti_flax.hosts import compilation
from ti_flax.hosts.compilation import Compilation


class Device:
    platform = "tpu"


class Lowered:
    """Stands in for a lowered program; compiles when it may."""

    def __init__(self, name, may=None):
        self._name, self._may = name, may

    def compile(self):
        if self._may is not None:
            assert self._may.wait(10)
        return f"the program of {self._name}"


def test_programs_are_lowered_in_turn_and_compiled_side_by_side():
    lowered, may, third_is_lowered = [], threading.Event(), threading.Event()

    def lower(name, meanwhile=None):
        def act():
            lowered.append(name)
            if meanwhile is not None:
                meanwhile.set()
            return Lowered(name, may)

        return act

    holding = threading.Event()

    def slow():
        assert holding.wait(10)
        return lower("first")()

    first = Compilation(slow, [Device()], what="first")
    second = Compilation(lower("second"), [Device()], what="second", after=first)
    third = Compilation(lower("third", third_is_lowered), [Device()], what="third", after=second)
    assert lowered == [] and not first.ended
    holding.set()
    # All are lowered before any is compiled.
    assert third_is_lowered.wait(10) and lowered == ["first", "second", "third"]
    assert not (first.ended or second.ended or third.ended)
    may.set()
    assert [each.program() for each in (third, second, first)] == [
        f"the program of {name}" for name in ("third", "second", "first")
    ]
    assert first.ended


def test_what_goes_wrong_is_raised_where_the_program_is_wanted_and_holds_nothing_up():
    def fail():
        raise ValueError("no such shape")

    broken = Compilation(fail, [Device()], what="broken")
    whole = Compilation(lambda: Lowered("whole"), [Device()], what="whole", after=broken)
    assert whole.program() == "the program of whole"
    with pytest.raises(ValueError, match="no such shape"):
        broken.program()
    assert broken.ended


def test_a_compilation_that_lasts_is_said_and_one_that_is_read_is_not(monkeypatch, capsys):
    monkeypatch.setattr(compilation, "_READING", 0.01)
    may = threading.Event()
    slow = Compilation(lambda: Lowered("slow", may), [Device()], what="the update for 2 x cpu")
    threading.Timer(0.3, may.set).start()
    slow.program()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "compiling the update for 2 x cpu, the first time only"
    assert lines[1].startswith("compiled the update for 2 x cpu in 0.")
    slow.program()
    assert capsys.readouterr().err == ""
