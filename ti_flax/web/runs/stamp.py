"""Whether anything has changed in runs' folders, told by the files' sizes and times alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ti_flax.files.written_files import CONCEPTS, LIST
from ti_flax.monitoring.report import curves, facts
from ti_flax.web.runs.processes import Program
from ti_flax.web.runs.view import OUTPUT
from ti_flax.web.runs.waiting import FILE as QUEUE

# What the list of all runs shows of a run is read from these.
_LISTED = ("run.json", "run.log", *(f"{OUTPUT}/{name}" for name in (facts.FILE, curves.FILE, LIST, CONCEPTS)))
# Folders of the run that is shown, in which each file counts.
_SHOWN = (".", "samples", OUTPUT, f"{OUTPUT}/validation")
_OF_CONCEPT = ("samples/{}", f"{OUTPUT}/{{}}", f"{OUTPUT}/{{}}/validation")


def stamp_of(folder: Path | None, runs: Path, names: Iterable[str], concept: str | None = None) -> str:
    """Something short that is another one when a look at the runs would show something else.

    No file is read. What a run writes gets another time or size; that a program ends shows in its lock.

    Args:
      folder: of the run that is shown; None: none.
      runs: in which the folders of all runs are.
      names: of those that are listed.
      concept: the one that is shown of a run of many.
    """
    signs: list[object] = [*_signs(runs.parent, [QUEUE])]
    for name in names:
        signs += [name, Program(runs / name).is_at_work, *_signs(runs / name, _LISTED)]
    if folder is not None:
        signs += [folder.name, Program(folder, "sample").is_at_work]
        signs += [concept or "", *(_entries(folder / name) for name in _SHOWN)]
        if concept:
            signs += [_entries(folder / name.format(concept)) for name in _OF_CONCEPT]
    return f"{hash(tuple(signs)):x}"


def _signs(folder: Path, names: Iterable[str]) -> Iterator[tuple[int, int] | None]:
    """The time and size of each of a folder's files; None for one that is not there."""
    for name in names:
        try:
            found = os.lstat(folder / name)
        except OSError:
            yield None
        else:
            yield found.st_mtime_ns, found.st_size


def _entries(folder: Path) -> tuple[object, ...]:
    """The name, time and size of all that is in a folder itself."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        return ()
    return tuple(zip(names, _signs(folder, names), strict=True))
