"""Encoded pictures on the disk, an entry for each, so that no run encodes what another has encoded.

A picture is an image or its mirror image. Its entry, `latents/ab/cdef...` below the cache's folder, is named
after all that decides its numbers. It holds a SHA-256 of its name and numbers, and the numbers as float32,
low byte first; so an entry that is cut short, altered or in the place of another is known for what it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import re
import secrets
import stat
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ti_flax.errors import in_short
from ti_flax.files.atomic import UNFINISHED, atomic_write
from ti_flax.files.regular import open_regular, read_regular

FOLDER = "latents"
_DIGEST = hashlib.sha256().digest_size
_NUMBER = np.dtype("<f4")
_SUBFOLDER, _NAME = re.compile("[0-9a-f]{2}"), re.compile("[0-9a-f]{62}")
# All pictures of a run in one file beside the folder, as 0.1.0 kept them; nothing reads them now.
_OF_A_WHOLE_RUN = re.compile(r"[0-9a-f]{64}\.npz")
# Lists of the entries that running processes use, each locked by its process.
_CLAIMS, _LOCK = "in-use", "lock"
_LONGEST_CLAIM = 2**26
# Seconds after which a file that is not whole is what a process left that was killed.
_ABANDONED = 24 * 60 * 60

_log = logging.getLogger(__name__)


class LatentCache:
    """The entries of one folder, as one process uses them. Its methods may be called by several threads.

    Args:
      folder: that the entries' folder is in; both are made when something is written.
      limit: bytes that all entries may have. Those that were used longest ago give way; those that a
        running process uses never do, so that a larger set is kept too.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self._folder, self._limit = folder, folder / FOLDER, limit
        self._claimed: set[str] = set()
        self._writable = True

    def claim(self, keys: Iterable[str]) -> None:
        """Keeps entries of these names, there or yet to come, from giving way while this object is there."""
        new = set(keys) - self._claimed
        self._claimed |= new
        try:
            with self._locked():  # which makes the folder
                path = _made(self._folder / _CLAIMS) / secrets.token_hex(8)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                weakref.finalize(self, _let_go, path, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with open(descriptor, "wb", closefd=False) as file:
                    file.write("\n".join(new).encode())
        except OSError:  # a folder that nothing can be written to, or without locks: others do not know
            return

    def lacks(self, key: str) -> bool:
        """Whether there is nothing of this name."""
        return not self._path(key).exists()

    def read(self, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return an entry, float32 of this shape; None where there is none or none to be trusted.

        A damaged one is removed, with a warning. Made on purpose, numbers of the right shape are taken for
        the right ones: whoever can write to the folder decides what is learned (`ti_flax.files.cache`).
        """
        path = self._path(key)
        try:
            with open_regular(path) as file:
                most = os.fstat(file.fileno()).st_size
                size = _DIGEST + math.prod(shape) * _NUMBER.itemsize
                if most != size:
                    raise ValueError(f"{most} bytes in place of {size}")
                content = file.read(size)
            posterior = _checked(key, content, shape)
            with contextlib.suppress(OSError):  # another's entry; how lately it was used decides what goes
                os.utime(path)
            return posterior
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or in_short(error)
            _log.warning("%s is damaged (%s) and is computed again.", path, reason)
            with contextlib.suppress(OSError):  # a folder of the name stays, and nothing is cached
                path.unlink()
            return None

    def write(self, key: str, posterior: np.ndarray) -> bool:
        """Keep a picture's numbers, and tell whether that was possible; after a failure no more are tried."""
        if not self._writable:
            return False
        path, numbers = self._path(key), np.ascontiguousarray(posterior, _NUMBER).tobytes()
        try:
            if path.exists() and path.stat().st_size == _DIGEST + len(numbers):
                return True  # another host's or process's, meanwhile
            _made(self._folder)
            _made(path.parent)
            # A loss of power may damage it, which shows.
            with atomic_write(path, durable=False) as file:
                file.write(_digest(key, numbers) + numbers)
        except OSError as error:
            self._writable = False
            _log.warning("Latents are not cached: %s.", error)
        return self._writable

    def make_room(self, coming: int) -> None:
        """Remove what was used longest ago, as far as the limit asks for it.

        Args:
          coming: bytes of entries that are about to be written.
        """
        with contextlib.suppress(OSError), self._locked():  # nothing can be written, so nothing comes
            found = sorted([*_entries(self._folder), *_sized(self.folder, _OF_A_WHOLE_RUN)])
            excess = sum(size for _, size, _ in found) + coming - self._limit
            kept = self._claimed | _claimed_by_others(self._folder / _CLAIMS) if excess > 0 else set()
            for _, size, path in found:
                if excess <= 0:
                    return
                if _key(path) not in kept and _removed(path):
                    excess -= size

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key[2:]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one process at a time claim entries or choose those that go."""
        _made(self._folder)
        descriptor = os.open(
            self._folder / _LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _digest(key: str, numbers: bytes) -> bytes:
    return hashlib.sha256(key.encode() + numbers).digest()


def _checked(key: str, content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of an entry that is whole, and the one of its name.

    Raises:
      ValueError: it is another.
    """
    numbers = content[_DIGEST:]
    if _digest(key, numbers) != content[:_DIGEST]:
        raise ValueError("another checksum")
    posterior = np.frombuffer(bytearray(numbers), _NUMBER).reshape(shape).astype(np.float32, copy=False)
    if not np.isfinite(posterior).all():
        raise ValueError("numbers that are not finite")
    return posterior


def _made(folder: Path) -> Path:
    """Makes a folder for whoever may write to the one above it, as the members of a team."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.parent.stat().st_mode) & ~stat.S_IWOTH
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(mode)
    return folder


def _sized(folder: Path, name: re.Pattern[str]) -> Iterator[tuple[int, int, str]]:
    """The files of such names: when each was last used, in ns, its bytes, and its path."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for each in found:
            with contextlib.suppress(OSError):
                if name.fullmatch(each.name) and each.is_file(follow_symlinks=False):
                    status = each.stat(follow_symlinks=False)
                    yield status.st_mtime_ns, status.st_size, each.path


def _entries(folder: Path) -> Iterator[tuple[int, int, str]]:
    """All entries; what killed processes left half-written is removed on the way."""
    unfinished = re.compile(re.escape(UNFINISHED) + "[0-9a-f]+")
    with os.scandir(folder) as found:
        subfolders = [each.path for each in found if _SUBFOLDER.fullmatch(each.name)]
    for subfolder in map(Path, subfolders):
        yield from _sized(subfolder, _NAME)
        for used, _, path in _sized(subfolder, unfinished):
            if time.time_ns() - used > _ABANDONED * 10**9:
                _removed(path)


def _key(path: str) -> str:
    return os.path.basename(os.path.dirname(path)) + os.path.basename(path)


def _removed(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:  # gone already, or not this user's to remove
        return False
    return True


def _claimed_by_others(folder: Path) -> set[str]:
    """What running processes use; lists of those that have ended are removed."""
    claimed: set[str] = set()
    for _, _, path in _sized(folder, re.compile("[0-9a-f]{16}")):
        with contextlib.suppress(OSError), open_regular(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                claimed.update(read_regular(path, _LONGEST_CLAIM).decode("ascii", "replace").split())
            else:
                _removed(path)
    return claimed


def _let_go(path: Path, descriptor: int) -> None:
    _removed(str(path))
    os.close(descriptor)
