"""What a page says of a run beside its curves and images, kept in the run's folder as `run.json`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ti_flax.files.atomic import atomic_write
from ti_flax.files.written_files import record
from ti_flax.monitoring.report.files import read_own_json

FILE = "run.json"

# Of bytes, letters, entries of a mapping and counted things: what a run writes is far below.
_LARGEST_FILE = 2**22
_LONGEST_TEXT = 2**16
_MOST_ENTRIES = 1000
_LARGEST_COUNT = 2**53
_LONGEST_TIME = 1e9
KINDS = ("object", "style")


@dataclass(frozen=True)
class RunFacts:
    """A run, as far as its files do not say it already.

    Attributes:
      token: the new word, or several as a prompt has them: `<cat> and <hat>`.
      kind: object or style.
      vectors: rows it has.
      width: numbers of a row of the first text encoder.
      second_width: likewise of SDXL's second; 0 without one.
      words: of several words, how many of the vectors each has; empty for one.
      starts: of several words, what each was before.
      previews: the prompts of previews that are a file's; empty where the options say them.
      preview_size: of these previews, such as 512x768.
      base: the model's name, as given.
      single_file: whether that is one file.
      start: what the rows were before, in words.
      images: training images.
      steps: updates made.
      batch: samples of an update.
      rate: the learning rate, in words.
      devices: what it ran on, in words.
      config: every option, without secrets.
      versions: of the libraries.
      times: seconds of each stage, in order.
      finished: whether the result is written.
    """

    token: str
    kind: str
    vectors: int
    width: int
    base: str
    single_file: bool
    start: str
    images: int
    steps: int
    batch: int
    rate: str
    devices: str
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    second_width: int = 0
    words: dict[str, int] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    previews: list[str] = field(default_factory=list)
    preview_size: str = ""

    def write(self, folder: Path) -> None:
        """Writes the file."""
        record(folder, FILE)
        if_any = ("words", "starts", "previews", "preview_size")
        said = {
            name: value for name, value in dataclasses.asdict(self).items() if value or name not in if_any
        }
        text = json.dumps(said, indent=1, ensure_ascii=False)
        with atomic_write(folder / FILE) as file:
            file.write(text.encode(errors="replace"))  # of paths, whose bytes may be no UTF-8

    @classmethod
    def read(cls, folder: Path) -> RunFacts:
        """Reads the file of a run's folder, which may be a stranger's.

        Raises:
          DataError: there is none, it is another program's, or a value is not of its kind.
        """
        return read_own_json(folder, FILE, _LARGEST_FILE, cls._of, expected="the folder of a run")

    @classmethod
    def _of(cls, content: Any) -> RunFacts:
        """The facts of a file's content; a ValueError or TypeError says which are not of their kind."""
        if not isinstance(content, dict):
            raise TypeError(f"what {_in_words(content)} and must be a mapping")
        facts = cls(**content)
        facts._check()
        return facts

    def _check(self) -> None:
        """Raises a ValueError that names the first value that is not of its kind."""
        for name, (expected, fits) in _RULES.items():
            value = getattr(self, name)
            if not fits(value):
                other = isinstance(value, dict) and expected.startswith("a mapping")
                found = "holds something else" if other else _in_words(value)
                raise ValueError(f"a value of {name} that {found} and must be {expected}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_COUNT


def _is_option(value: object) -> bool:
    """What an option may hold: a value, or a list of values and of sources of images with their options."""
    if isinstance(value, list):
        return len(value) <= _MOST_ENTRIES and all(_is_plain(each) or _IS_SOURCE(each) for each in value)
    return _is_plain(value)


def _is_of_source(value: object) -> bool:
    """What an option of one source may hold: a value, or a list of such."""
    if isinstance(value, list):
        return len(value) <= _MOST_ENTRIES and all(map(_is_plain, value))
    return _is_plain(value)


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if type(value) is int:
        return abs(value) <= _LARGEST_COUNT
    return value is None or isinstance(value, bool) or _is_text(value)


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= _LONGEST_TIME  # pyright: ignore[reportOperatorIssue]


def _mapping(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    """What tells a mapping of names to values of a kind."""
    return lambda value: (
        isinstance(value, dict)
        and len(value) <= _MOST_ENTRIES
        and all(_is_text(name) and fits(each) for name, each in value.items())
    )


_IS_SOURCE = _mapping(_is_of_source)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_ENTRIES and all(map(_is_text, value))


_TEXT, _COUNT = ("text", _is_text), ("a whole number, 0 or more", _is_count)
_TRUTH = ("true or false", lambda value: isinstance(value, bool))
_RULES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "token": _TEXT,
    "kind": (" or ".join(KINDS), lambda value: value in KINDS),
    "vectors": _COUNT,
    "width": _COUNT,
    "second_width": _COUNT,
    "base": _TEXT,
    "single_file": _TRUTH,
    "start": _TEXT,
    "images": _COUNT,
    "steps": _COUNT,
    "batch": _COUNT,
    "rate": _TEXT,
    "devices": _TEXT,
    "config": ("a mapping of options to values", _mapping(_is_option)),
    "versions": ("a mapping of libraries to texts", _mapping(_is_text)),
    "times": ("a mapping of stages to seconds", _mapping(_is_time)),
    "finished": _TRUTH,
    "words": ("a mapping of words to whole numbers", _mapping(_is_count)),
    "starts": ("a mapping of words to texts", _mapping(_is_text)),
    "previews": ("a list of texts", _are_texts),
    "preview_size": _TEXT,
}


def _in_words(value: object) -> str:
    """A value as a message shows it, without what is in it."""
    kinds = {list: "a list", dict: "a mapping", str: "text", type(None): "null"}
    if type(value) in (bool, float) or (type(value) is int and abs(value) <= _LARGEST_COUNT):
        return f"is {str(value).lower()}"
    return f"is {kinds.get(type(value), 'a number that is too large')}"
