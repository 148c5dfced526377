"""One run on several processes, each a process of its own here: the same rows, written once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_folder import write_folder, write_pictures

from ti_flax.config import RunConfig
from ti_flax.errors import ConfigError
from ti_flax.export.learned_embeds import load_learned_embeds
from ti_flax.signals import read_signals

ROOT = Path(__file__).resolve().parent.parent


def start(place, output, *flags, devices):
    command = [
        sys.executable,
        str(ROOT / "train_flax.py"),
        "--pretrained_model_name_or_path",
        place / "model",
    ]
    command += [
        "--train_data_dir",
        place / "pictures",
        "--output_dir",
        output,
        "--placeholder_token",
        "<thing>",
    ]
    command += ["--initializer_token", "toy", "--resolution", "32", "--seed", "3", "--learning_rate", "1e-2"]
    command += ["--lr_scheduler", "constant", "--only_save_embeds", "--report_to", "none", *flags]
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(
        [str(part) for part in command], env=environment, stderr=subprocess.PIPE, text=True, cwd=place
    )


def ended(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return errors


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def run_on_two(place, outputs, *flags):
    address = free_address()
    processes = [
        start(
            place,
            output,
            *("--multi_host", "--coordinator_address", address, "--num_processes", 2, "--process_id", index),
            *flags,
            devices=2,
        )
        for index, output in enumerate(outputs)
    ]
    return [ended(process) for process in processes]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("hosts")
    write_folder(place / "model")
    write_pictures(place / "pictures")
    return place


def test_two_processes_learn_what_one_does_and_the_first_writes(place):
    batch = ("--train_batch_size", 1, "--max_train_steps", 4, "--checkpointing_steps", 2, "--eval_steps", 0)
    ended(start(place, place / "one", *batch, devices=4))
    outputs = [place / "first", place / "second"]
    spoken, quiet = run_on_two(place, outputs, *batch, "--steps_per_call", 1)
    one, two = (
        load_learned_embeds(place / name / "learned_embeds.safetensors")[1] for name in ("one", "first")
    )
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
    assert "compiling for 4 x cpu" in spoken and "done in" in spoken
    assert "compiling" not in quiet and not outputs[1].exists()

    # Only the first process needs the checkpoint to go on from.
    (place / "first" / "learned_embeds.safetensors").unlink()
    spoken, _ = run_on_two(
        place, outputs, *batch, "--resume_from_checkpoint", "checkpoint-2", "--steps_per_call", 2
    )
    assert "resuming from" in spoken
    again = load_learned_embeds(place / "first" / "learned_embeds.safetensors")[1]
    assert again.tobytes() == two.tobytes()


def test_an_early_end_is_one_for_every_process_and_the_first_evaluates_alone(place):
    outputs = [place / "early", place / "early-second"]
    early = ("--early_stopping", "--early_stopping_patience", 1, "--early_stopping_threshold", 9)
    steps = ("--train_batch_size", 1, "--max_train_steps", 9, "--eval_steps", 2, "--max_eval_samples", 4)
    spoken, quiet = run_on_two(place, outputs, *steps, *early)
    assert "step 4: early_stopping ends the run" in spoken and "early" not in quiet
    assert (place / "early" / "checkpoint-4").is_dir() and not outputs[1].exists()
    assert [each.step for each in read_signals(place / "early" / "signals.csv")] == [0, 2, 4]


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
    required = {"pretrained_model_name_or_path": "m", "train_data_dir": "p", "placeholder_token": "<t>"}
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(required | {"initializer_token": "toy"} | options)
