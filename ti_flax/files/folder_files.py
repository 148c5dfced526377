"""Folders from outside: what of them is read as text, copied or uploaded are regular files that lie in them.

A model, a data set or a folder of images that came from elsewhere can hold a symbolic link to any file of
this machine. Followed, it puts that file's content into a result, an upload or a message.
"""

import errno
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ti_flax.files.regular import open_regular

LINK_REMEDY = "Replace the link by the file itself."

# The Hub's cache: `models--owner--name/snapshots/<commit>/...` links to `models--owner--name/blobs/<hash>`,
# which may itself be a link to a store of all repositories, `blobs/<2 digits>/<hash>` beside them.
_REPOSITORY = re.compile(r"(?:models|datasets|spaces)--.+")
_SHARED_BLOB = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")


class LeavingLinkError(OSError):
    """A symbolic link leads out of the folder that it lies in; `strerror` says which, and where to."""

    def __init__(self, name: object, target: object, kind: str = "folder"):
        super().__init__(errno.EXDEV, f"a link that leaves the {kind} ({name} -> {target})")

    def __str__(self) -> str:
        return self.strerror or ""


def lies_in(path: Path, folder: Path) -> bool:
    """Tell whether a file, links resolved, lies in a folder or, of a snapshot, among the Hub's blobs.

    A link to itself, and a name that no file can have, lead nowhere, and so not out of the folder.
    """
    try:
        target, root = path.resolve(), folder.resolve()
    except (RuntimeError, ValueError):  # the first is what Python before 3.13 says of links in a circle
        return True
    return target.is_relative_to(root) or _in_hub_cache(target, root)


def require_inside(path: Path, folder: Path, *, kind: str = "folder") -> None:
    """Refuse a file that a symbolic link takes out of a folder.

    Args:
      path: of the file, in the folder by its name.
      folder: may be a link itself.
      kind: what the folder is, for the message, such as "model's folder".

    Raises:
      LeavingLinkError: it leads out.
    """
    if not lies_in(path, folder):
        name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
        raise LeavingLinkError(name, path.resolve(), kind)


def files_of(folder: Path, *, root: Path | None = None, kind: str = "folder") -> list[str]:
    """Return the names of all files below a folder, relative to it, in order.

    Args:
      folder: to look through.
      root: the folder that links may not leave; None: the same folder.
      kind: what the root is, for the message.

    Raises:
      LeavingLinkError: a link leads out of the root.
      OSError: a pipe, socket or device lies in it, or it cannot be read.
    """
    return sorted(_walked(folder, folder if root is None else root, kind))


def copy_folder(source: Path, target: Path, *, root: Path | None = None, kind: str = "folder") -> None:
    """Copy the files that `files_of` returns; nothing is copied if one of them is refused.

    Raises:
      OSError: as `files_of`, or a file cannot be written.
    """
    for name in files_of(source, root=root, kind=kind):
        copy_file(source / name, target / name, source if root is None else root, kind=kind)


def copy_file(source: Path, target: Path, folder: Path, *, kind: str = "folder") -> None:
    """Copy a regular file of a folder.

    Raises:
      OSError: it leaves the folder, is no regular file, or cannot be written.
    """
    require_inside(source, folder, kind=kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(source.resolve()) as read, target.open("wb") as written:
        shutil.copyfileobj(read, written)


def _walked(folder: Path, root: Path, kind: str) -> Iterator[str]:
    """Yield the files below a folder; a link to a folder is refused, even if it stays inside."""
    require_inside(folder, root, kind=kind)
    left = [folder]
    while left:
        with os.scandir(left.pop()) as found:
            for entry in found:
                path = Path(entry.path)
                require_inside(path, root, kind=kind)
                if entry.is_dir(follow_symlinks=False):
                    left.append(path)
                    continue
                with open_regular(path):  # pipes, sockets, devices and links to folders
                    yield path.relative_to(folder).as_posix()


def _in_hub_cache(target: Path, root: Path) -> bool:
    for name, below in itertools.pairwise(reversed((root, *root.parents))):
        if _REPOSITORY.fullmatch(name.name) and below.name == "snapshots":
            blobs, shared = name / "blobs", name.parent / "blobs"
            if target.is_relative_to(blobs):
                return True
            return bool(
                target.is_relative_to(shared)
                and _SHARED_BLOB.fullmatch(target.relative_to(shared).as_posix())
            )
    return False
