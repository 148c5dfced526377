"""Prompts from a text file, one a line, with the options behind them that kohya's sample prompts have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ti_flax.errors import DataError
from ti_flax.files.text import read_text


@dataclass(frozen=True)
class PromptLine:
    """A prompt and what its line says about it; None where it says nothing.

    Attributes:
      prompt: what to draw.
      negative_prompt: what to move away from.
      width: in pixels.
      height: in pixels.
      seed: of the first image.
      steps: denoising steps.
      guidance_scale: 1 is no guidance.
      sampler: as the line names it.
      where: file and line, for messages.
    """

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    where: str = field(default="", compare=False)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


# kohya's letters (sd-scripts, docs/train_network.md: sample prompts), the field and how to read its value.
_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "n": ("negative_prompt", str),
    "w": ("width", _whole),
    "h": ("height", _whole),
    "d": ("seed", _whole),
    "s": ("steps", _whole),
    "l": ("guidance_scale", _finite),
    "ss": ("sampler", str),
}
_START = re.compile(r"(?:^|\s)--(?=[A-Za-z]+(?:\s|$))")


def read_prompt_file(path: Path, option: str = "prompt_file") -> list[PromptLine]:
    """Reads the prompts of a file; empty lines and those that begin with # are left out.

    Args:
      path: of the file.
      option: that names it, for messages.

    Raises:
      DataError: it cannot be read, has no prompt, or an option that is not understood.
    """
    lines = read_text(path, f"{option} {path}").splitlines()
    found = [
        parse_prompt(line, f"{option} {path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not found:
        raise DataError(f"{option} {path}", expected="a prompt a line", found="none")
    return found


def parse_prompt(line: str, where: str) -> PromptLine:
    """Takes the options off the end of a prompt: `a cat --n dog --w 512 --h 768 --d 1 --s 20 --l 7.5`.

    Raises:
      DataError: an option is unknown or has a value of another kind.
    """
    prompt, *parts = _START.split(line.strip())
    if not prompt.strip():
        raise DataError(where, expected="a prompt before its options", found=repr(line.strip()))
    values: dict[str, Any] = {}
    for part in parts:
        letter, _, value = part.strip().partition(" ")
        if letter.lower() not in _OPTIONS:
            known = ", ".join(f"--{name}" for name in _OPTIONS)
            raise DataError(where, expected=f"an option out of {known}", found=f"--{letter}")
        name, read = _OPTIONS[letter.lower()]
        try:
            values[name] = read(value.strip())
        except ValueError:
            kind = "a whole number" if read is _whole else "a number"
            raise DataError(f"{where}, --{letter}", expected=kind, found=repr(value.strip())) from None
    return PromptLine(prompt.strip(), **values, where=where)
