"""Errors meant for people: where it happened, what was expected, what was found, what to do."""

import difflib
import re
import typing

# EX_TEMPFAIL of sysexits.h: a failure that passes, so whoever started the program may start it again.
START_AGAIN = 75
# The most letters of a value that a message shows.
_LONGEST_SHOWN = 400
_TOKENS = re.compile(r"\b(?:hf|api_org)_\w{4,}|(?<=bearer )\S+", re.IGNORECASE)
_USER_OF_LINK = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_QUERY_OF_LINK = re.compile(r"(?<=://)([^\s?]*\?)[^\s'\"),]+")


class TiFlaxError(Exception):
    """Base of every error that prints as one line and ends the program with exit code 2.

    Args:
      where: the file, option or object at fault.
      expected: what would have been right.
      found: what was there instead.
      remedy: what the reader can do about it, a full sentence.
    """

    def __init__(self, where: object, *, expected: str = "", found: str = "", remedy: str = ""):
        parts = []
        if expected:
            parts.append(f"expected {expected}")
        if found:
            parts.append(f"found {shortened(found)}")
        place = shortened(str(where))
        sentence = f"{place}: {', '.join(parts)}" if parts else place
        if remedy:
            sentence = f"{sentence.rstrip('.')}. {remedy}"
        super().__init__(printable(" ".join(sentence.split())))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows below the cell, where it shows a traceback of other errors."""
        return [f"error: {line}" for line in str(self).splitlines()]


class ConfigError(TiFlaxError):
    """An option or configuration file is unknown, missing, mistyped or contradictory."""


class TokenError(TiFlaxError):
    """A placeholder or initializer does not fit the tokenizer."""


class DataError(TiFlaxError):
    """Training images cannot be found or decoded."""


class WeightsError(TiFlaxError):
    """A model folder is incomplete, unsupported, or does not fit its configuration."""


class CheckpointError(TiFlaxError):
    """A checkpoint cannot be read, or belongs to another run."""


class OutputError(TiFlaxError):
    """A result cannot be written, or would overwrite a finished one."""


def nearest(name: str, known: typing.Iterable[str]) -> str | None:
    """Return the known name closest to a misspelt one, or None."""
    spelling = name.strip().lower().replace("-", "_")
    return next(iter(difflib.get_close_matches(spelling, list(known), n=1)), None)


def unwritable(folder: object, error: OSError) -> OutputError:
    """The error of an output folder that cannot be made or filled."""
    return OutputError(
        folder,
        expected="a folder that can be written",
        found=(error.strerror or str(error)).lower(),
        remedy="Choose another output_dir.",
    )


def in_short(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


class DeviceError(TiFlaxError):
    """There is no device to compute on, or it cannot be used."""

    def __init__(self, where: object, found: str, remedy: str):
        super().__init__(where, expected="a device that JAX can use", found=found, remedy=remedy)


class TrainingError(TiFlaxError):
    """Training produced values that cannot be used."""


class Stopped(KeyboardInterrupt):
    """The run was asked to end before it was done; the same command, started again, goes on."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows below the cell."""
        return [str(self)]


def printable(text: str) -> str:
    """Return a text in which control characters, and bytes that were no text, are written as escapes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def one_line(text: str) -> str:
    """Return a text as `printable` does, ends of lines included."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def shortened(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """Return a text without the middle of what is too long to be read."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]} ... {text[-(longest // 2) :]}"


def _escaped(character: str) -> str:
    if character in "\n\t":
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte of a name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def redacted(text: str, *secrets: str | None) -> str:
    """The text with `***` for what is secret: access tokens, and users and queries of links.

    Args:
      text: of an error, say.
      secrets: texts that are secret whatever they look like; None and "" are passed over.
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = _USER_OF_LINK.sub("***", _TOKENS.sub("***", text))
    return _QUERY_OF_LINK.sub(r"\1***", text)
