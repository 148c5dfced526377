"""`concepts.json`: what has become of each concept of a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ti_flax.files.atomic import write_text
from ti_flax.files.written_files import CONCEPTS, record
from ti_flax.monitoring.report.files import read_own_json

STATES = ("waiting", "running", "done", "failed")

# Of bytes, concepts, letters and updates; what a run writes is far below.
_LARGEST_FILE = 2**26
_MOST_CONCEPTS = 100_000
_LONGEST_TEXT = 2**16
_MOST_STEPS = 2**31


@dataclasses.dataclass
class Entry:
    """One concept.

    Attributes:
      name: of its folder.
      token: its word.
      state: waiting, running, done or failed.
      step: updates it has made, as far as this file is up to date.
      steps: that it is to make; None until its images are counted.
      error: why it failed.
    """

    name: str
    token: str
    state: str = "waiting"
    step: int = 0
    steps: int | None = None
    error: str = ""


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Writes a file of entries into a run's folder.

    Raises:
      OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    record(path.parent, path.name)
    content = {"concepts": [dataclasses.asdict(entry) for entry in entries]}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def read_entries(folder: Path, name: str = CONCEPTS) -> list[Entry]:
    """Reads a file of entries of a run's folder, which may be a stranger's.

    Raises:
      DataError: there is none, it is another program's, or a value is not of its kind.
    """
    return read_own_json(folder, name, _LARGEST_FILE, _entries, expected="the list of a run of many concepts")


def _entries(content: Any) -> list[Entry]:
    listed = content.get("concepts") if isinstance(content, dict) else None
    if not isinstance(listed, list) or len(listed) > _MOST_CONCEPTS:
        raise ValueError("no list of concepts")
    return [_entry(number, each) for number, each in enumerate(listed, 1)]


def _entry(number: int, content: Any) -> Entry:
    """The entry of a place in the list; a ValueError names the first value that is not of its kind."""
    if not isinstance(content, dict):
        raise ValueError(f"no mapping as concept {number}")
    entry = Entry(**content)
    fits = {
        "name": _is_text(entry.name) and _is_name(entry.name),
        "token": _is_text(entry.token),
        "state": entry.state in STATES,
        "step": _is_count(entry.step),
        "steps": entry.steps is None or _is_count(entry.steps),
        "error": _is_text(entry.error),
    }
    wrong = [name for name, right in fits.items() if not right]
    if wrong:
        raise ValueError(f"a value of {wrong[0]} of concept {number} that no run writes")
    return entry


def _is_name(name: str) -> bool:
    """Whether it names something in a folder, and leads nowhere else."""
    return name not in ("", ".", "..") and not any(sign in name for sign in "/\\\0")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_STEPS
