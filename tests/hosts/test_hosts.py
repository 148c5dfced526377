"""One run on several processes, each a process of its own here: the same rows, written once, and one end."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from host_runs import ended, free_address, rows_of, run_on_two, start, start_several
from tiny_folder import write_folder, write_pictures

from ti_flax.config import RunConfig
from ti_flax.errors import START_AGAIN, ConfigError, OutputError, Stopped
from ti_flax.hosts import group as hosts
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.monitoring.host_agreement import AgreeOnState, check_state
from ti_flax.monitoring.row_statistics import read_evaluations
from ti_flax.run import inputs as materials
from ti_flax.run.inputs import load_inputs
from ti_flax.training.step import TrainState

REQUIRED = {
    "pretrained_model_name_or_path": "m",
    "train_data_dir": "p",
    "placeholder_token": "<t>",
    "initializer_token": "toy",
}
FOUR_STEPS = ("--train_batch_size", 1, "--max_train_steps", 4, "--checkpointing_steps", 2, "--eval_steps", 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("hosts")
    write_folder(place / "model")
    write_pictures(place / "pictures")
    return place


@pytest.fixture(scope="module")
def undisturbed(place):
    """The rows of two processes that nothing happened to, and what they said."""
    outputs = [place / "first", place / "second"]
    said = run_on_two(place, outputs, *FOUR_STEPS, "--steps_per_call", 1)
    assert not outputs[1].exists()
    return rows_of(outputs[0]), said


def test_two_processes_learn_what_one_does_and_the_first_writes(place, undisturbed):
    ended(start(place, place / "one", *FOUR_STEPS, devices=4))
    two, (spoken, quiet) = undisturbed
    np.testing.assert_allclose(two, rows_of(place / "one"), rtol=1e-4, atol=1e-6)
    assert "compiling for 4 x cpu" in spoken and "done in" in spoken
    assert quiet == ""


def killed_while_others_compute(place, outputs, victim, *flags):
    """Kills one of two processes, and returns what the other one said and the seconds until its end."""
    stuck = place / f"stuck-{victim}"
    happens = {victim: {"TEST_AT": f"2 stuck {stuck}"}}
    processes = start_several(place, outputs, *flags, environments=happens)
    while not stuck.exists():
        assert processes[victim].poll() is None, processes[victim].communicate()
        time.sleep(0.05)
    processes[victim].kill()
    killed = time.monotonic()
    errors = ended(processes[1 - victim], START_AGAIN)
    seconds = time.monotonic() - killed
    ended(processes[victim], -signal.SIGKILL)
    return errors, seconds


def test_a_run_stopped_and_killed_on_either_host_and_started_again_ends_with_the_same_bits(
    place, undisturbed
):
    outputs = [place / "again", place / "again-second"]
    flags = (*FOUR_STEPS, "--steps_per_call", 1, "--resume_from_checkpoint", "auto", "--host_timeout", 60)

    said = run_on_two(place, outputs, *flags, code=START_AGAIN, environments={1: {"TEST_AT": "1 term"}})
    assert all("stopped after step 1" in each for each in said)
    assert (place / "again" / "checkpoint-1").is_dir()

    errors, seconds = killed_while_others_compute(place, outputs, 1, *flags)
    assert "error: host 1 is gone: its connection was closed" in errors and "Traceback" not in errors
    assert seconds < 30  # of the 60 of host_timeout

    errors, seconds = killed_while_others_compute(place, outputs, 0, *flags)
    assert "error: host 0 is gone: its connection was closed" in errors and "Traceback" not in errors
    assert seconds < 30

    run_on_two(place, outputs, *flags)
    assert rows_of(place / "again").tobytes() == undisturbed[0].tobytes()


def test_an_early_end_is_one_for_every_process_and_the_first_evaluates_alone(place):
    outputs = [place / "early", place / "early-second"]
    early = ("--early_stopping", "--early_stopping_patience", 1, "--early_stopping_threshold", 9)
    steps = ("--train_batch_size", 1, "--max_train_steps", 9, "--eval_steps", 2, "--max_eval_samples", 4)
    spoken, quiet = run_on_two(place, outputs, *steps, *early)
    assert "step 4: early_stopping ends the run" in spoken and "early" not in quiet
    assert (place / "early" / "checkpoint-4").is_dir() and not outputs[1].exists()
    assert [each.step for each in read_evaluations(place / "early" / "signals.csv")] == [0, 2, 4]


def test_what_is_wrong_on_one_host_ends_all_with_its_message(place):
    outputs = [place / "wrong", place / "wrong-second"]
    missing = {1: ("--train_data_dir", place / "elsewhere")}
    for errors in run_on_two(place, outputs, *FOUR_STEPS, code=2, own=missing):
        (error,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert error.startswith("error: host 1: ") and f"{place}/elsewhere" in error
        assert "Traceback" not in errors


def test_a_host_that_was_told_otherwise_is_named_before_anything_is_read(place):
    outputs = [place / "other", place / "other-second"]
    for errors in run_on_two(place, outputs, *FOUR_STEPS, code=2, own={1: ("--max_train_steps", 5)}):
        assert errors == (
            "error: multi_host: expected the same on all hosts, "
            "found max_train_steps 5 (host 0: 4) on host 1\n"
        )


def test_a_host_that_never_comes_is_named(place):
    flags = ("--multi_host", "--coordinator_address", free_address(), "--num_processes", 2, "--process_id", 0)
    errors = ended(start(place, place / "alone", *flags, "--host_timeout", 1, devices=2), 2)
    assert errors == (
        "error: multi_host: expected all 2 hosts within 1 s, found no sign of host 1. "
        "Start all of them, or raise host_timeout.\n"
    )


class Line:
    """Stands for the line to other hosts: what one of them says it has, and what this one told them."""

    index, timeout, asked_to_end = 0, 5, False

    def __init__(self, *others):
        self.others, self.told = others, None

    def meet(self, what, value=None, *, limit=None):
        return [value, *self.others]

    def fail(self, text, code):
        self.told = text, code
        raise SystemExit(code)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OutputError("disk", found="full"), ("disk: found full", 2)),
        (
            RuntimeError("RESOURCE_EXHAUSTED: memory\nand more"),
            ("RuntimeError: RESOURCE_EXHAUSTED: memory", 1),
        ),
        (Stopped("SIGTERM: stopped"), ("SIGTERM: stopped", START_AGAIN)),
        (KeyboardInterrupt(), ("interrupted", 130)),
    ],
)
def test_whatever_ends_one_host_is_told_the_others(monkeypatch, capfd, error, told):
    monkeypatch.setattr(hosts, "_SECOND_THOUGHTS", 0)
    line = Line()
    with pytest.raises(SystemExit), hosts.ending_all(line):
        raise error
    assert line.told == told
    assert ("Traceback" in capfd.readouterr().err) == isinstance(error, RuntimeError)


def test_a_stop_that_all_have_agreed_on_is_no_error():
    line = Line([3, True])
    with hosts.on_line(line):
        assert hosts.agree_on_steps(5, False) is None
    with pytest.raises(Stopped), hosts.ending_all(line):
        raise Stopped("after step 3")
    assert line.told is None


def state_of(value):
    return TrainState(np.full((1, 4), value, np.float32), (np.zeros(3, np.float32),), np.int32(4), None)


def test_no_checkpoint_is_made_of_a_state_that_differs_and_the_host_is_named():
    digests = []
    with hosts.on_line(Line()) as line:
        line.meet = lambda what, value, limit: digests.append(value) or [value]
        for value in (1.0, 2.0):
            check_state(4, state_of(value))
    good, bad = digests
    with hosts.on_line(Line(good, good)):
        AgreeOnState(every=2, last_step=9).on_step(4, state_of(1.0))
    message = r"the state after step 4: .* found vectors \w+ \(host 0: \w+\) on host 2"
    with hosts.on_line(Line(good, bad)), pytest.raises(ConfigError, match=message):
        AgreeOnState(every=2, last_step=9).on_step(4, state_of(1.0))
    with hosts.on_line(Line(good, bad)):  # where the first host's evaluation has ended the run
        AgreeOnState(every=3, last_step=9).on_step(4, state_of(1.0))


def test_other_hosts_keep_what_updates_need_and_learn_from_the_same(place, monkeypatch):
    options = {
        "pretrained_model_name_or_path": str(place / "model"),
        "train_data_dir": str(place / "pictures"),
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "resolution": 32,
        "seed": 3,
        "validation_prompt": "a <thing>",
    }
    config = RunConfig.from_dict(options)
    first = load_inputs(config)
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    other = load_inputs(config)
    assert set(first.model.params) - set(other.model.params) == {"vae"}
    assert first.images.groups and not other.images.groups
    assert other.fingerprint == first.fingerprint
    assert carried_by(config) == ()
    monkeypatch.undo()
    assert "safety_checker" in carried_by(config)


def carried_by(config):
    """What a host asks the Hub for beside the parts that every run needs."""
    asked = []

    def find_none(options, components):
        asked.extend(components)
        return ModelSource(Path())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(materials, "find_base_model", find_none)
        patched.setattr(materials, "load_stable_diffusion", lambda *arguments, **named: None)
        patched.setattr(materials, "carried_parts", lambda place: None)
        materials.read_model(config)
    return tuple(part for part in asked if part not in materials.MODEL_PARTS)


def test_a_process_among_others_that_nobody_told_so_warns(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with hosts.joined(RunConfig.from_dict(REQUIRED).hosts, {}):
        pass
    assert "warning: SLURM has started 4 processes, and this one runs alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_processes": 2}, "coordinator_address, process_id"),
        ({"coordinator_address": "a:1", "num_processes": 2, "process_id": 1}, "multi_host"),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2, "multi_host": True},
            r"process_id: expected less than num_processes \(2\)",
        ),
    ],
)
def test_incomplete_descriptions_of_the_processes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(REQUIRED | options)
