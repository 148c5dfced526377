"""Signals to a real run in each phase: it ends in two seconds, and goes on later with the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from environment import xla_flags
from tiny_folder import write_folder, write_images

from ti_flax.embedding.learned_embeds import load_learned_embeds

PROCESS = Path(__file__).parents[1] / "support" / "held_process.py"
BEFORE = "stopped before the first update; nothing is lost, the same command goes on"
AFTER = "stopped after the last update; --resume_from_checkpoint auto writes what the result still lacks"
STEP = "compiling the update for 1 x cpu"


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """With a model whose update takes longer to compile than a run waits before it says so."""
    place = tmp_path_factory.mktemp("place")
    write_folder(place / "model", least=False)
    write_images(place / "pictures")
    return place


def start(place, output, cache="cache", **environment):
    flags = {
        "pretrained_model_name_or_path": place / "model",
        "train_data_dir": place / "pictures",
        "output_dir": output,
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "resolution": 32,
        "train_batch_size": 1,
        "max_train_steps": 2,
        "steps_per_call": 1,
        "checkpointing_steps": 1,
        "learning_rate": 1e-2,
        "seed": 3,
        "eval_steps": 0,
        "report_to": "none",
        "resume_from_checkpoint": "auto",
    }
    # The programs are in the cache that it says, not in that of all tests.
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, PROCESS, *(f"--{name}={value}" for name, value in flags.items())],
        env=inherited | {"XLA_FLAGS": xla_flags(1), "TI_FLAX_CACHE": str(place / cache)} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def signalled(process, line, number):
    """Sends a signal when a line is said; returns exit code, seconds until then, and the last line."""
    for said in process.stderr:
        if line in said:
            break
    else:
        pytest.fail(f"it never said {line}")
    time.sleep(0.3)  # from the line to the call that it is about
    process.send_signal(number)
    began = time.monotonic()
    code = process.wait(timeout=100)
    return code, time.monotonic() - began, process.stderr.read().splitlines()[-1]


def rows_of(folder):
    return load_learned_embeds(folder / "learned_embeds.safetensors")[1].tobytes()


@pytest.fixture(scope="module")
def whole(place):
    with start(place, place / "whole") as process:
        assert "done in" in process.communicate(timeout=300)[1]
    return rows_of(place / "whole")


def test_a_compilation_is_left_at_once(place, tmp_path):
    with start(place, tmp_path, cache="empty") as process:
        code, seconds, last = signalled(process, STEP, signal.SIGTERM)
    assert (code, last) == (75, f"SIGTERM: {BEFORE}") and seconds < 3


@pytest.mark.parametrize(
    ("held", "number", "code", "last"),
    [
        slow("ti_flax.run.inputs read_model", signal.SIGTERM, 75, f"SIGTERM: {BEFORE}"),
        slow("ti_flax.data.training_images encode_group", signal.SIGINT, 130, "interrupted"),
        slow("ti_flax.monitoring.progress Progress.on_start", signal.SIGHUP, 75, f"SIGHUP: {BEFORE}"),
        ("ti_flax.run.output_dir save_pipeline", signal.SIGTERM, 75, f"SIGTERM: {AFTER}"),
    ],
)
def test_every_phase_is_left_in_two_seconds_and_the_same_command_goes_on(
    place, whole, tmp_path, held, number, code, last
):
    with start(place, tmp_path, TEST_HELD=held) as process:
        found, seconds, said = signalled(process, "held", number)
    assert (found, said) == (code, last) and seconds < 3
    after = "save_pipeline" in held
    assert (tmp_path / "learned_embeds.safetensors").exists() is after
    with start(place, tmp_path) as process:
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0 and (STEP in said) is not after
    assert rows_of(tmp_path) == whole and (tmp_path / "model_index.json").exists()
    assert not list(tmp_path.glob(".unfinished-*"))
