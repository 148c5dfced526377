"""Programs that outlive the page: found again by the lock on their log, and stopped as themselves alone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ti_flax.errors import OutputError
from ti_flax.web.runs import processes
from ti_flax.web.runs.processes import Program, Started, environment, output_of

SLEEPS = "import signal, sys, time; print('begun', flush=True); time.sleep(60)"


@pytest.fixture
def sleeping(tmp_path, monkeypatch):
    """A program that says a word and then sleeps, until the test ends."""
    monkeypatch.setattr(processes, "command", lambda arguments, _: [sys.executable, "-c", *arguments])
    program = Program(tmp_path)
    yield program
    if program.is_at_work:
        os.kill(program.started.process, signal.SIGKILL)


def wait_until(holds, seconds=30):
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_program_is_found_again_and_ends_by_sigterm(sleeping, tmp_path):
    assert not sleeping.is_at_work and sleeping.started is None and not sleeping.ask_to_end()
    sleeping.start([SLEEPS], tmp_path)
    again = Program(tmp_path)  # as after a new start of the page
    assert again.is_at_work and again.started.arguments == (SLEEPS,)
    wait_until(lambda: "begun" in again.said())
    with pytest.raises(OutputError, match="nothing at work in it"):
        processes._TRIES, tries = 2, processes._TRIES
        try:
            again.start([SLEEPS], tmp_path)
        finally:
            processes._TRIES = tries
    assert os.getsid(again.started.process) == again.started.process  # no Ctrl-C of the page's reaches it
    assert again.ask_to_end()
    wait_until(lambda: not again.is_at_work)
    assert not again.ask_to_end()


def test_an_ended_program_says_its_error_and_only_that_of_its_last_start(sleeping, tmp_path):
    sleeping.start(["import sys; print('error: old', file=sys.stderr)"], tmp_path)
    wait_until(lambda: not sleeping.is_at_work)
    assert sleeping.error == "old"
    code = "import sys; print('\\x1b[31m'); print('error: seed: found <x>', file=sys.stderr); sys.exit(2)"
    sleeping.start([code], tmp_path)
    wait_until(lambda: not sleeping.is_at_work)
    assert sleeping.error == "seed: found <x>" and "old" not in sleeping.said()
    assert "\x1b" not in sleeping.said()
    sleeping.start(["pass"], tmp_path)
    wait_until(lambda: not sleeping.is_at_work)
    assert sleeping.error == "" and sleeping.said() == ""


def test_somebody_elses_process_is_never_signalled(sleeping, tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        Program(tmp_path)._note.write_text(f'{{"arguments": ["train"], "process": {other.pid}}}')
        (tmp_path / "run.log").touch()
        assert not sleeping.is_at_work and not sleeping.ask_to_end()
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize(
    "note",
    ["", "[]", "{", '{"process": 1}', '{"arguments": 3, "process": 1}', '{"arguments": [], "process": "x"}'],
)
def test_a_damaged_note_is_none(tmp_path, note):
    (tmp_path / "run.json").write_text(note)
    assert Program(tmp_path).started is None


def test_a_log_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "run.log").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic link"):
        Program(tmp_path).start(["--version"], tmp_path)
    assert not (tmp_path / "other").exists()


def test_a_command_is_answered_from_any_folder_and_imports_nothing_from_it(tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise SystemExit(9)")
    (tmp_path / "argparse.py").write_text("raise SystemExit(9)")
    code, said, error = output_of(["--version"], tmp_path, 60)
    assert (code, error) == (0, "") and said.startswith("ti_flax ")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "x")
    assert "GRADIO_TEMP_DIR" not in environment()
    with pytest.raises(OutputError, match="an answer within 0 seconds"):
        output_of(["--version"], tmp_path, 0)


def test_what_is_started_is_written_down(tmp_path):
    assert Started(("a",), 3) == Started(arguments=("a",), process=3, log_from=0)
