"""What a run shows on a terminal, read from a pseudo-terminal by what it leaves there."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from ti_flax.console.messages import Display, Level
from ti_flax.console.terminal import TerminalDisplay, display_for

CODE = """
    import sys, time
    from ti_flax.console.messages import Level, detail, say, shown_on, stage, warn
    from ti_flax.console.terminal import display_for
    with shown_on(display_for(Level.{level})):
        say("5 images " + "x" * 100)
        with stage("compiling [/] for <cpu>", done="compiled"):
            time.sleep(0.3)
            say("[red]a line meanwhile[/red]")
        with stage("training", done="trained to step 40", total=40, start=10) as shown:
            for _ in range(3):
                time.sleep(0.15)
                shown.advance(10, ["loss 0.1234", "12.5 samples/s", "1.2 GiB", "lr 5.00e-04"])
                with stage("drawing the first previews", total=3) as inner:
                    inner.advance(2)
                    time.sleep(0.15)
        detail("fine print")
        warn("smoke")
"""


def on_a_terminal(level, columns):
    """Everything that the code writes to a terminal of a width, and what of it stays."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    code = textwrap.dedent(CODE.format(level=level))
    env = os.environ | {"TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2])}
    env.pop("COLUMNS", None)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, stdout=theirs, env=env)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0
    return written.decode()


def what_stays(written):
    """The lines of a terminal after erased lines and the cursor's moves up."""
    lines, row = [""], 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", written):
        if token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token == "\x1b[2K":
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", token):
            row -= int(token[2:-1] or 1)
        elif token != "\r" and not token.startswith("\x1b"):
            lines[row] += token
    return [line.rstrip() for line in lines if line.strip()]


def test_stages_move_and_leave_one_line():
    written = on_a_terminal("NORMAL", 100)
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    assert re.search(r"compiling \[/\] for <cpu> [-|/\\] +0:00", seen)
    assert re.search(r"training .*20/40 loss 0\.1234, 12\.5 samples/s, 1\.2 GiB, lr 5\.00e-04 0:0\d", seen)
    assert re.search(r"training .*20/40[^\n]*\s+drawing the first previews .*2/3", seen)
    left = what_stays(written)
    assert left[0] == "5 images " + "x" * 100 and left[1] == "[red]a line meanwhile[/red]"
    assert [re.sub(r"\d\.\d s", "N s", line) for line in left[2:]] == [
        "compiled in N s",
        "trained to step 40 in N s",
        "warning: smoke",
    ]


def test_a_narrow_terminal_shows_what_matters_most():
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", on_a_terminal("DETAIL", 80))
    assert "loss 0.1234, 12.5 samples/s" in seen and "lr 5" not in seen
    assert max(map(len, re.split(r"[\r\n]+", seen)[3:])) <= 80 and "fine print" in seen


def test_quiet_shows_the_warning_alone():
    assert on_a_terminal("ALWAYS", 80) == "warning: smoke\r\n"


@pytest.mark.parametrize(
    ("terminal", "term", "moves"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_only_a_terminal_that_can_move_its_cursor_is_used_as_one(monkeypatch, terminal, term, moves):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", term)
    assert isinstance(display_for(Level.NORMAL), TerminalDisplay) is moves
    assert type(display_for(Level.ALWAYS)) is Display


GONE = """
    import os, sys, time
    from ti_flax.console.program import exit_code
    from ti_flax.errors import Stopped
    from ti_flax.console.interrupt import listening
    from ti_flax.console.messages import Level, say, shown_on, stage
    from ti_flax.console.terminal import display_for

    def command():
        display = display_for(Level.{level})
        with listening() as interrupt, shown_on(display), stage("training", total=9) as shown:
            with interrupt.updates():
                os.write(2, b"ready")
                while not interrupt.asked:
                    time.sleep(0.02)
                for _ in range(3):
                    say("still here")
                    shown.advance(1)
                    time.sleep(0.15)
            raise Stopped("stopped after step 3")

    sys.exit(exit_code(command))
"""


@pytest.mark.parametrize("level", ["NORMAL", "ALWAYS"])
def test_a_terminal_that_goes_away_stops_the_run_in_order(level):
    import pty

    with (
        warnings.catch_warnings()
    ):  # that other tests have left threads, which a child that executes does not see
        warnings.simplefilter("ignore")
        pid, ours = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which is ignored under nohup
        code = textwrap.dedent(GONE.format(level=level))
        os.execve(
            sys.executable,
            [sys.executable, "-c", code],
            os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
    said = b""
    while b"ready" not in said:
        said += os.read(ours, 1000)
    os.close(ours)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
