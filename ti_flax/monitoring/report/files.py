"""The files of a run's folder, which may be a stranger's: only what lies inside of it goes into a page."""

from __future__ import annotations

import os
from pathlib import Path

from ti_flax.console.messages import warn
from ti_flax.files.regular import read_regular


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name stands for something in a folder itself, and is no link to anywhere.

    Raises:
      OSError: there is nothing of the name, or a link to itself.
    """
    return os.path.realpath(folder / name, strict=True) == os.path.join(os.path.realpath(folder), name)


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
