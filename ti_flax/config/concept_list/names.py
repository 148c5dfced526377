"""What concepts of one run are called: names that are folders, words that a text cannot mistake."""

import re
import typing

from ti_flax.errors import ConfigError
from ti_flax.files.written_files import CONCEPTS, INDEX, LIST, PARTS

# Of a name in bytes: files are named after it, with endings of their own.
_LONGEST_NAME = 120
_LONGEST_WORD = 255
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
# Names that Windows gives to devices, whatever their suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?", re.IGNORECASE)


def words_of(value: object) -> tuple[str, ...]:
    """The words of a value of placeholder_token."""
    several = value if isinstance(value, tuple) else (value,)
    return tuple(each for each in several if isinstance(each, str))


def name_from(word: str) -> str:
    """The name of a concept by its word: `cat-toy` for `<cat-toy>`."""
    return word.removeprefix("<").removesuffix(">")


def wrong_name(name: str) -> ConfigError | None:
    """The error of a name that cannot be a folder's on every system."""
    problem = ""
    if not name.isprintable() or _FORBIDDEN.search(name):
        problem = ", with signs that names of folders cannot have"
    elif len(name.encode(errors="replace")) > _LONGEST_NAME:
        problem = f", longer than {_LONGEST_NAME} bytes"
    elif not name.strip(". ") or name != name.strip() or name.startswith(".") or name.endswith("."):
        problem = ", with a blank or dot at an end"
    elif _DEVICES.fullmatch(name):
        problem = ", a device of Windows"
    elif name.lower() in (CONCEPTS, INDEX, LIST, *PARTS):
        problem = ", a name of the run's own"
    if not problem:
        return None
    return ConfigError(
        "name",
        expected="a name for the concept's folder, of letters, digits, blanks and - _ . between them",
        found=f"{name!r}{problem}",
        remedy="Give it another `name`.",
    )


def wrong_words(words: typing.Sequence[str]) -> typing.Iterator[ConfigError]:
    """Yield an error for each word that no file could hold."""
    for word in words:
        if len(word) > _LONGEST_WORD:
            found = f"{len(word)} letters"
            yield ConfigError(
                "placeholder_token", expected=f"at most {_LONGEST_WORD} letters and signs", found=found
            )
