"""One concept of a list as its author wrote it, before it is merged with what the run says."""

import dataclasses
import typing

# The key whose values may be mappings of their own: a source of images, with its options.
SOURCES = "train_data_dir"


@dataclasses.dataclass(frozen=True)
class ConceptEntry:
    """The keys of one concept, each with its value and its place.

    Values that do not fit their option, and keys that nobody knows, stay as they were written:
    `config/concept_list` finds the faults of all concepts and reports them together.

    Args:
      values: key and value, in order; several values are a tuple.
      where: file and line, or the place in the list, for messages.
      places: key to file and line, where they are known.
      faults: places and sentences on what cannot be kept as a value.
    """

    values: tuple[tuple[str, object], ...]
    where: str = dataclasses.field(default="", compare=False)
    places: tuple[tuple[str, str], ...] = dataclasses.field(default=(), compare=False)
    faults: tuple[tuple[str, str], ...] = dataclasses.field(default=(), compare=False)

    def place(self, key: str) -> str:
        """Where a key stands, as far as it is known."""
        return dict(self.places).get(key, self.where)

    def to_plain(self) -> dict[str, object]:
        """The keys and values as a mapping of plain values."""
        return {key: _as_written(value) for key, value in self.values}


def _as_written(value: object) -> object:
    if isinstance(value, tuple):
        return [_as_written(each) for each in value]
    return value.to_plain() if isinstance(value, ConceptEntry) else value


def entry_of(value: object, where: str, *, of_source: bool = False) -> ConceptEntry:
    """Keep one item of a list of Python values.

    Args:
      value: a mapping of keys to plain values; whatever else is kept as a fault.
      where: its place, for messages.
      of_source: it is a source of images, which has no sources of its own.
    """
    if isinstance(value, ConceptEntry):
        return value if value.where else dataclasses.replace(value, where=where)
    if not isinstance(value, typing.Mapping):
        return ConceptEntry((), where, faults=((where, not_a_concept(kind_of(value))),))
    kept: list[tuple[str, object]] = []
    faults: list[tuple[str, str]] = []
    for key, each in value.items():
        if not isinstance(key, str):
            faults.append((where, f"expected the name of an option as a key, found {kind_of(key)}"))
        elif key == SOURCES and not of_source and (sources := _sources(each, where)):
            kept.append((key, sources))
        elif (plain := _plain(each)) is None and each is not None:
            faults.append((where, f"{key}: expected a plain value or a list of such, found {kind_of(each)}"))
        else:
            kept.append((key, plain))
    return ConceptEntry(tuple(kept), where, faults=tuple(faults))


def not_a_concept(found: str) -> str:
    """The fault of an item that is no mapping."""
    return f"expected a concept as lines of the form `name: value`, found {found}"


def kind_of(value: object) -> str:
    """What a value is, for people who write YAML or JSON."""
    if value is None:
        return "null"
    for kinds, name in (
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "text"),
        ((list, tuple), "a list"),
        (typing.Mapping, "a mapping"),
    ):
        if isinstance(value, kinds):
            return name
    return f"a {type(value).__name__}"


def _sources(value: object, where: str) -> tuple[object, ...]:
    """Sources of images, mappings kept as entries; empty where there is no mapping, or what is no source."""
    several = value if isinstance(value, (list, tuple)) else (value,)
    kept = tuple(
        entry_of(each, where, of_source=True) if _is_mapping(each) else _plain(each) for each in several
    )
    return (
        kept
        if any(map(_is_mapping, several)) and all(isinstance(each, (str, ConceptEntry)) for each in kept)
        else ()
    )


def _is_mapping(value: object) -> bool:
    return isinstance(value, (typing.Mapping, ConceptEntry))


def _plain(value: object) -> object:
    """A value that can be kept and compared; None for one that cannot."""
    if isinstance(value, (list, tuple)):
        several = tuple(value)
        plain = all(each is None or isinstance(each, (bool, int, float, str)) for each in several)
        return several if plain else None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value) if hasattr(value, "__fspath__") else None
