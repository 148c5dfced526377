"""What a run tells the person who started it: one line at a time, on stderr."""

import sys


def say(line: str) -> None:
    """Prints one line of a run's report."""
    print(line, file=sys.stderr, flush=True)
