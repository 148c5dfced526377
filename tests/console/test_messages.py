"""What a run says: who sees which line, and how a stage reads in a log."""

import contextvars
import sys
import threading

import pytest

from ti_flax.console import messages
from ti_flax.console.messages import Display, Level, clock, detail, say, shown_on, stage, warn, watched


class Clock:
    """Stands in for the time of day; a test moves it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    made = Clock()
    monkeypatch.setattr(messages.time, "perf_counter", made)
    return made


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        (Level.ALWAYS, ["warning: smoke"]),
        (Level.NORMAL, ["hello", "warning: smoke"]),
        (Level.DETAIL, ["hello", "warning: smoke", "fine print"]),
    ],
)
def test_who_sees_which_line(capsys, level, seen):
    with shown_on(Display(level)):
        say("hello")
        warn("smoke")
        detail("fine print")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == seen and captured.out == ""


def test_without_a_display_lines_are_plain(capsys):
    with pytest.raises(KeyError), shown_on(Display(Level.ALWAYS)):
        raise KeyError
    say("hello")
    detail("fine print")
    assert capsys.readouterr().err == "hello\n"


def test_a_thread_that_takes_the_context_along_speaks_on_the_same_display(capsys):
    with shown_on(Display(Level.ALWAYS)):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(say, "hello"))
        thread.start()
        thread.join()
    assert capsys.readouterr().err == ""


def test_a_stage_in_a_log_has_a_line_at_both_ends(capsys, time):
    with stage("compiling", done="compiled"):
        time.now += 6.54
    assert capsys.readouterr().err == "compiling\ncompiled in 6.5 s\n"


def test_a_short_stage_without_a_word_for_its_end_is_a_detail(capsys, time):
    with stage("loading"):
        time.now += 0.9
    with shown_on(Display(Level.DETAIL)), stage("loading"):
        time.now += 0.9
    with stage("loading"):
        time.now += 1.0
    assert capsys.readouterr().err == "loading: 0.9 s\nloading: 1.0 s\n"


def test_a_stage_that_fails_has_no_end(capsys, time):
    with pytest.raises(KeyError), stage("compiling", done="compiled"):
        time.now += 5
        raise KeyError
    assert capsys.readouterr().err == "compiling\n"


def test_a_log_counts_now_and_then_and_at_the_end(capsys, time):
    with stage("training", done="trained", total=1000, start=100) as shown:
        for _ in range(90):
            time.now += 2.0
            shown.advance(10, ["loss 0.1", "9 samples/s"])
    lines = capsys.readouterr().err.splitlines()
    # 900 steps in 180 s: after 16 s 80 are done, and the 820 that are left take 164 s.
    assert lines[0] == "training 180/1000, loss 0.1, 9 samples/s, 2:44 left"
    assert lines[-2:] == ["training 1000/1000, loss 0.1, 9 samples/s", "trained in 180.0 s"]
    assert 10 <= len(lines) <= 13


def test_time_left_is_known_after_two_parts_and_knows_only_what_is_counted(capsys, time):
    with stage("training", total=100) as shown:
        for seconds in (9.0, 2.0, 4.0):
            time.now += 50  # of which most went into previews
            shown.advance(2, seconds=seconds)
    # Of two parts behind the first, which also warms up, a step took 1.5 s.
    assert capsys.readouterr().err.splitlines()[:3] == [
        "training 2/100",
        "training 4/100, 1:36 left",
        "training 6/100, 2:21 left",
    ]


def test_lines_of_a_long_stage_are_a_minute_apart(capsys, time):
    with stage("training", total=100_000) as shown:
        for _ in range(10_000):
            time.now += 1.0
            shown.advance(1)
    assert 160 < len(capsys.readouterr().err.splitlines()) < 190


def test_watched_items_are_counted(capsys, time):
    for item in watched("abcd", "encoding"):
        assert item in "abcd"
        time.now += 20
    assert capsys.readouterr().err.splitlines() == [
        "encoding 1/4",
        "encoding 2/4, 0:40 left",
        "encoding 3/4, 0:20 left",
        "encoding 4/4",
        "encoding: 80.0 s",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (8.6, "0:09"), (750, "12:30"), (3599.7, "1:00:00"), (3723, "1:02:03")]
)
def test_times(seconds, text):
    assert clock(seconds) == text


def test_a_run_goes_on_when_nobody_listens_any_more(monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError(5, "Input/output error")

        def flush(self):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    say("still here")
    warn("still here")
