"""The JSON Schema of a configuration file, from the options, for editors that complete and check it.

It says what each key may hold; what options ask of one another is in their descriptions.
"""

import dataclasses
import typing
from collections.abc import Iterable

from ti_flax.config.concept_list.custom_diffusion import OTHER_KEYS
from ti_flax.config.conditions import asked_of_others
from ti_flax.config.flags import REFERENCE_ONLY
from ti_flax.config.image_sources import PATH, PER_SOURCE
from ti_flax.config.run_config import OPTIONS
from ti_flax.config.stepped_values import LARGEST_INT
from ti_flax.config.values import Option

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TITLE = "Configuration of ti_flax train"
_DESCRIPTION = "Keys of a YAML file for --config; each is also a flag, and flags win."
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}

Schema = dict[str, typing.Any]


def config_schema() -> Schema:
    """Return the schema of a whole configuration file (JSON Schema, draft 2020-12).

    No key is required, as flags and other files may have it.
    """
    options = {name: _property(option) for name, option in OPTIONS.items()}
    others = {
        name: {**_property(option), "deprecated": True, "description": f"Does nothing: {option.rule.help}."}
        for name, option in REFERENCE_ONLY.items()
    }
    return {
        "$schema": DIALECT,
        "title": _TITLE,
        "description": _DESCRIPTION,
        "type": "object",
        "properties": {**options, **others},
        "additionalProperties": False,
        "$defs": {
            "concept": _concept(),
            "source": _source(PER_SOURCE),
            "concept_source": _source(name for name in PER_SOURCE if OPTIONS[name].rule.per_concept),
        },
    }


def _concept() -> Schema:
    """The schema of one concept of a list."""
    own = [name for name, option in OPTIONS.items() if option.rule.per_concept]
    properties = {
        "name": {"type": "string", "description": "Name of the concept and of its folder below output_dir."},
        **{name: _of_concept(OPTIONS[name]) for name in own},
        **{name: {"description": "A key of Custom Diffusion's lists."} for name in OTHER_KEYS},
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _of_concept(option: Option) -> Schema:
    """An option in a concept of a list; sources of its images set less there than in a run of one concept."""
    if option.mixed:
        return {"description": _description(option), **_of_values(option, "concept_source")}
    return {"$ref": f"#/properties/{option.name}"}


def _source(own: Iterable[str]) -> Schema:
    """The schema of one source of images with options of its own."""
    properties = {
        PATH: {"type": "string", "pattern": r"\S", "description": "Where its images are."},
        **{name: {"$ref": f"#/properties/{name}"} for name in own},
    }
    return {"type": "object", "properties": properties, "required": [PATH], "additionalProperties": False}


def _property(option: Option) -> Schema:
    described: Schema = {"description": _description(option), **_of_values(option)}
    if not option.required and not option.left_out(option.default):
        described["default"] = _plain(option.default)
    return described


def _description(option: Option) -> str:
    asked = asked_of_others(option)
    default = f" Default: {option.default_text}." if not option.required and option.default_text else ""
    return f"{option.rule.help.rstrip('.')}{'; ' if asked else ''}{asked}.{default}"


def _plain(value: object) -> object:
    """A default as a file would have it: one value of an option that may have several stands alone."""
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else list(value)
    return value


def _of_values(option: Option, source: str = "source") -> Schema:
    """What an option may hold: one value, or a list of such, or null."""
    kinds = _kinds(dataclasses.replace(option, nullable=False))
    if option.mixed:
        kinds = [*kinds, {"$ref": f"#/$defs/{source}"}]
    if option.many:
        null = [{"type": "null"}] if option.one.nullable else []
        kinds = [*kinds, {"type": "array", "items": _any([*kinds, *null]), "minItems": 1}]
    if option.listed:
        kinds = [*kinds, {"type": "array", "items": {"$ref": "#/$defs/concept"}, "minItems": 1}]
    return _any([*kinds, *([{"type": "null"}] if option.nullable else [])])


def _any(kinds: list[Schema]) -> Schema:
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _kinds(option: Option) -> list[Schema]:
    """The kinds of a single value."""
    rule = option.rule
    if option.choices:
        return [{"enum": [*option.choices]}]
    if option.kind is str:
        return [{"type": "string", "pattern": r"\S"}]
    kind: Schema = {"type": _TYPES[option.kind]}
    at_most = LARGEST_INT if rule.at_most is None and option.kind is int else rule.at_most
    bounds = {
        "minimum": rule.at_least,
        "exclusiveMinimum": rule.above,
        "maximum": at_most,
        "exclusiveMaximum": rule.below,
        "multipleOf": rule.multiple_of,
    }
    kind |= {name: bound for name, bound in bounds.items() if bound is not None}
    words = [{"enum": [*option.words]}] if option.words else []
    stepped = [{"type": "string", "pattern": "[:,]"}] if option.stepped else []
    return [kind, *words, *stepped]
