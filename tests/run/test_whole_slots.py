"""Slots on several devices: whole on one each, or shared by all, with what each concept learns alone."""

import jax
import numpy as np
import pytest
from many_runs import NAMES, configure_many, listed
from tiny_folder import write_images
from tiny_run import learned

from ti_flax.errors import ConfigError
from ti_flax.run import train as run
from ti_flax.run.many import queue, teaching
from ti_flax.run.many.teaching import slots_for
from ti_flax.training.devices import Slots

DEVICE = jax.devices()[:1]
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@pytest.fixture(scope="module")
def place(place):
    write_images(place / "five", count=5)
    return place


def taught_on(slots, config, monkeypatch):
    """The rows of each concept, and the text of the compiled update."""
    begun = []
    begin_teaching = queue.begin_teaching

    def begin(*given, **named):
        begun.append(begin_teaching(*given, **named))
        return begun[-1]

    monkeypatch.setattr(teaching, "slots_for", lambda *given: slots)
    monkeypatch.setattr(queue, "begin_teaching", begin)
    folder = run.train(config)
    return {name: learned(folder / name) for name in NAMES}, begun[0].compiling.program().as_text()


def arrangements():
    devices = jax.devices()
    return {
        "one device": Slots(2, devices[:1]),
        "a slot on each of two": Slots(2, devices[:2], whole=True),
        "two slots on each of two": Slots(4, devices[:2], whole=True),
        "both slots on four that share batches": Slots(2, devices[:4]),
    }


@pytest.fixture(scope="module")
def on_one(place, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        config = configure_many(place, tmp_path_factory.mktemp("one"), listed(place))
        return taught_on(arrangements()["one device"], config, patched)


@pytest.mark.parametrize("name", [name for name in arrangements() if name != "one device"])
def test_where_slots_are_changes_rounding_alone(place, on_one, tmp_path, monkeypatch, name):
    slots = arrangements()[name]
    found, text = taught_on(slots, configure_many(place, tmp_path, listed(place)), monkeypatch)
    for concept, rows in on_one[0].items():
        assert np.linalg.norm(found[concept] - rows) <= 1e-5 * np.linalg.norm(rows)
    between = [each for each in COLLECTIVES if f" {each}(" in text or f" {each}-start(" in text]
    assert between == ([] if slots.whole else ["all-reduce"])


@pytest.mark.parametrize(
    ("concepts", "at_once", "batch", "count", "devices", "whole"),
    [
        (60, None, 4, 56, 8, True),  # up to eight side by side, the same number on each
        (60, 8, 4, 8, 8, True),
        (60, 20, 4, 16, 8, True),
        (9, None, 4, 8, 8, True),
        (3, None, 4, 3, 4, False),
        (60, 1, 6, 1, 6, False),
        (2, None, 1, 2, 1, False),
    ],
)
def test_slots_are_dealt_out_whole_where_there_are_enough(concepts, at_once, batch, count, devices, whole):
    slots = slots_for(concepts, at_once, batch)
    assert (slots.count, len(slots.devices), slots.whole) == (count, devices, whole)


def test_as_many_learn_at_once_as_fit(place, tmp_path, monkeypatch, capsys):
    """The update of two takes more than there is, and that of one does not."""

    def needed(compiling):
        assert compiling.program() is not None
        return {2: 10, 1: 9}[begun.pop().slots]

    def compiling(step_config, *given):
        begun.append(step_config)
        return compilation(step_config, *given)

    begun, compilation = [], teaching.compilation
    monkeypatch.setattr(teaching, "compilation", compiling)
    monkeypatch.setattr(teaching, "needed_memory", needed)
    monkeypatch.setattr(teaching, "memory_of_device", lambda devices: 10.0)
    monkeypatch.setattr(teaching, "slots_for", lambda concepts, at_once, batch: Slots(at_once or 2, DEVICE))
    run.train(configure_many(place, tmp_path / "auto", listed(place), concepts_at_once=None))
    assert "3 concepts, 1 at once on 1 x cpu: 0.0 KiB of 0.0 KiB each" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="^concepts_at_once: expected concepts .* found 2 on each of 1"):
        run.train(configure_many(place, tmp_path / "asked", listed(place), concepts_at_once=2))
    assert not (tmp_path / "asked" / "one").exists()
