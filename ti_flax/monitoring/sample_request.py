"""`sample_request.json`: what somebody asks a run to draw while it goes on, by a file in its folder."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ti_flax.errors import DataError
from ti_flax.files.atomic import write_text
from ti_flax.files.regular import read_regular
from ti_flax.files.text import parse_json
from ti_flax.monitoring.report.files import is_inside

FILE = "sample_request.json"
# Of prompts, images of each, letters of a prompt and bytes: updates wait while a sample is drawn.
MOST_PROMPTS, MOST_IMAGES = 8, 16
_LONGEST_PROMPT = 2**12
_LARGEST_FILE = 2**18


@dataclass(frozen=True)
class SampleRequest:
    """What to draw.

    Attributes:
      prompts: texts, 1 to `MOST_PROMPTS`; `{}` stands for the word.
      images: of each, 1 to `MOST_IMAGES`.
    """

    prompts: tuple[str, ...]
    images: int = 4

    def write(self, folder: Path) -> None:
        """Asks the run of a folder, which takes the file away; one that it has not taken yet is replaced.

        Raises:
          ValueError: no run would draw that.
          OSError: there is no such folder, or it cannot be written.
        """
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        _checked({"prompts": [*self.prompts], "images": self.images})
        content = {"prompts": self.prompts, "images": self.images}
        write_text(folder / FILE, json.dumps(content, ensure_ascii=False))


def read_request(folder: Path) -> SampleRequest:
    """Reads the request in a run's folder.

    Raises:
      DataError: it is none, or asks for what no run draws.
    """
    path = folder / FILE
    try:
        if not is_inside(folder, FILE):
            raise ValueError("a link")
        return _checked(parse_json(read_regular(path, _LARGEST_FILE).decode()))
    except (OSError, ValueError) as error:
        raise DataError(
            path,
            expected=f'{{"prompts": ["a photo of a {{}}"], "images": 4}}, up to {MOST_PROMPTS} prompts with '
            f"up to {MOST_IMAGES} images each",
            found=getattr(error, "strerror", None) or str(error),
        ) from None


def _checked(content: Any) -> SampleRequest:
    """The request of a file's content; a ValueError says what is wrong with it."""
    if not isinstance(content, Mapping):
        raise ValueError("no mapping")
    unknown = [name for name in content if name not in ("prompts", "images")]
    if unknown:
        raise ValueError(f"the key {unknown[0]!r}")
    prompts, images = content.get("prompts"), content.get("images", SampleRequest.images)
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= MOST_PROMPTS:
        raise ValueError("prompts that are no list of them" if prompts is not None else "no prompts")
    if not all(isinstance(each, str) and each.strip() and len(each) <= _LONGEST_PROMPT for each in prompts):
        raise ValueError("a prompt that is no text, is empty or too long")
    if type(images) is not int or not 1 <= images <= MOST_IMAGES:
        raise ValueError(f"images {json.dumps(images)}")
    return SampleRequest(tuple(prompts), images)
