"""Reading a model's `config.json`: every field is used, known to be harmless, or refused by name."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ti_flax.errors import WeightsError, shortened

Reader = Callable[[Any], Any]


# Larger than any width of any model, and deeper than any: what is built of it would never end.
_LARGEST, _MOST_LAYERS = 2**20, 256
_INFINITE = float("inf")


def integer(value: Any) -> int:
    """Accept a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise ValueError(f"a positive integer up to {_LARGEST}")
    return value


def layers(value: Any) -> int:
    """Accept a number of layers."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_LAYERS:
        raise ValueError(f"a number of layers, 1 to {_MOST_LAYERS}")
    return value


def count(value: Any) -> int:
    """Accept a whole number, zero included."""
    return 0 if value == 0 and not isinstance(value, bool) else integer(value)


def number(value: Any) -> float:
    """Accept a number and give it as float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _INFINITE:
        raise ValueError("a number")
    return float(value)


def boolean(value: Any) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def integers(value: Any) -> tuple[int, ...]:
    """Accept a list of positive integers."""
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _MOST_LAYERS:
        raise ValueError(f"a list of 1 to {_MOST_LAYERS} positive integers")
    return tuple(integer(entry) for entry in value)


def one_or_more_integers(value: Any) -> int | tuple[int, ...]:
    """Accept a positive integer or a list of them."""
    return integers(value) if isinstance(value, list | tuple) else integer(value)


def one_or_more_layers(value: Any) -> int | tuple[int, ...]:
    """Accept a number of layers or a list of them."""
    return (
        tuple(layers(each) for each in integers(value)) if isinstance(value, list | tuple) else layers(value)
    )


def one_of(*choices: str) -> Reader:
    """Make a reader that accepts the given names alone."""

    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(" or ".join(repr(choice) for choice in choices))
        return value

    return read


def list_of(*choices: str) -> Reader:
    """Make a reader that accepts a list of the given names."""

    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not value or any(entry not in choices for entry in value):
            raise ValueError("a list of " + ", ".join(repr(choice) for choice in choices))
        return tuple(value)

    return read


def given(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not null: null says no more than a field that is left out."""
    return {name: value for name, value in config_json.items() if value is not None}


def supported_fields(
    config_json: Mapping[str, Any],
    where: str,
    *,
    read: Mapping[str, Reader],
    fixed: Mapping[str, tuple],
    informational: Collection[str],
) -> dict[str, Any]:
    """Return the fields that `read` names, after checking that no other field changes the mathematics.

    What is null is left to the default.

    Args:
      config_json: the parsed file.
      where: the file's name, for messages.
      read: fields the model uses, each with the reader that checks and converts its value.
      fixed: fields the model has no choice in, each with the values that mean what the model does.
      informational: fields that say nothing about the mathematics. So do all that begin with `_`.

    Raises:
      WeightsError: naming the field, its value and what is supported.
    """
    values = {}
    for name, value in given(config_json).items():
        if name.startswith("_") or name in informational:
            continue
        if name in read:
            values[name] = _read_field(read[name], value, f"{where}, field {name}")
        elif not _is_neutral(value, fixed.get(name, (None, False))):
            _refuse(name, value, where, fixed)
    return values


def require(condition: bool, where: str, expected: str, found: object) -> None:
    """Raise a WeightsError about fields that contradict one another unless `condition` holds."""
    if not condition:
        raise WeightsError(where, expected=expected, found=str(found), remedy="Check the file.")


def per_block(value: int | tuple[int, ...], blocks: int, where: str) -> tuple[int, ...]:
    """Repeat a single number for every block, or check that a list has one entry for each."""
    if isinstance(value, int):
        return (value,) * blocks
    require(len(value) == blocks, where, f"{blocks} entries, one for each block", list(value))
    return value


def _read_field(reader: Reader, value: Any, where: str) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise WeightsError(where, expected=str(error), found=shortened(repr(value), 80)) from None


def _is_neutral(value: Any, accepted: tuple) -> bool:
    """Tell whether a value, or every entry of a list, is among the accepted ones (1 and True differ)."""
    entries = value if isinstance(value, list | tuple) and value else (value,)
    return all(
        any(entry == known and isinstance(entry, bool) == isinstance(known, bool) for known in accepted)
        for entry in entries
    )


def _refuse(name: str, value: Any, where: str, fixed: Mapping[str, tuple]) -> None:
    if name not in fixed:
        raise WeightsError(
            where,
            expected="only fields of Stable Diffusion 1.x, 2.x and XL models",
            found=f"the unknown field {name}: {value!r}",
            remedy="This kind of model is not supported.",
        )
    raise WeightsError(
        f"{where}, field {name}",
        expected=" or ".join(repr(known) for known in fixed[name]),
        found=repr(value),
        remedy="Models with another value are not supported.",
    )
