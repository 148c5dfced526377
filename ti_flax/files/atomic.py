"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# How the names of things begin that are not whole yet.
UNFINISHED = ".unfinished-"


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a file to write; under another name until whole, as several processes may write the same file.

    What was there before stays until then, and for good if something goes wrong. Once it has its name, it is
    on the disk, so that it survives a loss of power as well.

    Args:
      path: of the file.
      durable: wait for the disk; without it, a loss of power may leave a file that is not whole.

    Raises:
      OSError: the file or its folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
    try:
        with open(unfinished, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all; a link of the name is replaced, and what it leads to stays.

    Raises:
      OSError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
