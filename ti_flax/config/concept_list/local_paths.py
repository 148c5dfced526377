"""Files and folders of this machine that a concept names, looked at without opening them."""

import os
import pathlib
import re
import typing

from ti_flax.config.concept_entry import ConceptEntry
from ti_flax.config.concept_list.sources import CONCEPT_FILE
from ti_flax.config.image_sources import path_of
from ti_flax.config.run_config import OPTIONS
from ti_flax.errors import ConfigError
from ti_flax.files.system_files import is_system_file

# Options whose value may also be a link or a dataset of the Hub.
_SOURCES = ("train_data_dir", "class_data_dir")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LINK = re.compile(r"https?://", re.IGNORECASE)


def missing_files(values: typing.Mapping[str, typing.Any]) -> typing.Iterator[ConfigError]:
    """Yield an error for everything that a concept reads and that is not there, or is empty.

    Args:
      values: options of a concept by name, paths as they are to be opened.
    """
    for name, option in OPTIONS.items():
        if option.rule.path != "input" or not option.rule.per_concept:
            continue
        value = values.get(name)
        for path in map(_path, value if isinstance(value, tuple) else (value,)):
            problem = _problem(path, source=name in _SOURCES) if path else ""
            if problem:
                expected = "images" if name in _SOURCES else "what can be read"
                remedy = "Relative paths start beside the file that names them, or in the current folder."
                yield ConfigError(f"{name} {path}", expected=expected, found=problem, remedy=remedy)


def _path(value: typing.Any) -> typing.Any:
    return path_of(value) if isinstance(value, ConceptEntry) else value


def _problem(path: str, *, source: bool) -> str:
    """What is wrong with a path, empty if nothing is."""
    if source and _LINK.match(path):
        return ""
    try:
        if os.path.isdir(path):
            return "an empty folder" if source and not _holds_files(path) else ""
        if os.path.exists(path):
            return "an empty file" if os.path.isfile(path) and os.path.getsize(path) == 0 else ""
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except ValueError:  # a zero byte
        return "no path"
    owner = pathlib.PurePath(path).parent
    if source and _HUB_ID.fullmatch(path) and not os.path.isdir(owner):
        return ""  # a dataset of the Hub, as far as can be told here
    return "no such folder or file" if source else "no such file"


def _holds_files(folder: str) -> bool:
    """Whether there is a file for people in a folder or below it; links to folders count as such."""

    def stop(error: OSError) -> typing.NoReturn:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(os.path.islink(os.path.join(place, name)) for name in folders):
            return True
        if any(not (name.startswith(".") or is_system_file(name) or name == CONCEPT_FILE) for name in files):
            return True
    return False
