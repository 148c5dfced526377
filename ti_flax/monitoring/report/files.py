"""The files of a run's folder, which may be a stranger's: only what lies inside of it goes into a page."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ti_flax.console.messages import warn
from ti_flax.errors import DataError
from ti_flax.files.regular import read_regular
from ti_flax.files.text import parse_json

_Made = TypeVar("_Made")


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name stands for something in a folder itself, and is no link to anywhere.

    Raises:
      OSError: there is nothing of the name, or a link to itself.
    """
    return os.path.realpath(folder / name, strict=True) == os.path.join(os.path.realpath(folder), name)


def is_there(folder: Path, name: str) -> bool:
    """Whether a folder has something of the name that is no link to anywhere."""
    try:
        return is_inside(folder, name)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_inside(folder: Path, name: str, most: int) -> bytes | None:
    """Returns what a file holds, for a page that people pass on.

    Args:
      folder: a run's, which may be reached by a link itself.
      name: of the file, a path inside of the folder.
      most: bytes that it may have.

    Returns:
      None, after a warning, of a file that is too large, no plain file, or a link, as links lead to anything
      on this machine; None without a warning where there is nothing of the name.
    """
    path = folder / name
    try:
        if not is_inside(folder, name):
            warn(f"{path} is left out of the page: it is a link")
            return None
        return read_regular(path, most)
    except FileNotFoundError:
        return None
    except OSError as error:
        warn(f"{path} is left out of the page: {error.strerror or error}")
        return None


def read_own_json(
    folder: Path, name: str, most: int, make: Callable[[Any], _Made], *, expected: str
) -> _Made:
    """What a run has written as JSON into its folder, which may be a stranger's.

    Args:
      folder: a run's.
      name: of the file.
      most: bytes that it may have.
      make: what becomes of its content; a ValueError or TypeError says what is wrong with it.
      expected: what the folder should be or have, in words.

    Raises:
      DataError: there is none, it is another program's, or `make` refuses it.
    """
    path = folder / name
    try:
        if not is_inside(folder, name):
            raise OSError(errno.ELOOP, "a link")
        return make(parse_json(read_regular(path, most).decode()))
    except OSError as error:
        found = error.strerror or str(error)
        raise DataError(path, expected=expected, found=found) from None
    except (ValueError, TypeError) as error:
        raise DataError(path, expected="what a run of this version wrote", found=str(error)) from None
