"""Programs that outlive the page: started, found again and stopped.

A program writes into a log that is locked as long as it runs: the lock belongs to the open file that it was
given, so it goes with the program, however that ends, and nobody else's process is taken for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ti_flax.errors import OutputError, printable
from ti_flax.files.atomic import write_text
from ti_flax.files.regular import open_regular, read_regular
from ti_flax.files.text import parse_json

_PACKAGE = Path(__file__).resolve().parents[3]
_COMMANDS = "ti_flax.commands.main"
_LARGEST_NOTE, _LONGEST_TAIL = 2**20, 2**15
# A look at a lock holds it for an instant.
_TRIES, _PAUSE = 40, 0.05


@dataclass(frozen=True)
class Started:
    """A program as it was started.

    Attributes:
      arguments: of `ti-flax`, the name of the command first.
      process: its number.
      log_from: bytes of the log that were there before.
    """

    arguments: tuple[str, ...]
    process: int
    log_from: int = 0


def command(arguments: Sequence[str], module: str = _COMMANDS) -> list[str]:
    """What runs a command of `ti-flax`; nothing is imported from the folder that it runs in."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The variables that a program gets: ours, and where the package is."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO_")}
    paths = [str(_PACKAGE), *filter(None, [ours.get("PYTHONPATH")])]
    return ours | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


class Program:
    """A program that may run beside a log, `NAME.log`; what it was started with is in `NAME.json`.

    Args:
      folder: of the log.
      name: of the program, for its files.
      module: what is run; left out, `ti-flax`.
    """

    def __init__(self, folder: Path, name: str = "run", module: str = _COMMANDS):
        self._module = module
        self.log, self._note = folder / f"{name}.log", folder / f"{name}.json"

    def start(self, arguments: Sequence[str], where: Path) -> None:
        """Starts it in a session of its own.

        Args:
          arguments: of `ti-flax`.
          where: the current folder that it gets.

        Raises:
          OutputError: it runs already.
          OSError: it cannot be started, or its log not be written.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with open(os.open(self.log, flags, 0o600), "ab") as log:
            self._lock(log.fileno())
            before = os.fstat(log.fileno()).st_size
            process = subprocess.Popen(
                command(arguments, self._module),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=where,
                env=environment(),
                start_new_session=True,
            )
        # So that it is gone once it has ended, also where nobody looks.
        threading.Thread(target=process.wait, daemon=True).start()
        started = Started(tuple(arguments), process.pid, before)
        write_text(self._note, json.dumps(asdict(started)))

    def _lock(self, descriptor: int) -> None:
        for _ in range(_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(_PAUSE)
        raise OutputError(self.log.parent, expected="nothing at work in it", found="a program that is")

    @property
    def is_at_work(self) -> bool:
        """Whether it runs now."""
        try:
            with open_regular(self.log) as log:
                fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def started(self) -> Started | None:
        """How it was last started; None if it never was, or that cannot be read."""
        try:
            content = parse_json(read_regular(self._note, _LARGEST_NOTE).decode())
            found = Started(**{**content, "arguments": tuple(map(str, content["arguments"]))})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found if type(found.process) is int and type(found.log_from) is int else None

    def ask_to_end(self) -> bool:
        """Sends SIGTERM, after which a run saves and ends; whether there was a program to send it to."""
        started = self.started
        if started is None or not self.is_at_work:
            return False
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(started.process) == started.process:  # it began a session, as others rarely do
                os.kill(started.process, signal.SIGTERM)
                return True
        return False

    def said(self) -> str:
        """The end of what it has said since it was last started."""
        started = self.started
        try:
            with open_regular(self.log) as log:
                size = os.fstat(log.fileno()).st_size
                log.seek(max(0 if started is None else started.log_from, size - _LONGEST_TAIL))
                text = log.read(_LONGEST_TAIL).decode(errors="replace")
        except OSError:
            return ""
        return printable(text.replace("\r", "\n"))

    def note_error(self, message: str) -> None:
        """Writes why it could not be started into its log, as it would itself; where it has a folder."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with contextlib.suppress(OSError), open(os.open(self.log, flags, 0o600), "ab") as log:
            log.write(f"error: {printable(message)}\n".encode())

    @property
    def error(self) -> str:
        """The line that it ended with, if it has ended with one for people, without `error:`."""
        if self.is_at_work:
            return ""
        lines = self.said().splitlines()
        return next((line.removeprefix("error: ") for line in lines[::-1] if line.startswith("error: ")), "")


def output_of(arguments: Sequence[str], where: Path, seconds: float) -> tuple[int, str, str]:
    """Runs a command that is waited for; its exit code, and what it said on both streams.

    Raises:
      OutputError: it took longer.
      OSError: it cannot be started.
    """
    try:
        done = subprocess.run(
            command(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=where,
            env=environment(),
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OutputError(
            f"ti-flax {arguments[0]}", expected=f"an answer within {seconds:g} seconds", found="none"
        ) from None
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
