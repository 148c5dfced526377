"""One run on several processes, each a process of its own here: the same rows, written once, and one end."""

import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from host_runs import ended, free_address, rows_of, run_on_two, start, start_several
from tiny_folder import write_folder, write_images
from tiny_vae import entries

from ti_flax.config import RunConfig
from ti_flax.errors import START_AGAIN, ConfigError
from ti_flax.hosts import group as hosts
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.monitoring.row_statistics import read_evaluations
from ti_flax.run import inputs as inputs
from ti_flax.run.inputs import load_inputs

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
    write_images(place / "pictures")
    return place


def four_steps_on_two(place, name, **special):
    outputs = [place / f"{name}-0", place / f"{name}-1"]
    said = run_on_two(place, outputs, *FOUR_STEPS, "--steps_per_call", 1, **special)
    assert not outputs[1].exists()
    return rows_of(outputs[0]), said


@pytest.fixture(scope="module")
def caches(place):
    """Folders for the encoded images of one process, and of two hosts."""
    return [place / f"cache-{name}" for name in ("one", "0", "1")]


@pytest.fixture(scope="module")
def own(caches):
    return {host: ("--latents_cache_dir", caches[1 + host]) for host in range(2)}


@pytest.fixture(scope="module")
def one_by_one(place, own):
    """What two processes learn in calls of one step, and what they say."""
    return four_steps_on_two(place, "one-by-one", own=own)


def test_two_processes_learn_what_one_does_and_the_first_writes(place, one_by_one):
    ended(start(place, place / "one", *FOUR_STEPS, devices=4))
    rows, (spoken, quiet) = one_by_one
    np.testing.assert_allclose(rows, rows_of(place / "one"), rtol=1e-4, atol=1e-6)
    assert "done in" in spoken
    assert quiet == ""


def test_hosts_share_the_encoding_and_calls_of_any_length_give_the_same_bits(place, caches, own, one_by_one):
    ended(start(place, place / "alone-cached", *FOUR_STEPS, "--latents_cache_dir", caches[0], devices=1))
    first, *others = [{path.name: path.read_bytes() for path in entries(cache)} for cache in caches]
    assert len(first) == 6 and all(other == first for other in others)
    outputs = [place / "shared-0", place / "shared-1"]
    # The same pictures: four virtual devices of one CPU may encode them with another last bit than two.
    run_on_two(place, outputs, *FOUR_STEPS, own=own)
    assert rows_of(outputs[0]).tobytes() == one_by_one[0].tobytes()


@pytest.mark.slow
def test_a_run_stopped_and_killed_on_either_host_and_started_again_ends_with_the_same_bits(place):
    undisturbed, _ = four_steps_on_two(place, "undisturbed")
    outputs = [place / "again", place / "again-second"]
    flags = (*FOUR_STEPS, "--steps_per_call", 1, "--resume_from_checkpoint", "auto")

    said = run_on_two(place, outputs, *flags, code=START_AGAIN, environments={1: {"TEST_AT": "1 term"}})
    assert all("stopped after step 1" in each for each in said)
    assert (place / "again" / "checkpoint-1").is_dir()

    for victim in (1, 0):
        killed_while_the_other_computes(place, outputs, victim, *flags)

    run_on_two(place, outputs, *flags)
    assert rows_of(place / "again").tobytes() == undisturbed.tobytes()


def killed_while_the_other_computes(place, outputs, victim, *flags):
    stuck = place / f"stuck-{victim}"
    processes = start_several(place, outputs, *flags, environments={victim: {"TEST_AT": f"2 stuck {stuck}"}})
    while not stuck.exists():
        assert processes[victim].poll() is None, processes[victim].communicate()
        time.sleep(0.05)
    processes[victim].kill()
    killed = time.monotonic()
    _, errors = processes[1 - victim].communicate(timeout=300)
    seconds, code = time.monotonic() - killed, processes[1 - victim].returncode
    ended(processes[victim], -signal.SIGKILL)
    aborted = errors.rfind("Terminating process because the JAX distributed service")
    reason = errors[aborted:][:600] if code == -signal.SIGABRT else errors[-600:]
    print(f"\nhost {victim} killed: the other ends after {seconds:.1f} s with {code}, saying\n{reason}")
    # Its devices may fail before JAX's service says why.
    assert (code == -signal.SIGABRT and aborted >= 0) or (code == 1 and "Traceback" in errors)
    assert seconds < 2 * hosts.HEARTBEAT_TIMEOUT


@pytest.mark.slow
def test_an_early_end_is_one_for_every_process_and_the_first_evaluates_alone(place):
    outputs = [place / "early", place / "early-second"]
    early = ("--early_stopping", "--early_stopping_patience", 1, "--early_stopping_threshold", 9)
    steps = ("--train_batch_size", 1, "--max_train_steps", 9, "--eval_steps", 2, "--max_eval_samples", 4)
    spoken, quiet = run_on_two(place, outputs, *steps, *early)
    assert "step 4: early_stopping ends the run" in spoken and "early" not in quiet
    assert (place / "early" / "checkpoint-4").is_dir() and not outputs[1].exists()
    assert [each.step for each in read_evaluations(place / "early" / "signals.csv")] == [0, 2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0, 1])
def test_what_is_wrong_on_one_host_ends_all_with_its_message(place, wrong):
    outputs = [place / "wrong", place / "wrong-second"]
    missing = {wrong: ("--train_data_dir", place / "elsewhere")}
    errors = run_on_two(place, outputs, *FOUR_STEPS, code=2, own=missing)
    (own,), (other,) = (
        [line for line in errors[host].splitlines() if "error: " in line] for host in (wrong, 1 - wrong)
    )
    assert own.startswith(f"error: train_data_dir {place}/elsewhere: found no such folder")
    assert other == own.replace("error: ", f"error: host {wrong}: ")
    assert "Traceback" not in "".join(errors)


@pytest.mark.slow
def test_a_host_that_was_told_otherwise_is_named_before_anything_is_read(place):
    outputs = [place / "other", place / "other-second"]
    for errors in run_on_two(place, outputs, *FOUR_STEPS, code=2, own={1: ("--max_train_steps", 5)}):
        assert errors == (
            "error: multi_host: expected the same on all hosts, "
            "found max_train_steps 5 (host 0: 4) on host 1\n"
        )


@pytest.mark.slow
def test_a_host_with_other_images_is_named(place):
    write_images(place / "others", count=2)
    outputs = [place / "seen", place / "seen-second"]
    own = {1: ("--train_data_dir", place / "others")}
    for errors in run_on_two(place, outputs, *FOUR_STEPS, code=2, own=own):
        assert "error: images, prompts and model: expected the same on all hosts, found " in errors
        assert " on host 1" in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_signal_before_the_updates_stops_all(place):
    outputs = [place / "soon", place / "soon-second"]
    said = run_on_two(place, outputs, *FOUR_STEPS, code=START_AGAIN, environments={1: {"TEST_AT": "0 term"}})
    assert all("SIGTERM: stopped before the first update" in each for each in said)
    assert "host 1: " in said[0]


@pytest.mark.slow
def test_an_exception_on_one_host_ends_all(place):
    outputs = [place / "raised", place / "raised-second"]
    said = run_on_two(place, outputs, *FOUR_STEPS, code=1, environments={1: {"TEST_AT": "1 raise"}})
    assert said[1].endswith("RuntimeError: asked to fail\n")
    assert said[0].endswith("RuntimeError: host 1: RuntimeError: asked to fail\n")


@pytest.mark.slow
def test_a_host_waits_for_the_others_as_long_as_it_is_told(place):
    flags = ("--multi_host", "--coordinator_address", free_address(), "--num_processes", 2, "--process_id", 0)
    errors = ended(start(place, place / "alone", *flags, "--host_timeout", 2, devices=2), -signal.SIGABRT)
    assert "DEADLINE_EXCEEDED" in errors


def test_a_place_that_cannot_be_used_is_an_error(place):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        flags = ("--multi_host", "--coordinator_address", address, "--num_processes", 2, "--process_id", 0)
        errors = ended(start(place, place / "taken", *flags, devices=2), 2)
    assert errors == (
        f"error: coordinator_address {address}: expected a port of this machine, the first of the run, that "
        "is free, found Address already in use. Give all processes another port.\n"
    )
    errors = ended(start(place, place / "nowhere", "--multi_host", devices=2), 2)
    (line,) = errors.splitlines()
    assert line.startswith("error: multi_host: expected a TPU slice, SLURM, Open MPI, Kubernetes, or")
    assert line.endswith("Elsewhere give coordinator_address, num_processes and process_id.")


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
        patched.setattr(inputs, "find_base_model", find_none)
        patched.setattr(inputs, "load_stable_diffusion", lambda *arguments, **named: None)
        patched.setattr(inputs, "carried_parts", lambda place: None)
        inputs.read_model(config)
    return tuple(part for part in asked if part not in inputs.MODEL_PARTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_processes": 2}, "^num_processes requires coordinator_address"),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 1},
            "^coordinator_address requires multi_host",
        ),
        (
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 2, "multi_host": True},
            r"process_id: expected less than num_processes \(2\)",
        ),
        *(
            (
                {"coordinator_address": address, "num_processes": 2, "process_id": 1, "multi_host": True},
                f"coordinator_address: expected HOST:PORT, found {address}$",
            )
            for address in ("host", "host:", ":12", "host:many", "host:70000", "host:0")
        ),
    ],
)
def test_incomplete_descriptions_of_the_processes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(REQUIRED | options)
