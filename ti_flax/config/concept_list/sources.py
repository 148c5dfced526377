"""Where a list of concepts comes from: a folder of folders, a YAML or JSON file, the run's own file."""

import dataclasses
import json
import os
import pathlib

from ti_flax.config.concept_entry import ConceptEntry, entry_of, kind_of
from ti_flax.config.file_values import concept_in_file, with_paths
from ti_flax.config.yaml_file import read_concept, read_configuration, read_list
from ti_flax.errors import ConfigError
from ti_flax.files.system_files import is_system_file, is_system_folder

# In a concept's folder: the file that says more than defaults, and the folder of its images.
CONCEPT_FILE = "concept.yaml"
IMAGES_FOLDER = "images"
_MISNAMED = ("concept.yml", "concept.json")
_MOST_CONCEPTS = 10_000


@dataclasses.dataclass(frozen=True)
class Draft:
    """One concept of the list, not checked yet.

    Args:
      entry: what its author wrote.
      name: of its folder, None without one.
      images: its folder of images, None without one.
    """

    entry: ConceptEntry
    name: str | None = None
    images: str | None = None


def read_drafts(listed: str | tuple[ConceptEntry, ...]) -> tuple[list[Draft], list[str]]:
    """Read a list of concepts.

    Args:
      listed: the value of `concepts`: a folder or file, or the list itself.

    Returns:
      The concepts in order, and lines that the user should see.

    Raises:
      ConfigError: the folder or file cannot be read, is no list, or lists nothing.
    """
    if not isinstance(listed, str):
        drafts, notes, where = [Draft(entry) for entry in listed], [], "concepts"
    elif os.path.isdir(os.path.expanduser(listed)):
        where = f"concepts {listed}"
        drafts, notes = _in_folder(pathlib.Path(os.path.expanduser(listed)), where)
    else:
        drafts, notes, where = [Draft(entry) for entry in _in_file(listed)], [], f"concepts {listed}"
    if not drafts:
        raise ConfigError(where, expected="at least one concept", found="an empty list")
    if len(drafts) > _MOST_CONCEPTS:
        remedy = "Share them out among several runs."
        most = f"at most {_MOST_CONCEPTS} concepts"
        raise ConfigError(where, expected=most, found=str(len(drafts)), remedy=remedy)
    return drafts, notes


def _in_file(path: str) -> list[ConceptEntry]:
    folder = os.path.dirname(os.path.expanduser(path))
    if pathlib.PurePath(path).suffix.lower() == ".json":
        items = enumerate(_json_list(path), start=1)
        return [with_paths(entry_of(each, f"{path}, place {place}"), folder) for place, each in items]
    return [concept_in_file(entry, folder) for entry in read_list(path)]


def _json_list(path: str) -> list[object]:
    try:
        read = json.loads(read_configuration(path), object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        found = "brackets within brackets, too deep"
        raise ConfigError(path, expected="a list of concepts", found=found) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}", remedy="Give each key once.") from None
    if not isinstance(read, list):
        remedy = "Put the concepts between [ and ]."
        raise ConfigError(path, expected="a list of concepts", found=kind_of(read), remedy=remedy)
    return read


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is given twice in one concept")
        found[key] = value
    return found


def _in_folder(folder: pathlib.Path, where: str) -> tuple[list[Draft], list[str]]:
    drafts: list[Draft] = []
    skipped: dict[str, list[str]] = {}
    for is_folder, name in _entries(folder, where):
        if not is_folder:
            if not (name.startswith(".") or is_system_file(name)):
                skipped.setdefault("not folders", []).append(name)
        elif name.startswith(".") or is_system_folder(name):
            skipped.setdefault("hidden or a system's own", []).append(name)
        elif not _visible(folder / name):
            skipped.setdefault("without anything in them", []).append(name)
        else:
            drafts.append(_of_folder(folder / name))
    if not drafts:
        raise ConfigError(
            where,
            expected="a sub-folder with images for each concept",
            found=_counted(skipped) or "nothing",
            remedy="A folder of images for one concept is named by train_data_dir.",
        )
    notes = [f"{where}: passed over {_counted({reason: names})}" for reason, names in skipped.items()]
    return drafts, notes


def _counted(skipped: dict[str, list[str]]) -> str:
    """Names that are passed over, counted by reason."""
    return "; ".join(
        f"{names[0] if len(names) == 1 else f'{len(names)}, such as {names[0]}'} ({reason})"
        for reason, names in skipped.items()
    )


def _entries(folder: pathlib.Path, where: str) -> list[tuple[bool, str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(((entry.is_dir(), entry.name) for entry in found), key=lambda each: each[1])
    except OSError as error:
        raise ConfigError(where, expected="a folder that can be read", found=str(error.strerror)) from None


def _visible(folder: pathlib.Path) -> bool:
    """Whether a folder holds anything that a person put into it; one that cannot be read may."""
    try:
        return any(not (name.startswith(".") or is_system_file(name)) for name in os.listdir(folder))
    except OSError:
        return True


def _of_folder(folder: pathlib.Path) -> Draft:
    own, images = folder / CONCEPT_FILE, folder / IMAGES_FOLDER
    images = str(images if images.is_dir() else folder)
    entry = ConceptEntry((), str(folder))
    if os.path.lexists(own):
        try:
            entry = concept_in_file(read_concept(str(own)), str(folder))
        except ConfigError as error:
            text = str(error).removeprefix(f"{own}: ")
            entry = dataclasses.replace(entry, faults=((str(own), text),))
    misnamed = next((name for name in _MISNAMED if (folder / name).is_file()), None)
    if misnamed is not None:
        fault = f"expected {CONCEPT_FILE}, found {misnamed}. Give it that name."
        entry = dataclasses.replace(entry, faults=(*entry.faults, (str(folder), fault)))
    return Draft(entry, folder.name, images)
