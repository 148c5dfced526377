"""JAX's compilation cache: where it is, who may write to it, and what becomes of a damaged entry.

A damaged entry is found by JAX and made again. One that is made to do harm is native code that runs: only the
owner and the mode of the folder and its files keep those out (`ti_flax.files.cache`).
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ti_flax.console.messages import detail, warn
from ti_flax.files.cache import default_cache_dir, is_private, private_folder, why_not_default

_FOLDER = "compiled"
_READING = "Error reading persistent compilation cache entry for "
_WRITING = "Error writing persistent compilation cache entry for "
# How JAX names an entry: the program's name and a hash.
_ENTRY = re.compile(r"(?P<program>.+)-[0-9a-f]{64}-cache", re.DOTALL)


def keep_compiled_programs() -> None:
    """Keeps compiled programs on disk, so that a second run of a shape starts in seconds.

    They go where `JAX_COMPILATION_CACHE_DIR` says, else into the folder that also keeps encoded images. One
    that others can write to is not used, which a warning says: whoever can has this program run their code.
    """
    if _chosen() is not None:
        check_chosen_folder()
        return
    folder, distrust = default_cache_dir() / _FOLDER, why_not_default(_FOLDER)
    if _may_be_used(folder, distrust):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def check_chosen_folder() -> None:
    """Leaves alone the folder that `JAX_COMPILATION_CACHE_DIR` names where others can write to it."""
    chosen = _chosen()
    if not chosen or "://" in chosen:  # none at all, or a bucket with rules of its own
        return
    if not _may_be_used(Path(chosen), private_folder(Path(chosen), ours=False)):
        jax.config.update("jax_compilation_cache_dir", None)


def _may_be_used(folder: Path, distrust: str) -> bool:
    if distrust:
        warn(f"compiled programs are neither read nor kept: {distrust}")
        return False
    _sweep(folder)
    return True


@contextlib.contextmanager
def mended_programs() -> Iterator[None]:
    """Removes damaged entries that JAX comes across inside, so that it writes them anew.

    By itself JAX warns of them at every start: it does not write where a file is.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("always", f"({_READING}|{_WRITING})", UserWarning)
        show = warnings.showwarning

        def shown(message: Warning | str, *place: Any, **more: Any) -> None:
            text = str(message)
            if text.startswith(_READING):
                _remove_entries(text.removeprefix(_READING))
            elif text.startswith(_WRITING):
                warn(f"a compiled program is not kept: {' '.join(text.removeprefix(_WRITING).split())}")
            else:
                show(message, *place, **more)  # pyright: ignore[reportArgumentType]

        warnings.showwarning = shown
        yield


def _chosen() -> str | None:
    return jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]


def _remove_entries(told: str) -> None:
    """Removes what is kept of a program; JAX names the program and not the entry."""
    named, folder = re.match(r"'(.*?)': ", told, re.DOTALL), _chosen()
    if named is None or not folder or "://" in folder:
        return
    gone = [path for path in _entries(Path(folder)) if _program(path) == named[1] and _removed(path)]
    if gone:
        detail(f"a compiled program was damaged and is made again: {', '.join(path.name for path in gone)}")


def _sweep(folder: Path) -> None:
    """Removes entries that JAX would wait for, as pipes, or that others wrote before they were shut out."""
    for path in _entries(folder):
        if not is_private(path) and _removed(path):
            detail(f"a compiled program that others could have written is made again: {path.name}")


def _entries(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if _ENTRY.fullmatch(entry.name)]
    except OSError:
        return []


def _program(path: Path) -> str:
    found = _ENTRY.fullmatch(path.name)
    return found["program"] if found else ""


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.unlink()
        return True
    return False
