"""The run's side of talking to the Hub: a process that is asked once, and is ended when its time is over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Failure:
    """Why something did not work: what was found, what to do, and whether it may be over soon."""

    found: str
    remedy: str
    temporary: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
      failure: None if it was done.
      repo_id: the repository with its owner.
      url: its page.
      private: whether others cannot see it; only known after a check.
      changed: whether an upload made a commit.
    """

    failure: Failure | None = None
    repo_id: str = ""
    url: str = ""
    private: bool = False
    changed: bool = True


class HubProcess:
    """A process that carries out one request; it ends with this object at the latest."""

    def __init__(
        self, request: dict[str, Any], *, token: str | None, seconds: float, staging: Path | None = None
    ):
        """Starts the process.

        Args:
          request: what `ti_flax.export.hub` takes, but for the folder to upload.
          token: for the Hub; None for the login that the Hub's client finds.
          seconds: the most time that it gets.
          staging: the folder to upload; it is only there for this request, and removed after it.
        """
        self._seconds, self._until = seconds, time.monotonic() + seconds
        self._answer: Answer | None = None
        self.stop: Callable[[], object] = lambda: None
        try:
            self._process = _start(
                {**request, "token": token, "seconds": seconds, "folder": str(staging or "")}
            )
        except OSError as error:
            self._answer = _failed(f"no process for the upload ({error.strerror})")
            return
        self.stop = weakref.finalize(self, _end, self._process, staging)

    def answer(self) -> Answer | None:
        """What came of it; None while it is under way."""
        if self._answer is None and self._process.poll() is None and time.monotonic() < self._until:
            return None
        return self.wait()

    def wait(self) -> Answer:
        """Returns what came of it, within the time that it was given."""
        if self._answer is None:
            try:
                self._process.wait(max(0.0, self._until - time.monotonic()))
                self._answer = _read(self._process)
            except subprocess.TimeoutExpired:
                self._answer = _failed(f"no answer within {self._seconds:.0f} s")
            self.stop()
        return self._answer


def _start(request: dict[str, Any]) -> subprocess.Popen[bytes]:
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "ti_flax.export.hub"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # Ctrl-C is for the run, which then ends this process
    )
    # A process that is gone already has closed the pipe, which its answer tells better.
    with contextlib.suppress(BrokenPipeError), process.stdin or contextlib.nullcontext() as pipe:
        if pipe is not None:
            pipe.write(json.dumps(request).encode())
    return process


def _read(process: subprocess.Popen[bytes]) -> Answer:
    content = process.stdout.read() if process.stdout else b""
    try:
        answer = json.loads(content)
    except ValueError:
        return _failed(f"an upload process that ended with code {process.returncode}")
    if "failure" in answer:
        return Answer(Failure(**answer["failure"]))
    return Answer(**answer)


def _failed(found: str) -> Answer:
    return Answer(Failure(found, "Check the network.", temporary=True))


def _end(process: subprocess.Popen[bytes], staging: Path | None) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if staging is not None:
        shutil.rmtree(staging, ignore_errors=True)
