"""Strict reading of a configuration file: one flat mapping, every value as its author wrote it.

YAML decides only where a value begins and ends; what it means is decided by the option it belongs
to. So `5e-4` is a number (YAML 1.1 says text), `mixed_precision: no` is the word "no" (YAML 1.1
says false), and a git revision of digits alone keeps its zeros.
"""

import dataclasses
import os
import pathlib
import typing

from ti_flax.config.concept_entry import SOURCES, not_a_concept
from ti_flax.errors import ConfigError, nearest
from ti_flax.files.regular import read_regular

_LONGEST = 2**20
_SILENCE = 10.0
_MOST_KEYS = 500
_NULLS = ("", "~", "null", "Null", "NULL")
_STANDARD_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {f"{_STANDARD_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}
_GROUP_TAGS = {f"{_STANDARD_TAG}{name}" for name in ("seq", "map")}
_PLAIN_TAGS |= {f"{_STANDARD_TAG}{name}" for name in ("value", "merge")}  # a lone `=` or `<<` is text too


@dataclasses.dataclass(frozen=True)
class Entry:
    """One `key: value` line.

    Args:
      text: the value, or None for null.
      quoted: it stood in quotes, so it is text and nothing else.
      where: file, line and key, for messages.
      items: the entries of a list, else None.
      members: key, file and line, and entry of each line of a concept, where a list of concepts is allowed.
      faults: places and sentences on what cannot be an entry of a concept.
    """

    text: str | None
    quoted: bool
    where: str
    items: tuple["Entry", ...] | None = None
    members: tuple[tuple[str, str, "Entry"], ...] | None = None
    faults: tuple[tuple[str, str], ...] = ()


def read_yaml(
    path: str,
    *,
    known: typing.Collection[str],
    groups: typing.Collection[str],
    listed: typing.Collection[str] = (),
    mixed: typing.Collection[str] = (),
) -> dict[str, Entry]:
    """Read a configuration file.

    Args:
      path: the file, as the user named it.
      known: every key there is.
      groups: words that head groups of options in `--help`, and that some take for keys.
      listed: keys whose value may be a list of concepts.
      mixed: keys of whose values each may be a mapping.

    Raises:
      ConfigError: unreadable, no flat mapping, a key unknown or given twice.
    """
    root = _require_mapping(_parse(read_configuration(path), path), path)
    entries: dict[str, Entry] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in root.value:
        line = key_node.start_mark.line + 1
        key = _key(key_node, f"{path}:{line}")
        if key in entries:
            raise ConfigError(
                f"{path}:{line}: {key} is given twice, first on line {lines[key]}",
                remedy="Leave one of them out.",
            )
        if key not in known:
            raise _unknown(key, f"{path}:{line}", known, groups)
        lines[key] = line
        if key in listed and value_node.id == "sequence":
            entries[key] = _concepts(value_node, path, f"{path}:{line}: {key}")
        elif key in mixed and value_node.id in ("sequence", "mapping"):
            entries[key] = _mixed(value_node, path, key)
        else:
            entries[key] = _entry(value_node, path, key)
    return entries


def read_list(path: str) -> tuple[Entry, ...]:
    """Read a file that is a list of concepts.

    Raises:
      ConfigError: unreadable, or no list.
    """
    root = _parse(read_configuration(path), path)
    if root is not None and root.id == "sequence":
        return _concepts(root, path, path).items or ()
    found = "an empty file" if root is None else f"a {root.id}"
    remedy = "Begin each concept with `- `."
    if root is not None and root.id == "mapping" and any(key.value == "concepts" for key, _ in root.value):
        remedy = "A file with the key concepts is a configuration file: name it after --config."
    raise ConfigError(path, expected="a list of concepts", found=found, remedy=remedy)


def read_concept(path: str) -> Entry:
    """Read a file that describes one concept; an empty one says nothing.

    Raises:
      ConfigError: unreadable, or no mapping.
    """
    root = _parse(read_configuration(path), path)
    return (
        Entry(None, False, path, members=()) if root is None else _concept(_require_mapping(root, path), path)
    )


def _concepts(node: typing.Any, path: str, where: str) -> Entry:
    _refuse_tag(node, where)
    return Entry(None, False, where, items=tuple(_concept(each, path) for each in node.value))


def _mixed(node: typing.Any, path: str, key: str) -> Entry:
    """The entry of a list of values and mappings, or of a mapping in its place."""
    where = f"{path}:{node.start_mark.line + 1}: {key}"
    _refuse_tag(node, where)
    several = node.value if node.id == "sequence" else [node]
    items = (
        _concept(each, path, of_source=True)
        if each.id == "mapping"
        else _entry(each, path, key, in_list=True)
        for each in several
    )
    return Entry(None, False, where, items=tuple(items))


def _concept(node: typing.Any, path: str, *, of_source: bool = False) -> Entry:
    """The entry of a concept, or of a source of images, which has no sources of its own."""
    where = f"{path}:{node.start_mark.line + 1}"
    if node.id != "mapping" or node.tag not in _GROUP_TAGS:
        known = node.tag in _PLAIN_TAGS | _GROUP_TAGS
        found = f"a {node.id}" if known else f"the YAML tag {node.tag}"
        return Entry(None, False, where, faults=((where, not_a_concept(found)),))
    if len(node.value) > _MOST_KEYS:
        fault = f"expected at most {_MOST_KEYS} keys, found {len(node.value)}"
        return Entry(None, False, where, faults=((where, fault),))
    members: dict[str, tuple[str, Entry]] = {}
    faults: list[tuple[str, str]] = []
    for key_node, value_node in node.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        try:
            key = _key(key_node, place)
            if key in members:
                raise ConfigError(f"{place}: {key} is given twice", remedy="Leave one of them out.")
            nested = key == SOURCES and not of_source and value_node.id in ("sequence", "mapping")
            members[key] = (place, (_mixed if nested else _entry)(value_node, path, key))
        except ConfigError as error:
            faults.append((place, str(error).removeprefix(f"{place}: ")))
    found = tuple((key, place, entry) for key, (place, entry) in members.items())
    return Entry(None, False, where, members=found, faults=tuple(faults))


def read_configuration(path: str) -> str:
    """Read the text of a configuration file, or of a list of concepts.

    Raises:
      ConfigError: unreadable, too long, or no UTF-8.
    """
    try:
        # A pipe is what a shell makes of `--config <(command)`.
        content = read_regular(os.path.expanduser(path), _LONGEST, silence=_SILENCE)
        return content.decode("utf-8-sig")
    except IsADirectoryError:
        raise ConfigError(
            path, expected="a configuration file", found="a folder", remedy=_suggest_file(path)
        ) from None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", remedy=_suggest_file(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(
            path, expected="a text file in UTF-8", found="other bytes", remedy="Save it as UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path!r}: cannot be read ({reason})") from None


def _suggest_file(path: str) -> str:
    wanted = pathlib.Path(path)
    folders = {wanted.parent, pathlib.Path("configs")}
    found = {file.stem: file for folder in folders for file in folder.glob("*.yaml")}
    close = nearest(wanted.stem, found)
    if close:
        return f"Did you mean {found[close]}?"
    return f"Relative paths start at the current folder, {pathlib.Path.cwd()}."


def _parse(text: str, path: str) -> typing.Any:
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(
            f"{place}: not valid YAML: {problem}",
            remedy="A text with special characters, such as * @ % : or #, belongs in quotes.",
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        found = "brackets within brackets, too deep"
        raise ConfigError(path, expected="lines of the form `name: value`", found=found) from None
    return root


def _require_mapping(root: typing.Any, path: str) -> typing.Any:
    if root is None or root.id != "mapping":
        found = "an empty file" if root is None else f"a {root.id}"
        raise ConfigError(path, expected="lines of the form `name: value`", found=found)
    _refuse_tag(root, path)
    return root


def _key(node: typing.Any, where: str) -> str:
    if node.id != "scalar" or node.tag not in _PLAIN_TAGS:
        raise ConfigError(where, expected="the name of an option before the colon", found=f"a {node.id}")
    return node.value


def _entry(node: typing.Any, path: str, key: str, *, in_list: bool = False) -> Entry:
    where = f"{path}:{node.start_mark.line + 1}: {key}"
    _refuse_tag(node, where)
    if node.id == "sequence" and not in_list:
        items = tuple(_entry(each, path, key, in_list=True) for each in node.value)
        return Entry(text=None, quoted=False, where=where, items=items)
    if node.id != "scalar":
        raise ConfigError(where, expected="a single value", found=f"a {node.id}")
    is_null = node.style is None and node.value in _NULLS
    return Entry(text=None if is_null else node.value, quoted=node.style is not None, where=where)


def _refuse_tag(node: typing.Any, where: str) -> None:
    """Raise a ConfigError if a value is marked as something else than what it looks like."""
    if node.tag not in _PLAIN_TAGS | _GROUP_TAGS:
        raise ConfigError(where, expected="a plain value", found=f"the YAML tag {node.tag}")


def _unknown(
    key: str, where: str, known: typing.Collection[str], groups: typing.Collection[str]
) -> ConfigError:
    close = nearest(key, known)
    remedy = f"Did you mean {close}?" if close else "`python train_flax.py --help all` lists all keys."
    if key in groups:
        remedy = f"Keys are not grouped: write them at the left margin, without `{key}:` above them."
    if key == "config":
        remedy = "A file cannot name another; give --config several times instead."
    return ConfigError(f"{where}: unknown key {key!r}", remedy=remedy)
