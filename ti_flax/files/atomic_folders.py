"""Folders that appear whole or not at all, and that tell later whether they still are."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ti_flax.files.atomic import UNFINISHED, sync_folder
from ti_flax.files.regular import file_digest

# The digest of every file of a folder, as `sha256sum` prints it and `sha256sum -c` checks it.
SUMS = "sha256sums.txt"
# Seconds between two looks at whether what was removed stays so, and how many of them.
_ROUND, _QUIET_ROUNDS, _MOST_ROUNDS = 0.05, 4, 60
_REPLACED, _REMOVED = ".replaced-", ".removed-"
# What a killed process leaves has such a name, and nothing of anybody else's.
_LEFT = re.compile(r"\.(unfinished|removed)-[0-9a-f]{16}.*")


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder to fill, which then gets its digests and, in one rename, its name.

    What was there before under that name stays until then, and for good if something goes wrong.

    Raises:
      OSError: it cannot be written, or the folder it is to be in is not there.
    """
    with _unfinished(folder.parent) as unfinished:
        yield unfinished
        _seal(unfinished)
        _put(unfinished, folder)


@contextlib.contextmanager
def atomic_files(folder: Path, *, last: str) -> Iterator[Path]:
    """Yields a new folder to fill, whose files then move into another one, between those that are there.

    Until all are written, nothing changes there. While they move, the file that tells readers of the others
    is missing.

    Args:
      folder: where the files go, in the same folders as in the new one; made where it does not exist.
      last: the name of that file.

    Raises:
      OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _unfinished(folder) as unfinished:
        yield unfinished
        _sync(unfinished)
        (folder / last).unlink(missing_ok=True)
        files = [path for path in unfinished.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path == unfinished / last):
            place = folder / path.relative_to(unfinished)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _unfinished(place: Path) -> Iterator[Path]:
    unfinished = place / f"{UNFINISHED}{secrets.token_hex(8)}"
    unfinished.mkdir()
    try:
        yield unfinished
    except BaseException:
        _remove_for_good(place, unfinished.name)
        raise


def _remove_for_good(place: Path, name: str) -> None:
    """Removes a folder and what a library made of its name, which threads of it may still be filling."""
    quiet = 0
    for _ in range(_MOST_ROUNDS):
        found = list(place.glob(f"{name}*"))
        for path in found:
            shutil.rmtree(path, ignore_errors=True)
        quiet = 0 if found else quiet + 1
        if quiet == _QUIET_ROUNDS:
            return
        time.sleep(_ROUND)


def damage(folder: Path) -> str:
    """What is wrong with a folder that was written whole, in words; empty if nothing is.

    Files whose names begin with a dot are other programs' and do not count.
    """
    try:
        listed, found = _listed(folder), _digests(folder)
    except (OSError, ValueError) as error:
        return f"{SUMS} cannot be read ({type(error).__name__})"
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in listed:
            return f"{name} is not in {SUMS}"
        if listed[name] != found[name]:
            return f"{name} is not as it was written"
    return ""


def is_sealed(folder: Path) -> bool:
    """Whether a folder has its digests, as one that was written whole."""
    return (folder / SUMS).is_file()


def sealed_files(folder: Path) -> set[str] | None:
    """Names of the files that a folder was written with, the digests' too; None where it has none."""
    try:
        return {*_listed(folder), SUMS}
    except (OSError, ValueError):
        return None


def remove_folder(folder: Path) -> bool:
    """Removes a folder that was written whole, and returns whether it is gone.

    Whenever this is cut short, it is there whole under its name or not at all. Files that came into it later
    are not removed, nor is a folder without digests.
    """
    others = _others(folder)
    if others is None or folder.is_symlink():
        return False
    with contextlib.suppress(OSError):
        if others:
            _remove_listed(folder)
        else:
            removed = folder.with_name(f"{_REMOVED}{secrets.token_hex(8)}")
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
    return not folder.exists()


def _others(folder: Path) -> set[str] | None:
    """Visible files in a folder that are not in its list of digests; None if it has no list."""
    sealed = sealed_files(folder)
    if sealed is None:
        return None
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    visible = {path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)}
    return visible - sealed


def _remove_listed(folder: Path) -> None:
    """Removes the files that a folder's list of digests names, then the list."""
    root = folder.resolve()
    for name in _listed(folder):
        if (folder / name).parent.resolve().is_relative_to(root):
            (folder / name).unlink(missing_ok=True)
    (folder / SUMS).unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()


def _listed(folder: Path) -> dict[str, str]:
    """Digests by the names of files, relative to their folder."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def tidy(place: Path) -> None:
    """Removes what a killed process left half done in a folder, and takes back what it was replacing."""
    for path in place.glob(f"{_REPLACED}*"):
        name = path.with_name(path.name.removeprefix(_REPLACED))
        if not name.exists():
            path.rename(name)
    for path in place.glob(f"{_REPLACED}*"):
        remove_folder(path)
    for path in (path for path in place.glob(".*") if _LEFT.fullmatch(path.name)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _seal(folder: Path) -> None:
    lines = [f"{digest}  {name}\n" for name, digest in sorted(_digests(folder).items())]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    _sync(folder)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and str(name) != SUMS and not any(part.startswith(".") for part in name.parts):
            digests[name.as_posix()] = file_digest(path)[1]
    return digests


def _put(unfinished: Path, folder: Path) -> None:
    replaced = folder.with_name(f"{_REPLACED}{folder.name}")
    if folder.exists():
        if replaced.exists() and not remove_folder(replaced):
            _keep(replaced, folder)
        folder.rename(replaced)
    try:
        unfinished.rename(folder)
    except OSError:
        if replaced.exists():
            replaced.rename(folder)
        raise
    sync_folder(folder.parent)
    if replaced.exists() and not remove_folder(replaced):
        _keep(replaced, folder)


def _keep(replaced: Path, folder: Path) -> None:
    """Gives what is left of a folder, files of somebody else's, a name that people see."""
    replaced.rename(folder.with_name(f"{folder.name}-kept-{secrets.token_hex(4)}"))
