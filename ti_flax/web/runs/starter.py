"""Starts one waiting run after another until none waits: a process of its own, which outlives the page."""

import contextlib
import fcntl
import sys
import time
from pathlib import Path

from ti_flax.console.program import exit_code
from ti_flax.web.runs.waiting import Queue

# Seconds between two looks at the run that is at work.
_PAUSE = 2.0


def work_off(root: Path, pause: float = _PAUSE) -> None:
    """Starts the runs that wait in a work folder, each when the one before it has ended.

    Raises:
      DataError: `queue.json` is damaged.
    """
    queue = Queue(root)
    while queue.start_next(_let_go):
        time.sleep(pause)


def _let_go() -> None:
    """Gives the lock on the log back, by which the page sees that this process is there."""
    with contextlib.suppress(OSError, ValueError):
        fcntl.flock(sys.stdout.fileno(), fcntl.LOCK_UN)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: work_off(Path(sys.argv[1]))))
