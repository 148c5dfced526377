"""The files that runs wrote in an output folder: a list kept there, and the lock that keeps other runs out.

A run adds a name to the list before it writes the file, so that the list is complete whenever the run ends.
What is not in it belongs to somebody else, and is neither deleted nor replaced. Checkpoint folders have lists
of their own, their `sha256sums.txt`.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ti_flax.errors import OutputError, unwritable
from ti_flax.files.regular import file_digest, read_regular

LIST = "written_files.txt"
CARD = "README.md"
# Of a run of many concepts: what has become of each, and the page of it.
CONCEPTS, INDEX = "concepts.json", "index.html"
# Folders of a whole pipeline.
PARTS = (
    *("feature_extractor", "safety_checker", "scheduler", "text_encoder", "text_encoder_2"),
    *("tokenizer", "tokenizer_2", "unet", "vae"),
)

_FIRST_LINE = "# Files that ti_flax wrote in this folder. overwrite_output_dir deletes these and no others."
_TITLE = f"{_FIRST_LINE}\n# A file with a digest counts as yours once you have edited it.\n"
_RUN = "# run of "
_NO_DIGEST = "-" * 64
_LONGEST_LIST = 2**26
_NAMES = re.compile(
    r"README\.md|run\.json|report\.html|metrics\.csv|signals\.csv|contact_sheet\.png"
    r"|token_identifier\.txt|type_of_concept\.txt"
    r"|learned_embeds(_2)?(-best|-steps-\d+)?\.(safetensors|bin)"
    r"|validation/(step|asked)-\d+\.png|(concept|example)_images/\d+\.jpeg"
)
# What a file that its word names can be called (ti_flax/embedding/file_names.py): for SDXL that of both text
# encoders, and that of one of several words.
_WORD_FILE = re.compile(
    r"(?!learned_embeds)[\w-]+\.safetensors|(?-i:learned_embeds)-[\w-]+\.safetensors", re.I
)
_PIPELINE = re.compile(rf"model_index\.json|({'|'.join(PARTS)})/.+", re.DOTALL)


def can_be_written(
    name: str, *, pipeline: bool = True, many: bool = True, word_file: str | None = None
) -> bool:
    """Whether a run may write a file of that name, relative to its folder; checkpoints apart.

    Args:
      name: of the file.
      pipeline: whether the run writes the whole pipeline.
      many: whether it is one of many concepts.
      word_file: what it calls the file that is named by its word, for SDXL.
    """
    return bool(
        name == word_file
        or _NAMES.fullmatch(name)
        or (pipeline and _PIPELINE.fullmatch(name))
        or (many and name in (CONCEPTS, INDEX))
    )


def is_list(folder: Path) -> bool:
    """Whether a folder has the list of a run, and so holds one."""
    return _entries(folder) is not None


def recorded(folder: Path) -> set[str] | None:
    """All names in the list of a folder, of edited files and those that are gone too; None without a list."""
    entries = _entries(folder)
    return None if entries is None else set(entries)


def written(folder: Path) -> set[str]:
    """The existing files of a folder that runs wrote and nobody has edited since, by relative name.

    Names that no run writes, and what lies behind a link to elsewhere, are left out whatever the list says.
    """
    entries = _entries(folder) or {}
    possible = (name for name in entries if can_be_written(name) or _WORD_FILE.fullmatch(name))
    names = (name for name in possible if _is_inside(folder, name))
    return {name for name in names if _is_unedited(folder / name, entries[name])}


def record(folder: Path, *names: str) -> None:
    """Adds files to the list of a run's folder before they are written; without a list nothing happens.

    Raises:
      OutputError: the list cannot be written.
    """
    _add(folder, [(_NO_DIGEST, name) for name in names])


def record_text(folder: Path, name: str, text: str) -> bool:
    """Adds a file that people edit, with its text; False if an edited one, or somebody else's, is there.

    Raises:
      OutputError: the list cannot be written.
    """
    entries = _entries(folder)
    path = folder / name
    if entries is not None and os.path.lexists(path) and not _is_unedited(path, entries.get(name, set())):
        return False
    _add(folder, [(hashlib.sha256(text.encode()).hexdigest(), name)])
    return True


def delete_written(folder: Path) -> None:
    """Deletes the files in the list, then their entries, and folders that are empty then.

    Raises:
      OSError: one cannot be deleted; the list still has it.
    """
    names = written(folder)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for parent in sorted({parent for name in names for parent in Path(name).parents}, reverse=True):
        if parent != Path():
            with contextlib.suppress(OSError):
                (folder / parent).rmdir()
    runs = _runs(folder)
    with open(folder / LIST, "r+b") as file:  # the same file, as it is locked
        file.truncate()
        file.write(f"{_TITLE}{runs[-1] if runs else _RUN}\n".encode())


@dataclass(frozen=True)
class LastRun:
    """The run that was last at work in a folder, as its list says.

    Attributes:
      process: its number.
      host: the machine it ran on.
      begun: when, in seconds since 1970.
    """

    process: int
    host: str
    begun: float

    @property
    def is_at_work(self) -> bool | None:
        """Whether its process is there; None if it ran on another machine. No lock is touched."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):  # somebody else's, or no number of a process
            return True
        return True


def last_run(folder: Path) -> LastRun | None:
    """Reads which run was last at work in a folder; None without a list, or if nothing can be read of it."""
    if _entries(folder) is None:
        return None
    runs = _runs(folder)
    found = re.fullmatch(
        rf"{re.escape(_RUN)}process ([1-9]\d{{0,9}}) on (.*), (\S+ \S+)", runs[-1] if runs else ""
    )
    if found is None:
        return None
    try:
        begun = datetime.datetime.fromisoformat(found[3]).timestamp()
    except (ValueError, OverflowError):
        return None
    return LastRun(int(found[1]), found[2], begun)


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[str]:
    """Keeps other runs out of a folder, which gets its list if it has none; the lock ends with the process.

    Yields what the user should know: that the folder cannot be locked, or nothing.

    Raises:
      OutputError: another run is at work in it.
      OSError: the list cannot be made.
    """
    path = folder / LIST
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)) as file:
        note = ""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(folder) from None
        except OSError as error:  # a file system without locks, such as some mounted buckets
            note = f"{folder} cannot be locked ({error.strerror}): do not start a second run in it"
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            # A run that was refused removed its list just now.
            raise _busy(folder)
        title = "" if file.tell() else _TITLE
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        file.write(f"{title}{_RUN}process {os.getpid()} on {socket.gethostname()}, {now}\n".encode())
        file.flush()
        os.fsync(file.fileno())
        yield note


def refuse_busy(folder: Path) -> None:
    """Refuses a folder that a run is at work in; changes nothing.

    Raises:
      OutputError: one is.
    """
    try:
        descriptor = os.open(folder / LIST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(folder) from None
    except OSError:  # a file system without locks
        pass
    finally:
        os.close(descriptor)


def _runs(folder: Path) -> list[str]:
    """The lines of a folder's list that say which runs were at work in it."""
    return [line for line in _lines(folder) or () if line.startswith(_RUN)]


def _busy(folder: Path) -> OutputError:
    runs = [line.removeprefix(_RUN) for line in _runs(folder)]
    return OutputError(
        f"output_dir {folder}",
        expected="no other run at work in it",
        found=runs[-1] if runs else "one",
        remedy="Wait until it is done, or choose another output_dir.",
    )


def _add(folder: Path, entries: Iterable[tuple[str, str]]) -> None:
    known = _entries(folder)
    if known is None:
        return
    lines = [
        f"{digest}  {name}\n"
        for digest, name in entries
        if digest not in known.get(name, ()) and "\n" not in name
    ]
    if not lines:
        return
    try:
        with open(folder / LIST, "ab") as file:
            file.write("".join(lines).encode(errors="surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(folder, error) from error


def _lines(folder: Path) -> list[str] | None:
    try:
        text = read_regular(folder / LIST, _LONGEST_LIST).decode(errors="surrogateescape")
    except OSError:
        return None
    return text.split("\n")


def _entries(folder: Path) -> dict[str, set[str]] | None:
    """Digests by name; None where there is no list, or another program's file of that name."""
    lines = _lines(folder)
    if lines is None or lines[0] != _FIRST_LINE:
        return None
    entries: dict[str, set[str]] = {}
    for line in lines:
        digest, separator, name = line.partition("  ")
        if separator and len(digest) == 64:
            entries.setdefault(name, set()).add(digest)
    return entries


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a listed file is there, in the folder itself and not behind a link to another one."""
    path = folder / name
    parts = Path(name).parts
    return (
        ".." not in parts
        and not Path(name).is_absolute()
        and path.parent.resolve() == folder.resolve().joinpath(*parts[:-1])
        and os.path.lexists(path)
        and not (path.is_dir() and not path.is_symlink())
    )


def _is_unedited(path: Path, digests: set[str]) -> bool:
    if _NO_DIGEST in digests or not digests:
        return bool(digests)
    try:
        return file_digest(path)[1] in digests
    except OSError:
        return False
