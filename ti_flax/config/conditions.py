"""What an option asks of other options: conditions, checked and put in words.

A condition is a text of its own words: `alpha_mask or mask_dir` holds where one of these options has another
value than its default, `loss_type huber|smooth_l1` where the option has one of these values.
"""

import typing

from ti_flax.config.presets import PRESETS
from ti_flax.config.values import Option
from ti_flax.errors import ConfigError

Options = typing.Mapping[str, Option]
Values = typing.Mapping[str, typing.Any]


def of_each_word(options: Options, values: Values) -> list[Values]:
    """Return the values as each word of the concept has them, once where all words have the same.

    Of an option that words may have for themselves there is a tuple of one value then, or None.
    """
    names = [name for name, option in options.items() if option.rule.per_word and name != "placeholder_token"]
    given = {name: _several(values[name]) for name in names}
    return [
        {**values, **{name: _own(each, place) for name, each in given.items()}}
        for place in range(max(1, *map(len, given.values())))
    ]


def _several(value: object) -> tuple:
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return () if value is None else (value,)


def _own(several: tuple, place: int) -> tuple | None:
    """The value of the word at a place, of one value that of all."""
    value = several[min(place, len(several) - 1)] if several else None
    return None if value is None else (value,)


def parts_of(condition: str) -> list[tuple[str, list[str]]]:
    """Return the options of a condition, each with the values it may have; with none, it has to be given."""
    parts = (part.partition(" ") for part in condition.split(" or "))
    return [(name, values.split("|") if values else []) for name, _, values in parts]


def holds(condition: str, values: Values, options: Options) -> bool:
    """Tell whether a condition is met."""
    return any(
        any(text in wanted for text in _texts(values[name])) if wanted else is_given(options[name], values)
        for name, wanted in parts_of(condition)
    )


def _texts(value: object) -> list[str]:
    """The values of an option as they are written."""
    return [str(each) for each in (value if isinstance(value, tuple) else (value,))]


def is_given(option: Option, values: Values) -> bool:
    """Tell whether an option has another value than its default, and is not switched off."""
    return values[option.name] is not False and values[option.name] != option.default


def in_words(condition: str) -> str:
    """Say a condition as it is printed: `loss_type huber or smooth_l1`."""
    return " or ".join(
        f"{name} {', '.join(wanted[:-1])}{' or ' if wanted[1:] else ''}{wanted[-1]}" if wanted else name
        for name, wanted in parts_of(condition)
    )


def asked_of_others(option: Option) -> str:
    """Say what an option asks of others, for its help; empty if nothing."""
    rule = option.rule
    clauses = [f"requires {' and '.join(map(in_words, rule.needs))}"] if rule.needs else []
    clauses += [f"only with {in_words(rule.only_with)}"] if rule.only_with else []
    clauses += [f"not with {' or '.join(map(in_words, rule.excludes))}"] if rule.excludes else []
    for needed in dict.fromkeys(rule.value_needs.values()):
        asking = [value for value, its in rule.value_needs.items() if its == needed]
        clauses.append(f"{' and '.join(asking)} {'require' if asking[1:] else 'requires'} {in_words(needed)}")
    clauses += [f"less than {rule.less_than}"] if rule.less_than else []
    return "; ".join(clauses)


def missing_values(options: Options, values: Values) -> typing.Iterator[ConfigError]:
    """Yield an error for each option that has to be given here and is not."""
    for option in options.values():
        unless = option.rule.required_unless
        words = of_each_word(options, values)
        lacking = [each for each in words if each[option.name] == option.default]
        if unless and not all(holds(unless, each, options) for each in lacking):
            each = " for each word" if len(lacking) < len(words) else ""
            yield ConfigError(f"{option.name} is required{each}, unless {in_words(unless)} is given")


def unmet_conditions(options: Options, values: Values) -> typing.Iterator[ConfigError]:
    """Yield an error for each condition that is not met, with the names of both sides.

    In a run that teaches many concepts, what a concept may change is not asked here but of each concept.
    """
    said: set[str] = set()
    for each in of_each_word(options, values):
        for error in _unmet_of_word(options, each):
            if str(error) not in said:
                said.add(str(error))
                yield error


def _unmet_of_word(options: Options, values: Values) -> typing.Iterator[ConfigError]:
    many = values["concepts"] is not None
    for option in options.values():
        if is_given(option, values):
            yield from _unmet_of(option, values, options, many)
        needed = option.rule.value_needs.get(str(values[option.name]), "")
        asked = needed and not (many and (option.rule.per_concept or _is_per_concept(needed, options)))
        if asked and not holds(needed, values, options):
            instead = f"choose another {option.name}"
            yield _unmet(f"{option.name} {values[option.name]}", needed, values, instead)


def _is_per_concept(condition: str, options: Options) -> bool:
    return any(options[name].rule.per_concept for name, _ in parts_of(condition))


def _unmet_of(option: Option, values: Values, options: Options, many: bool) -> typing.Iterator[ConfigError]:
    name, rule = option.name, option.rule
    asked = [
        condition
        for condition in (*rule.needs, *rule.excludes)
        if condition == "concepts" or not (many and (rule.per_concept or _is_per_concept(condition, options)))
    ]
    for needed in rule.needs:
        if needed in asked and not holds(needed, values, options):
            yield _unmet(name, needed, values, f"leave {name} out")
    for excluded in rule.excludes:
        if excluded in asked and holds(excluded, values, options):
            yield _excluded(name, excluded, values)
    other = values.get(rule.less_than)
    if other is not None and values[name] is not None and values[name] >= other:
        yield ConfigError(name, expected=f"less than {rule.less_than} ({other})", found=str(values[name]))


def _excluded(name: str, excluded: str, values: Values) -> ConfigError:
    other, wanted = parts_of(excluded)[0]
    described = f"{other} {values[other]}" if wanted else other
    preset, of_preset, remedy = values["preset"], "", "Leave one of them out."
    if values[other] == PRESETS.get(preset, {}).get(other):
        of_preset = f" of preset {preset}"
        instead = f"choose another {other}" if wanted else f"set {other} to {_unset(values[other])}"
        remedy = f"Leave {name} out, or {instead} beside the preset."
    return ConfigError(f"{name} and {described}{of_preset} exclude each other", remedy=remedy)


def _unset(value: object) -> str:
    return "false" if value is True else "null"


def _unmet(name: str, needed: str, values: Values, instead: str) -> ConfigError:
    other, wanted = parts_of(needed)[0]
    found = ("null" if values[other] is None else ", ".join(_texts(values[other]))) if wanted else ""
    setting = f"{other} to {wanted[0]}" if wanted else other
    return ConfigError(
        f"{name} requires {in_words(needed)}", found=found, remedy=f"Set {setting}, or {instead}."
    )
