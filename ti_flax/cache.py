"""The folder in which results are kept for the next run, and the writing of files into it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def default_cache_dir() -> Path:
    """Return where results are kept: `$TI_FLAX_CACHE`, else `ti_flax` in the user's cache folder."""
    if os.environ.get("TI_FLAX_CACHE"):
        return Path(os.environ["TI_FLAX_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ti_flax"


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write; under another name until whole, as several processes may write the same file.

    Raises:
      OSError: the file or its folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
