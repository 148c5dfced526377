"""Tags of images from a tagger in ONNX, of the kind of SmilingWolf's WD taggers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ti_flax.errors import ConfigError, WeightsError, in_short
from ti_flax.files.text import read_text

MODEL, TAGS = "model.onnx", "selected_tags.csv"
# Of a tag, as Danbooru numbers them; ratings are the taggers' own.
GENERAL, CHARACTER, RATING = 0, 4, 9
# Two letters or digits side by side: not in ^_^ and the like, whose underscore stays.
_WORD = re.compile(r"[^\W_]{2}")


class Tag(NamedTuple):
    """A tag as captions have it, and its category."""

    name: str
    category: int


@dataclass(frozen=True, kw_only=True)
class TagRules:
    """Which tags an image gets.

    Attributes:
      threshold: the least probability of a general tag.
      character_threshold: that of the name of a character.
      exclude: tags that none gets, as captions have them.
      rating: whether the likeliest rating is a tag too, the last.
    """

    threshold: float = 0.35
    character_threshold: float = 0.35
    exclude: Collection[str] = ()
    rating: bool = False

    def chosen(self, tags: Sequence[Tag], scores: np.ndarray) -> list[str]:
        """The tags of an image: characters, then general ones, the likeliest first.

        Args:
          tags: all that the tagger knows.
          scores: `[tags]` float32, their probabilities.
        """
        order = np.argsort(-scores, kind="stable")
        found: list[str] = []
        for category, least in ((CHARACTER, self.character_threshold), (GENERAL, self.threshold)):
            found += [tags[n].name for n in order if tags[n].category == category and scores[n] >= least]
        found += [tags[n].name for n in order if self.rating and tags[n].category == RATING][:1]
        return [name for name in found if name not in self.exclude]


class Tagger:
    """A tagger: from images to their tags, a text each, with `, ` between.

    Args:
      folder: with `model.onnx` and `selected_tags.csv`.
      rules: which tags an image gets.

    Raises:
      ConfigError: onnxruntime is not installed.
      WeightsError: one of the files is missing, damaged or of another kind.
    """

    def __init__(self, folder: Path, rules: TagRules):
        self._tags, self._rules = read_tags(folder / TAGS), rules
        self._session = _opened(folder / MODEL)
        given, made = self._session.get_inputs(), self._session.get_outputs()
        shape = given[0].shape if len(given) == 1 else []
        if len(shape) != 4 or not isinstance(shape[1], int) or shape[1] != shape[2] or shape[3] != 3:
            expected = "one input of square images, [batch, side, side, 3]"
            raise WeightsError(folder / MODEL, expected=expected, found=f"{[each.shape for each in given]}")
        if (
            len(made) != 1
            or made[0].shape[-1] not in (len(self._tags), None)
            and isinstance(made[0].shape[-1], int)
        ):
            expected = f"a number for each of the {len(self._tags)} tags of {TAGS}"
            raise WeightsError(folder / MODEL, expected=expected, found=f"{[each.shape for each in made]}")
        self._input, self._side, self._one = given[0].name, shape[1], shape[0] == 1

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """The tags of RGB images."""
        batch = np.stack([model_input(image, self._side) for image in images])
        parts = [batch[n : n + 1] for n in range(len(batch))] if self._one else [batch]
        scores = np.concatenate([self._session.run(None, {self._input: part})[0] for part in parts])
        return [", ".join(self._rules.chosen(self._tags, each)) for each in scores]


def model_input(image: Image.Image, side: int) -> np.ndarray:
    """An RGB image whole in a white square, `[side, side, 3]` float32: blue, green and red, 0 to 255."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    resized = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32)[..., ::-1]


def read_tags(path: Path) -> list[Tag]:
    """The tags of a tagger, in the order of its outputs, with blanks for underscores.

    Raises:
      WeightsError: there is no such table.
    """
    if not path.is_file():
        raise WeightsError(path, expected="the table of a tagger's tags", found="no such file")
    text = read_text(str(path), str(path))
    rows = csv.DictReader(io.StringIO(text))
    if not {"name", "category"} <= {*(rows.fieldnames or ())}:
        found = ", ".join(rows.fieldnames or ()) or "nothing"
        raise WeightsError(
            path,
            expected="the columns name and category",
            found=found,
            remedy=f"Take the one beside {MODEL}.",
        )
    tags = []
    for number, row in enumerate(rows, start=2):
        name, category = row["name"], row["category"]
        if not name or category is None or not category.strip().isdecimal():
            found = f"{name!r} and {category!r}"
            raise WeightsError(f"{path}:{number}", expected="a name, and a category in digits", found=found)
        tags.append(Tag(name.replace("_", " ") if _WORD.search(name) else name, int(category)))
    return tags


def require_onnxruntime() -> Any:
    """Imports the package that taggers run with.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "--tagger",
            expected="the package onnxruntime",
            found=str(error),
            remedy="Run `pip install onnxruntime`.",
        ) from error
    return onnxruntime


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(path, expected="a tagger in ONNX", found="no such file")
    onnxruntime = require_onnxruntime()
    try:
        return onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # of its own kinds, one for each fault, with no base but this
        raise WeightsError(
            path,
            expected="a tagger in ONNX",
            found=in_short(error),
            remedy="Download it again: it may be another file, unfinished, or a pointer of Git LFS.",
        ) from None
