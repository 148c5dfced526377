"""What stands in a configuration file -> values of options; paths are looked for beside the file."""

import dataclasses
import os
import typing

from ti_flax.config.concept_entry import ConceptEntry
from ti_flax.config.run_config import OPTIONS
from ti_flax.config.stepped_values import looks_stepped
from ti_flax.config.values import Option, value_from_text, wrong_value
from ti_flax.config.yaml_file import Entry
from ti_flax.errors import ConfigError

# Keys beside options that name what is read: of a source of images, and of other trainers' lists.
_OTHER_PATHS = ("instance_data_dir", "path")


def value_in_file(option: Option, entry: Entry, folder: str = "") -> object:
    """Convert one line of a file.

    Args:
      option: whose value it is.
      entry: as it is written.
      folder: of the file, for the paths in a mapping.

    Raises:
      ConfigError: it is no value of the option.
    """
    if option.mixed and (entry.members is not None or entry.faults):
        return source_in_file(entry, folder)
    if entry.items is not None:
        if not (option.many and entry.items):
            found = "a list" if entry.items else "an empty list"
            raise ConfigError(entry.where, expected=option.expected, found=found)
        return tuple(value_in_file(option.one, each, folder) for each in entry.items)
    if entry.text is None:
        if option.nullable:
            return None
        raise wrong_value(option, None, entry.where)
    if entry.quoted and option.kind is not str and not (option.stepped and looks_stepped(entry.text)):
        raise ConfigError(
            entry.where,
            expected=option.expected,
            found=f"the text {entry.text!r}",
            remedy="Leave the quotes out.",
        )
    return value_from_text(option, entry.text, entry.where)


def source_in_file(entry: Entry, folder: str) -> ConceptEntry:
    """Keep a source of images that is written as a mapping; one value of several stands alone."""
    kept = concept_in_file(entry, folder)
    values = (
        (key, each[0] if isinstance(each, tuple) and len(each) == 1 else each) for key, each in kept.values
    )
    return dataclasses.replace(kept, values=tuple(values))


def concept_in_file(entry: Entry, folder: str) -> ConceptEntry:
    """Keep one concept of a file; what does not fit stays as it is written.

    Args:
      entry: an item of a list of concepts, or the whole of a concept's own file.
      folder: of the file, for the paths in it.
    """
    members = entry.members or ()
    values = tuple((key, _value_or_text(key, each)) for key, _, each in members)
    places = tuple((key, place) for key, place, _ in members)
    return with_paths(ConceptEntry(values, entry.where, places, entry.faults), folder)


def _value_or_text(key: str, entry: Entry) -> object:
    if key in OPTIONS:
        try:
            value = value_in_file(OPTIONS[key], entry)
            if OPTIONS[key].rule.per_word and entry.items is None and isinstance(value, tuple):
                return value[0]  # what one value is written as
            return value
        except ConfigError:  # found again where all faults are collected
            pass
    return _written(entry)


def _written(entry: Entry) -> object:
    return entry.text if entry.items is None else tuple(_written(each) for each in entry.items)


def with_paths(entry: ConceptEntry, folder: str) -> ConceptEntry:
    """Look for what a concept reads beside the file that lists it, and in the user's home after `~`."""
    values = tuple(
        (key, _beside_if_text(folder, value) if _names_input(key) else value) for key, value in entry.values
    )
    return dataclasses.replace(entry, values=values)


def _names_input(key: str) -> bool:
    return key in _OTHER_PATHS or (key in OPTIONS and OPTIONS[key].rule.path == "input")


def _beside_if_text(folder: str, value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_beside_if_text(folder, each) for each in value)
    if isinstance(value, ConceptEntry):  # a source of images
        return with_paths(value, folder)
    return beside(folder, os.path.expanduser(value)) if isinstance(value, str) else value


def beside(folder: str, value: typing.Any) -> typing.Any:
    """A path in a file: beside that file if it exists there, otherwise as it is."""
    if isinstance(value, ConceptEntry):
        return value
    if isinstance(value, tuple):
        return tuple(beside(folder, each) for each in value)
    if not value or not folder:
        return value
    token, mark, path = value.rpartition("=")  # an embedding may have its word before it
    for before, name in (("", value), (token + mark, path)):
        there = os.path.join(folder, name)
        if name and os.path.exists(there):
            plain = os.path.normpath(there)  # without "..", unless a symbolic link gives that another meaning
            same = os.path.exists(plain) and os.path.samefile(plain, there)
            return before + (plain if same else there)
    return value
