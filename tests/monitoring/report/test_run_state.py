"""How far a run is by its folder: before its files are there, while it learns, and after it has gone."""

import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from report_pages import facts, run_folder

from ti_flax.files.written_files import last_run, only_run
from ti_flax.monitoring.report.run_state import state_of

METRICS = {"step": np.asarray([10.0, 20, 30]), "samples_per_second": np.asarray([1.0, 4, 4])}


@pytest.fixture
def at_work(tmp_path):
    """A folder that this process is at work in."""
    with only_run(tmp_path):
        yield tmp_path


def noted(folder, process, host, begun="2026-01-02 03:04:05+00:00"):
    with open(folder / "written_files.txt", "a") as file:
        file.write(f"# run of process {process} on {host}, {begun}\n")


def ended_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_run_at_work_is_the_last_of_the_list(at_work):
    run = last_run(at_work)
    assert run.process == os.getpid() and run.host == socket.gethostname() and run.is_at_work is True
    assert abs(run.begun - time.time()) < 60
    noted(at_work, ended_process(), socket.gethostname())
    assert last_run(at_work).is_at_work is False
    noted(at_work, 1, "elsewhere.example")
    assert last_run(at_work).is_at_work is None
    noted(at_work, 9999999999, socket.gethostname())
    assert last_run(at_work).is_at_work is True  # nothing is known of it


def test_looking_takes_no_lock(at_work):
    """Another process, which has no lock, could keep a run out of its folder."""
    code = "import sys, pathlib; from ti_flax.files.written_files import last_run as run; "
    code += "print(run(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, at_work], capture_output=True, text=True, check=True)
    assert f"process={os.getpid()}" in done.stdout


@pytest.mark.parametrize("text", ["", "mine", "process -1 on x, 2026-01-02 03:04:05", "process 1 on x, then"])
def test_what_no_run_wrote_is_no_run(tmp_path, text):
    assert last_run(tmp_path) is None
    with only_run(tmp_path):
        pass
    path = tmp_path / "written_files.txt"
    title = path.read_text().splitlines()[0]
    path.write_text(
        f"{title}\n# run of {text}\n"
        if text != "mine"
        else "mine\n# run of process 1 on x, 2026-01-02 03:04:05\n"
    )
    assert last_run(tmp_path) is None


@pytest.mark.parametrize(
    ("given", "metrics", "said", "share"),
    [
        (None, {}, "The run has begun: it reads the model and the images, and encodes them.", None),
        (facts(), {}, "All is read; the update is being compiled. The first of 200 steps is to come.", 0.0),
        (facts(), METRICS, "Step 30 of 200, 5:40 left.", 0.15),
        (facts(config={"max_train_steps": "auto"}), METRICS, "Step 30, of 200 at most.", 0.15),
        (
            facts(steps=30),
            METRICS,
            "All 30 steps are made; the last images and the result are being written.",
            1.0,
        ),
        (facts(finished=True), METRICS, "The run is finished.", None),
    ],
)
def test_what_there_is_to_say(at_work, given, metrics, said, share):
    if given is not None:
        given.write(at_work)
    state = state_of(at_work, given, metrics)
    assert str(state) == said and state.share == share
    assert state.goes_on == (said != "The run is finished.") and state.silence < 60


def test_a_run_that_has_gone_says_how_it_goes_on(at_work):
    noted(at_work, ended_process(), socket.gethostname())
    facts().write(at_work)
    state = state_of(at_work, facts(), METRICS)
    assert str(state) == (
        "No run is at work in this folder now: it stopped at step 30 of 200. The same command with "
        "--resume_from_checkpoint auto goes on."
    )
    assert "before its first update" in str(state_of(at_work, facts(), {}))
    assert str(state_of(at_work, facts(finished=True), METRICS)) == "The run is finished."


def test_what_the_run_before_has_left_counts_no_more_once_another_has_begun(at_work):
    run_folder(at_work, finished=True)
    assert not state_of(at_work, facts(finished=True), METRICS).goes_on
    os.utime(at_work / "run.json", (0, time.time() - 1000))
    state = state_of(at_work, facts(finished=True), METRICS)
    assert state.goes_on and "it reads the model" in str(state)


def test_a_folder_without_a_list_says_what_its_files_say(tmp_path):
    facts().write(tmp_path)
    state = state_of(tmp_path, facts(), METRICS)
    assert state.at_work is None and str(state) == "Step 30 of 200, 5:40 left."
    odd = {"step": np.asarray([np.nan]), "samples_per_second": np.asarray([np.inf])}
    assert "The first of 200" in str(state_of(tmp_path, facts(), odd))
