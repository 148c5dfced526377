"""Signals: heard at once, also while Python waits for something that is not Python."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from ti_flax.console.interrupt import Interrupt, listening
from ti_flax.errors import START_AGAIN, Stopped


@pytest.fixture(autouse=True)
def heard():
    """Signals as they are where nothing is ignored, as it is in the background of a shell and under nohup."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL))
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


def test_once_is_noted_and_raises_nothing(capfd):
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt, interrupt.updates():
        assert not interrupt.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert until(lambda: interrupt.asked)
        assert until(lambda: "Ctrl-C again stops at once" in capfd.readouterr().err)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_of_a_machine_may_come_repeatedly_and_before_ctrl_c(capfd, number):
    before = signal.getsignal(number)
    with Interrupt() as interrupt, interrupt.updates():
        for _ in range(3):
            os.kill(os.getpid(), number)
            time.sleep(0.05)
        assert until(lambda: interrupt.asked)
        assert capfd.readouterr().err.count(f"{number.name}: stopping after the updates under way") == 1
        os.kill(os.getpid(), signal.SIGINT)
        assert until(lambda: "Ctrl-C again" in capfd.readouterr().err)
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt, interrupt.updates():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not interrupt.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_updates_a_signal_ends_what_is_done_in_order():
    before, left = signal.getsignal(signal.SIGTERM), []
    message = "SIGTERM: stopped; --resume_from_checkpoint auto goes on"
    with pytest.raises(Stopped, match=message), listening() as interrupt:
        try:
            with interrupt.updates():  # after its end, signals do again what they did before
                pass
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            left.append(True)
    assert left and signal.getsignal(signal.SIGTERM) is before


def test_other_signals_are_not_meant(capfd):
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with Interrupt() as interrupt, interrupt.updates():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
            assert not interrupt.asked
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert capfd.readouterr().err == ""


def test_in_another_thread_nothing_is_listened_for():
    found = []

    def enter():
        with Interrupt() as interrupt, interrupt.updates():
            found.append(interrupt.asked)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False] and signal.getsignal(signal.SIGINT) is before


def test_twice_ends_the_process_even_inside_a_call_that_is_not_python(tmp_path):
    code = """
        import ctypes, sys
        from ti_flax.console.interrupt import Interrupt
        with Interrupt() as interrupt, interrupt.updates():
            print("ready", flush=True)
            ctypes.CDLL(None).usleep  # loaded before it is needed
            while True:
                ctypes.CDLL(None).poll(None, 0, 60_000)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert "stopping after" in process.stderr.readline() + process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (signal.SIGTERM, Stopped, "SIGTERM: stopped before the first update; nothing is lost"),
        (signal.SIGHUP, Stopped, "SIGHUP: stopped before the first update; nothing is lost"),
        (signal.SIGINT, KeyboardInterrupt, "^$"),
    ],
)
def test_where_nothing_would_be_lost_every_signal_is_an_exception(number, error, text):
    with pytest.raises(error, match=text) as raised, listening():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert raised.type is error


def test_a_second_signal_does_not_break_what_is_put_in_order_after_the_first():
    done = []
    with pytest.raises(Stopped), listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                os.kill(os.getpid(), number)
                time.sleep(0.05)
            done.append(True)
    assert done == [True]


def test_nor_does_one_break_what_is_put_in_order_after_the_updates():
    done = []
    with pytest.raises(ZeroDivisionError), listening() as interrupt:
        try:
            with interrupt.updates():
                raise ZeroDivisionError
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            done.append(True)
    assert done == [True]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_what_is_unbroken_is_done_first(number, error):
    done = []
    with pytest.raises(error) as raised, listening() as interrupt:
        with interrupt.unbroken():
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            done.append("written")
        done.append("more")
    assert raised.type is error and done == ["written"]


def test_a_signal_during_the_last_updates_ends_what_comes_after_the_next_unbroken_thing():
    done = []
    with pytest.raises(Stopped), listening() as interrupt:
        with interrupt.updates():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        with interrupt.unbroken():
            done.append("written")
        done.append("more")
    assert done == ["written"]


def test_handlers_and_the_wakeup_of_a_larger_program_are_given_back():
    def own(number, frame):
        pass

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, own) for number in numbers}
    read, write = os.pipe()
    os.set_blocking(write, False)
    fd_before = signal.set_wakeup_fd(write)
    try:
        for error in (None, ZeroDivisionError):
            with contextlib.suppress(ZeroDivisionError), listening() as outer, listening() as inner:
                assert inner is outer and signal.getsignal(signal.SIGTERM) is not own
                if error:
                    raise error
            assert [signal.getsignal(number) for number in numbers] == [own] * 3
            assert signal.set_wakeup_fd(write) == write
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


# What holds the main thread: `stuck` is a call that is not Python and that no signal interrupts.
HELD = {
    "a call that is not Python": "stuck()",
    "an exception that is swallowed": """
try:
    time.sleep(60)
except KeyboardInterrupt:
    stuck()
""",
    "tidying that does not end": """
try:
    time.sleep(60)
finally:
    stuck()
""",
    "a thread that the interpreter waits for": """
threading.Thread(target=time.sleep, args=[60]).start()
time.sleep(60)
""",
    "an end of the interpreter that does not let go of it": """
import atexit
atexit.register(ctypes.PyDLL(None).poll, None, 0, 60_000)
time.sleep(60)
""",
    "tidying after something unbroken": """
try:
    with interrupt.unbroken():
        time.sleep(0.5)
finally:
    stuck()
""",
}
PROGRAM = """
import ctypes, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from ti_flax.console.program import exit_code
from ti_flax.console.interrupt import end_process, listening

def stuck():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    ctypes.CDLL(None).poll(None, 0, 60_000)

def command():
    with listening() as interrupt:
        print("ready", flush=True)
BODY

sys.exit(end_process(exit_code(command)))
"""


def held(body):
    """A process whose main thread is held there, with a listener."""
    code = PROGRAM.replace("BODY", textwrap.indent(body, 8 * " "))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    time.sleep(0.1)
    return process


@pytest.mark.parametrize("body", HELD.values(), ids=HELD)
def test_whatever_holds_the_main_thread_the_process_ends_in_two_seconds_with_a_line(body):
    with held(body) as process:
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == START_AGAIN
        assert time.monotonic() - began < 2.5
        line = "SIGTERM: stopped before the first update; nothing is lost, the same command starts again\n"
        assert process.stderr.read() == line


def test_ctrl_c_ends_a_call_that_is_not_python_too_and_twice_at_once():
    for times, most in ((1, 2.5), (2, 1.0)):
        with held("stuck()") as process:
            began = time.monotonic()
            for _ in range(times):
                process.send_signal(signal.SIGINT)
                time.sleep(0.2)
            assert process.wait(timeout=30) == 130
            assert time.monotonic() - began < most
            assert process.stderr.read().strip() == ("interrupted" if times == 1 else "")


def test_what_is_unbroken_is_not_ended_in_a_call_that_is_not_python():
    body = """
with interrupt.unbroken():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ctypes.CDLL(None).poll(None, 0, 3_000)
    print("written", flush=True)
"""
    with held(body) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == START_AGAIN
        assert process.stdout.read() == "written\n"


@pytest.fixture
def notebook(monkeypatch):
    """As in a notebook's kernel, where nothing may end the process."""
    monkeypatch.setattr("ti_flax.console.interrupt.in_notebook", lambda: True)
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    yield
    assert ended == []


def test_in_a_notebook_twice_raises_in_the_updates_and_keeps_the_kernel(notebook):
    with pytest.raises(KeyboardInterrupt), listening() as interrupt, interrupt.updates():
        os.kill(os.getpid(), signal.SIGINT)
        assert until(lambda: interrupt.asked)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_in_a_notebook_a_call_that_is_not_python_is_waited_for(notebook, capfd):
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), Interrupt(grace=0.02):
        timer.start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 600_000)
        time.sleep(5)
    assert "stopping as soon as what is under way returns" in capfd.readouterr().err


def test_in_a_notebook_a_result_is_still_written_to_its_end(notebook):
    done = []
    with pytest.raises(KeyboardInterrupt), listening() as interrupt, interrupt.unbroken():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        done.append(True)
    assert done == [True]
