"""What every program says of arguments that it does not take."""

import argparse
import re
import typing
from collections.abc import Mapping, Sequence

from ti_flax.errors import ConfigError, nearest

_KINDS = {"int": "a whole number", "float": "a number", "Path": "a path"}


class ArgumentParser(argparse.ArgumentParser):
    """Raises a ConfigError of one line where argparse would print its usage before the line, and exit.

    Args:
      expected: flag to what its value may be, a phrase that follows "expected"; of others the type is named.
      all_help: the flags that print everything.
      others: what argparse takes.
    """

    def __init__(
        self,
        *,
        expected: Mapping[str, str] | None = None,
        all_help: str = "--help",
        **others: typing.Any,
    ):
        super().__init__(exit_on_error=False, **others)
        self._expected, self._all_help = expected or {}, all_help

    # argparse declares overloads, by what the namespace is.
    def parse_args(self, args: Sequence[str] | None = None, namespace: typing.Any = None) -> typing.Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            raise self._unknown(rest[0])
        return parsed

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: typing.Any = None) -> typing.Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            raise self._misuse(error) from None

    def error(self, message: str) -> typing.NoReturn:
        raise self._misuse(argparse.ArgumentError(None, message))

    @property
    def _lists_all(self) -> str:
        return f"{self.prog} {self._all_help} lists all flags."

    def _misuse(self, error: argparse.ArgumentError) -> ConfigError:
        flag, message = (error.argument_name or "").rpartition("/")[2], error.message
        if found := re.fullmatch(r"invalid (\w+) value: (.*)", message, re.DOTALL):
            return ConfigError(flag, expected=self._expected_of(flag, found[1]), found=found[2])
        if found := re.fullmatch(r"invalid choice: (.*) \(choose from .*\)", message, re.DOTALL):
            close = nearest(found[1].strip("'\""), map(str, self._choices(flag)))
            remedy = f"Did you mean {close}?" if close else ""
            return ConfigError(flag, expected=self._expected_of(flag), found=found[1], remedy=remedy)
        if re.fullmatch("expected (at least )?one argument", message):
            dashed = flag.startswith("-")
            remedy = f"A value that begins with - is written {flag}=VALUE." if dashed else ""
            return ConfigError(flag, expected=self._expected_of(flag), found="no value", remedy=remedy)
        if found := re.fullmatch(r"expected (\d+) arguments", message):
            return ConfigError(flag, expected=f"{found[1]} values", found="another number of them")
        if message.startswith("ignored explicit argument"):
            return ConfigError(f"{flag} takes no value")
        if found := re.fullmatch(r"not allowed with argument (.*)", message):
            return ConfigError(f"{flag} and {found[1].rpartition('/')[2]} exclude each other")
        if found := re.fullmatch(r"the following arguments are required: (.*)", message):
            return ConfigError(f"missing: {found[1]}", remedy=self._lists_all)
        if found := re.fullmatch(r"one of the arguments (.*) is required", message):
            return ConfigError(f"missing: {' or '.join(found[1].split())}", remedy=self._lists_all)
        if found := re.fullmatch(r"ambiguous option: (\S*) could match (.*)", message):
            return ConfigError(
                f"{found[1].partition('=')[0]} may mean {found[2]}", remedy="Write it in full."
            )
        return ConfigError(f"{flag}: {message}" if flag else message, remedy="" if flag else self._lists_all)

    def _action(self, flag: str) -> argparse.Action | None:
        return next(
            (each for each in self._actions if flag in (*each.option_strings, each.metavar, each.dest)), None
        )

    def _choices(self, flag: str) -> Sequence[object]:
        action = self._action(flag)
        return tuple(action.choices or ()) if action else ()

    def _expected_of(self, flag: str, kind: str = "") -> str:
        if flag in self._expected:
            return self._expected[flag]
        if choices := self._choices(flag):
            return f"one of {', '.join(map(str, choices))}"
        action = self._action(flag)
        kind = kind or getattr(action and action.type, "__name__", "")
        return _KINDS.get(kind, "a value")

    def _unknown(self, argument: str) -> ConfigError:
        flag = argument.partition("=")[0]  # the rest may be a token
        flags = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        if not flag.startswith("-"):
            return ConfigError(
                f"{argument!r} belongs to no flag",
                remedy=f"Options are written --name value. {self._lists_all}",
            )
        close = nearest(flag.lstrip("-"), [name.removeprefix("--") for name in flags])
        return ConfigError(
            f"unknown flag {flag}", remedy=f"Did you mean --{close}?" if close else self._lists_all
        )
