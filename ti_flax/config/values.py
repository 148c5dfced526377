"""What one option may hold: its type, choices and range, and how text becomes a value."""

import dataclasses
import functools
import math
import os
import re
import types
import typing

from ti_flax.config.concept_entry import ConceptEntry, entry_of
from ti_flax.config.stepped_values import LARGEST_INT, STEPS_EXAMPLE, looks_stepped, parse_steps
from ti_flax.errors import ConfigError, nearest, shortened

_LONGEST_SHOWN = 80
_LARGEST_FLOAT = 2**1023

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_METAVARS = {bool: "true|false", int: "N", float: "X", str: "TEXT"}
_WHOLE_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What the type of an option does not say.

    Args:
      help: one sentence for `--help`, without the default.
      brief: a few words for the first screen of `--help`, which has only options with such words.
      at_least, at_most: bounds that are themselves allowed.
      above, below: bounds that are not.
      multiple_of: every value is a multiple of it.
      metavar: stands for the value in `--help`.
      path: "input" if it names what is read, "output" if what is written, "" if it is no path; a leading `~`
        becomes the user's home folder, and an input is looked for beside the file that names it first.
      short: a letter that, after one `-`, is a second name of the flag.
      secret: never printed, never stored.
      changes_bits: a resumed run must repeat it to end with the bits of an uninterrupted one.
      when_unset: what null means, for `--help`.
      remedy: what to do after a value that is not allowed.
      needs: conditions without which a value other than the default is refused (`config/conditions.py`).
      only_with: a condition without which the option does nothing, which a note says.
      excludes: conditions beside which a value other than the default is refused.
      value_needs: value to the condition without which that value is refused.
      less_than: another option whose value has to be larger, where both are given.
      required_unless: a condition without which null, or nothing, is refused.
      per_concept: each concept of a run that teaches many may have a value of its own.
      per_word: so may each word of a concept; null in a list is for a word without a value.
    """

    help: str
    brief: str = ""
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: int | None = None
    metavar: str = ""
    path: typing.Literal["", "input", "output"] = ""
    short: str = ""
    secret: bool = False
    changes_bits: bool = False
    when_unset: str = ""
    remedy: str = ""
    needs: tuple[str, ...] = ()
    only_with: str = ""
    excludes: tuple[str, ...] = ()
    value_needs: typing.Mapping[str, str] = dataclasses.field(default_factory=dict)
    less_than: str = ""
    required_unless: str = ""
    per_concept: bool = False
    per_word: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One name of the configuration: the key in a file and, after `--`, the flag.

    `stepped` options hold a number, or text that says until which step each of several numbers holds.
    `listed` ones hold text, or a list of concepts; each value of `mixed` ones may be a mapping. `words` are
    texts that stand in place of a number.
    """

    name: str
    kind: type
    rule: Rule
    nullable: bool = False
    many: bool = False
    stepped: bool = False
    listed: bool = False
    mixed: bool = False
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    default: object  # dataclasses.MISSING: the option is required

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def one(self) -> "Option":
        """The same for one of several values; one for each word may be null where all may."""
        return dataclasses.replace(self, many=False, nullable=self.nullable and self.rule.per_word)

    @property
    def empty(self) -> bool:
        """Whether the default is no value at all, which `when_unset` then explains."""
        return self.default in (None, "", ())

    def left_out(self, value: object) -> bool:
        """Tell the empty default of an option that is required in other runs."""
        return bool(self.rule.required_unless) and not self.nullable and self.empty and value == self.default

    @property
    def metavar(self) -> str:
        return self.rule.metavar or "|".join(self.choices or (_METAVARS[self.kind], *self.words))

    @property
    def default_text(self) -> str:
        """The default as a person would write it, or what it means to have none."""
        if self.empty:
            return self.rule.when_unset
        if self.kind is bool:
            return str(self.default).lower()
        return ", ".join(map(str, self.default if isinstance(self.default, tuple) else (self.default,)))

    @property
    def expected(self) -> str:
        """The values allowed, as a phrase that follows "expected"."""
        phrase = f"one of {', '.join(self.choices)}" if self.choices else _KINDS[self.kind]
        rule = self.rule
        limits = (">=", rule.at_least), (">", rule.above), ("<=", rule.at_most), ("<", rule.below)
        bounds = [f"{sign} {bound:.10g}" for sign, bound in limits if bound is not None]
        bounds += [f"a multiple of {rule.multiple_of}"] if rule.multiple_of else []
        phrase = f"{phrase} {' and '.join(bounds)}".rstrip()
        phrase = (", " if self.nullable else " or ").join((phrase, *self.words))
        phrase += ", or a list of such" if self.many else ", or a list of concepts" if self.listed else ""
        return f"{phrase}, or null" if self.nullable else phrase


def option(default: typing.Any = dataclasses.MISSING, **rule: typing.Any) -> typing.Any:
    """Declare a field of an options group; `rule` holds the fields of `Rule`."""
    made = Rule(**rule)
    return dataclasses.field(default=default, repr=not made.secret, metadata={"rule": made})


@functools.cache
def options_of(group: type) -> tuple[Option, ...]:
    """Return the options a group class declares, in order."""
    return tuple(_option_from(field) for field in dataclasses.fields(group))


def _members(kind: typing.Any) -> tuple:
    # `Literal[...] | None` is a typing.Union before Python 3.14, `int | None` is not.
    union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if union else (kind,)


def _without_none(kind: typing.Any) -> typing.Any:
    return next(member for member in _members(kind) if member is not types.NoneType)


def _option_from(field: dataclasses.Field) -> Option:
    members, kind = _members(field.type), _without_none(field.type)
    many = typing.get_origin(kind) is tuple
    each = typing.get_args(kind)[0] if many else None
    kind = _without_none(each) if many else kind
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    others = () if choices else (each for each in members if typing.get_origin(each) is typing.Literal)
    return Option(
        name=field.name,
        kind=str if choices else typing.cast(type, kind),
        rule=field.metadata["rule"],
        nullable=types.NoneType in members,
        many=many,
        stepped=float in members and str in members,
        listed=str in members and any(typing.get_origin(member) is tuple for member in members),
        mixed=ConceptEntry in _members(each),
        choices=choices,
        words=tuple(word for each in others for word in typing.get_args(each)),
        default=field.default,
    )


def value_from_text(option: Option, text: str, where: str) -> object:
    """Convert what a person wrote on the command line or in a file.

    Args:
      option: whose value it is.
      text: as written, without quotes.
      where: the flag, or the file, line and key, for the message.

    Raises:
      ConfigError: the text is no such value, or outside the range.
    """
    if text in option.words or option.stepped and looks_stepped(text):
        return checked(option, text, where)
    try:
        value = _convert(option.kind, text)
    except ValueError:
        raise wrong_value(option, text, where) from None
    if option.rule.path and text.startswith("~"):
        value = os.path.expanduser(text)
    return checked(option, value, where)


def _convert(kind: type, text: str) -> object:
    if kind is bool:
        if text.lower() not in _WORDS:
            raise ValueError(text)
        return _WORDS[text.lower()]
    if kind is int and not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(text)
    return kind(text)


def checked(option: Option, value: object, where: str) -> object:
    """Return `value`, or raise `ConfigError`.

    A whole number becomes a float where a float is meant; an option of several values gets a tuple.
    """
    if value is None and option.nullable:
        return None
    if option.listed and isinstance(value, (list, tuple)) and value:
        return tuple(entry_of(each, f"place {place}") for place, each in enumerate(value, start=1))
    if option.mixed and isinstance(value, (typing.Mapping, ConceptEntry)):
        return entry_of(value, where) if not option.many else (entry_of(value, where),)
    if option.many:
        several = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if not several:
            raise wrong_value(option, value, where)
        return tuple(checked(option.one, each, where) for each in several)
    if isinstance(value, str) and value in option.words:
        return value
    if option.stepped and isinstance(value, str) and looks_stepped(value):
        return _checked_steps(option, value, where)
    if option.kind is float and type(value) is int:
        value = float(value) if abs(value) < _LARGEST_FLOAT else math.inf
    if type(value) is not option.kind or not _allowed(option, value):
        raise wrong_value(option, value, where)
    return value


def _checked_steps(option: Option, text: str, where: str) -> str:
    try:
        steps = parse_steps(text)
    except ValueError as error:
        expected = f'{option.expected}, or steps such as "{STEPS_EXAMPLE}"'
        raise ConfigError(where, expected=expected, found=repr(text), remedy=f"{error}.") from None
    for number, _ in steps:
        if not _allowed(option, number):
            raise wrong_value(option, number, where)
    return text


def _allowed(option: Option, value: typing.Any) -> bool:
    if option.kind is str:
        return (
            bool(value.strip())
            and _is_text(value, rule=option.rule)
            and (not option.choices or value in option.choices)
        )
    if option.kind is bool:
        return True
    rule = option.rule
    at_most = LARGEST_INT if rule.at_most is None and option.kind is int else rule.at_most
    return (
        (isinstance(value, int) or math.isfinite(value))  # whole numbers may be too large to ask
        and (at_most is None or value <= at_most)
        and (rule.at_least is None or value >= rule.at_least)
        and (rule.above is None or value > rule.above)
        and (rule.below is None or value < rule.below)
        and (rule.multiple_of is None or value % rule.multiple_of == 0)
    )


def _is_text(value: str, rule: Rule) -> bool:
    """Tell text from what holds a zero byte or, but for a path, bytes that are no UTF-8."""
    return "\0" not in value and (
        rule.path != "" or not any("\ud800" <= letter <= "\udfff" for letter in value)
    )


def wrong_value(option: Option, value: object, where: str) -> ConfigError:
    """Return the error for a value that does not fit; a secret one is not repeated."""
    found = "null" if value is None else shortened(repr(value), _LONGEST_SHOWN)
    if isinstance(value, str) and not value.strip():
        found = "empty text"
    elif option.rule.secret and value is not None:
        found = "something else"
    close = nearest(value, option.choices or option.words) if isinstance(value, str) else None
    remedy = option.rule.remedy or (f"Did you mean {close}?" if close else "")
    if not remedy and type(value) is int and option.rule.multiple_of:
        least = option.rule.above if option.rule.at_least is None else option.rule.at_least
        inside = value if least is None else max(value, math.floor(least) + 1)
        remedy = nearest_multiples(inside, option.rule.multiple_of, functools.partial(_allowed, option))
    if type(value) is int and abs(value) > LARGEST_INT and option.rule.at_most is None:
        remedy = f"The largest number possible here is {LARGEST_INT}."
    return ConfigError(where, expected=option.expected, found=found, remedy=remedy)


def nearest_multiples(value: int, multiple: int, fits: typing.Callable[[int], bool]) -> str:
    """Return a sentence with the multiples next to a value, of those that fit; empty if none does."""
    below = value // multiple * multiple
    near = [str(each) for each in dict.fromkeys((below, -(-value // multiple) * multiple)) if fits(each)]
    return f"The nearest {'are' if len(near) > 1 else 'is'} {' and '.join(near)}." if near else ""
