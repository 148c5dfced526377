"""Runs that wait: in a file of the work folder, started one after another by a process that outlives us."""

import json
import os
import signal
import sys

import pytest
from test_processes import wait_until
from web_pages import form

from ti_flax.errors import ConfigError, DataError, OutputError
from ti_flax.web import actions
from ti_flax.web.live import TAKE_OUT, live
from ti_flax.web.runs import processes, starter
from ti_flax.web.runs.processes import Program
from ti_flax.web.runs.view import look_at, queue
from ti_flax.web.runs.waiting import FILE, Queue, Waiting

SLEEPS = "import time; time.sleep(60)"


@pytest.fixture
def sleepers(work, monkeypatch):
    """Runs that sleep in place of learning, and a process that starts them which never comes."""
    woken = []
    monkeypatch.setattr(processes, "command", lambda *given: [sys.executable, "-c", SLEEPS])
    monkeypatch.setattr(Queue, "_wake", lambda self: woken.append(self))
    yield woken
    for name in work.run_names():
        end(work, name)


def end(work, name):
    program = Program(work.runs / name)
    if program.is_at_work:
        os.kill(program.started.process, signal.SIGKILL)
    wait_until(lambda: not program.is_at_work)


def states(work):
    return {line[0]: line[2] for line in queue([work.runs / name for name in work.run_names()])}


def test_a_second_run_waits_and_starts_when_the_first_has_ended(work, sleepers):
    names = [actions.start(work, form()) for _ in range(3)]
    assert states(work) == dict(zip(names, ("learning", "waiting", "waiting"), strict=True))
    assert queue([work.runs / names[1]])[0][1] == "<ruby>" and len(sleepers) == 2
    line = Queue(work.root)
    assert line.start_next() and states(work)[names[1]] == "waiting"  # the first one is at work
    end(work, names[0])
    assert actions.start(work, form()) == "ruby-4"  # behind those that wait, though nothing is at work
    assert line.start_next() and line.at_work() == names[1]
    assert [each.run for each in line.waiting()] == [names[2], "ruby-4"]
    assert Program(work.runs / names[1]).started.arguments == tuple(
        form().arguments(work, work.runs / names[1] / "output")
    )
    assert states(work)[names[0]] == "stopped"


def test_a_run_that_waits_says_so_and_can_be_taken_out(work, sleepers):
    names = [actions.start(work, form()) for _ in range(3)]
    seen = look_at(work.runs / names[2])
    assert "and then 1 that waits longer" in seen.state and not seen.can_go_on
    changes, seen, _ = live(work, names[2], {}, 1, None)
    assert changes["stop"] == {"value": TAKE_OUT, "interactive": True, "__type__": "update"}
    assert actions.stop(work, names[1]) == "ruby-2 no longer waits."
    assert work.run(names[1]) is None
    assert "then" not in look_at(work.runs / names[2]).state
    assert live(work, names[2], seen, 1, None)[1] is not seen
    assert [each.run for each in Queue(work.root).waiting()] == [names[2]]


def test_a_stopped_run_goes_on_in_the_queue_and_its_files_stay_when_it_is_taken_out(work, sleepers):
    first = actions.start(work, form())
    end(work, first)
    assert actions.start(work, form()) == "ruby-2"
    actions.go_on(work, first)
    [entry] = Queue(work.root).waiting()
    assert entry.run == first and entry.arguments[-1] == "--resume_from_checkpoint=auto"
    for name in (first, "ruby-2"):
        with pytest.raises(OutputError, match="expected one that is not at work and does not wait"):
            actions.go_on(work, name)
    assert look_at(work.runs / first).waits
    actions.stop(work, first)
    assert (work.runs / first / "run.json").exists() and states(work)[first] == "stopped"


def test_wrong_options_are_refused_before_they_wait(work, sleepers):
    actions.start(work, form())
    with pytest.raises(ConfigError, match="learning_rate"):
        actions.start(work, form(options={"learning_rate": "x"}))
    assert Queue(work.root).waiting() == [] and work.run_names() == ["ruby"]


def test_what_cannot_be_started_fails_and_the_next_one_is_started(work, monkeypatch, sleepers):
    line, (first, second) = Queue(work.root), (work.new_run("<a>"), work.new_run("<b>"))
    line._write([Waiting("gone", ("train",)), Waiting(first.name, ("train",)), Waiting(second.name, ())])
    (first / "run.json").mkdir()  # which cannot be written then
    (first / "run.log").symlink_to("/dev/null")
    assert line.start_next() and line.start_next()
    assert not line.start_next() and line.at_work() == second.name
    (first / "run.log").unlink()
    Program(first).note_error("a\nb")
    assert states(work)[first.name] == "failed"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"waiting": 1}', '{"waiting": [{"run": "a"}]}']
    + [f'{{"waiting": [{{"run": {name}, "arguments": []}}]}}' for name in ('"../x"', '".."', '""', "1")]
    + ['{"waiting": [{"run": "a", "arguments": "x"}]}', '{"waiting": [{"run": "a", "arguments": [1]}]}'],
)
def test_a_damaged_queue_is_said_and_kept(work, sleepers, text):
    (work.root / FILE).write_text(text)
    with pytest.raises(DataError, match=r"queue.json: expected the runs that wait"):
        actions.start(work, form())
    assert (work.root / FILE).read_text() == text and work.run_names() == []
    assert Queue(work.root).waiting() == []


def test_a_process_of_its_own_starts_all_that_wait(work):
    """Also after a new start of the page, which only has to wake it."""
    line, names = Queue(work.root), [work.new_run("<a>").name for _ in range(2)]
    line._write([Waiting(name, ("--version",)) for name in names])
    line.wake()
    line.wake()  # there is one already
    logs = [Program(work.runs / name) for name in names]
    wait_until(lambda: all("ti_flax" in log.said() for log in logs), 120)
    begun = Program(work.root, "starter")
    wait_until(lambda: not begun.is_at_work)
    assert json.loads((work.root / FILE).read_text()) == {"waiting": []} and begun.said() == ""
    line.wake()  # nothing waits: nothing is started
    assert Program(work.root, "starter").started == begun.started and not begun.is_at_work


def test_it_lets_its_lock_go_before_anybody_can_add_a_run(work, monkeypatch):
    order = []
    monkeypatch.setattr(starter, "_let_go", lambda: order.append("let go"))
    monkeypatch.setattr(starter.fcntl, "flock", lambda *_: None)
    starter.work_off(work.root)
    assert order == ["let go"]
