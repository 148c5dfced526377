"""Ctrl-C: heard at once, also while Python waits for something that is not Python."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from ti_flax.errors import Stopped
from ti_flax.interrupt import Interrupt, ended_by_signals


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
    with Interrupt() as interrupt:
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
    with Interrupt() as interrupt:
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
        with ended_by_signals(), Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not interrupt.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_of_the_updates_a_signal_ends_what_is_done_in_order():
    before, left = signal.getsignal(signal.SIGTERM), []
    message = "SIGTERM: stopped; --resume_from_checkpoint auto goes on"
    with pytest.raises(Stopped, match=message), ended_by_signals():
        try:
            with Interrupt():  # gives the signals back at its end
                pass
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            left.append(True)
    assert left and signal.getsignal(signal.SIGTERM) is before


def test_other_signals_are_not_meant(capfd):
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
            assert not interrupt.asked
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert capfd.readouterr().err == ""


def test_in_another_thread_nothing_is_listened_for():
    found = []

    def enter():
        with Interrupt() as interrupt:
            found.append(interrupt.asked)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False] and signal.getsignal(signal.SIGINT) is before


def test_twice_ends_the_process_even_inside_a_call_that_is_not_python(tmp_path):
    code = """
        import ctypes, sys
        from ti_flax.interrupt import Interrupt
        with Interrupt() as interrupt:
            print("ready", flush=True)
            ctypes.CDLL(None).usleep  # loaded before it is needed
            while True:
                ctypes.CDLL(None).poll(None, 0, 60_000)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert "stopping after" in process.stderr.readline() + process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
