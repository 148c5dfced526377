"""Names of files as tables and lists write them, and the files that they mean.

Windows writes `sub\\a.png` and knows no case, macOS writes accents as marks of their own (NFD), Explorer
copies paths in quotation marks, and `find` begins them with `./`.
"""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from ti_flax.errors import DataError

Value = TypeVar("Value")
_WINDOWS = re.compile(r"[A-Za-z]:/|//")


def plain_name(text: str) -> str:
    """Return a name in one spelling: slashes, composed letters, no `./`, quotation marks or blanks around."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    text = unicodedata.normalize("NFC", text.replace("\\", "/"))
    return posixpath.normpath(text) if text else ""


def is_of_windows(text: str) -> bool:
    """Tell a path with a drive or a server, which is no path of this machine."""
    return os.name != "nt" and _WINDOWS.match(text.strip(" \"'").replace("\\", "/")) is not None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", plain_name(name).casefold())


class NamedValues(Generic[Value]):
    """Values by names of files, found whichever way a name is spelled.

    A path of Windows with a drive means the file whose path ends as it does, if only one such path is there.
    """

    def __init__(self):
        self._plain: dict[str, tuple[Value, str]] = {}
        self._folded: dict[str, str | None] = {}  # to the plain name; None: several
        self._tails: dict[str, str | None] = {}
        self._found: set[str] = set()

    def add(self, name: str, value: Value, where: str) -> None:
        """Add a value.

        Args:
          name: as it is written.
          value: of it.
          where: its place, for errors.

        Raises:
          DataError: the name has another value already.
        """
        plain = plain_name(name)
        before = self._plain.get(plain)
        if before is not None and before[0] != value:
            raise DataError(
                where,
                expected="one caption for each image",
                found=f"another one for {plain}, first at {before[1]}",
                remedy="Leave one of them out.",
            )
        self._plain[plain] = (value, where)
        _add_once(self._folded, _folded(plain), plain)
        if is_of_windows(name):
            for tail in _tails(_folded(plain)):
                _add_once(self._tails, tail, plain)

    def find(self, names: Iterable[str]) -> Value | None:
        """Return the value of the first name that has one, as it is spelled, or else in another spelling."""
        names = [plain_name(name) for name in names]
        for name in names:
            if name in self._plain:
                return self._take(name)
        for others in (self._folded, self._tails):
            for name in names:
                found = others.get(_folded(name))
                if found is not None:
                    return self._take(found)
        return None

    def unused(self) -> list[str]:
        """The names that were never found."""
        return [name for name in self._plain if name not in self._found]

    def _take(self, name: str) -> Value:
        self._found.add(name)
        return self._plain[name][0]


def _add_once(names: dict[str, str | None], key: str, name: str) -> None:
    names[key] = name if names.get(key, name) == name else None


def _tails(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[first:]) for first in range(1, len(parts)))


class FilesOnDisk:
    """Finds files by names that may be spelled otherwise than on this disk; each folder is listed once."""

    def __init__(self):
        self._listed: dict[Path, dict[str, str | None]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """Return what a name means, from a folder on, or None if there is nothing, or several things."""
        if name and os.path.lexists(written := folder / os.path.expanduser(name)):
            return written
        plain = plain_name(name)
        if not plain:
            return None
        path = folder / os.path.expanduser(plain)
        if os.path.lexists(path):
            return path
        place = Path(path.anchor) if Path(os.path.expanduser(plain)).is_absolute() else folder
        parts = path.parts[len(place.parts) :]
        for part in parts:
            if os.path.lexists(place / part):
                place = place / part
                continue
            found = self._names(place).get(_folded(part))
            if found is None:
                return None
            place = place / found
        return place

    def _names(self, folder: Path) -> dict[str, str | None]:
        if folder not in self._listed:
            names: dict[str, str | None] = {}
            try:
                for name in os.listdir(folder):
                    _add_once(names, _folded(name), name)
            except OSError:
                names = {}
            self._listed[folder] = names
        return self._listed[folder]
