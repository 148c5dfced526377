"""Names of the files of an embedding: diffusers' two halves for SDXL, and those named by words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

# What diffusers calls its files; nothing else is called so.
LEARNED_EMBEDS = "learned_embeds"
# Suffixes that diffusers writes.
PAIRED = (".safetensors", ".bin")
# `learned_embeds_2-steps-500`, as diffusers' textual_inversion_sdxl.py has it: the number is the name's own.
_STEM = re.compile(r"(?P<name>.+?)(?P<rest>-steps-\d+|-best)?", re.DOTALL)
_SECOND = "_2"
# Of a file's name in bytes; file systems end at 255, and a number or suffix may be added by hand.
_LONGEST_NAME = 120
# Names that Windows gives to devices, whatever their suffix.
_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)\d", re.IGNORECASE)


def second_half(path: Path) -> Path:
    """Where diffusers has the vectors of the second text encoder: `learned_embeds_2` for `learned_embeds`."""
    name, rest = _parts(path)
    return path.with_name(f"{name}{_SECOND}{rest}{path.suffix}")


def first_half(path: Path) -> Path | None:
    """Where the vectors of the first text encoder are if a path is that of the second; None if it is not."""
    name, rest = _parts(path)
    stem = name.removesuffix(_SECOND)
    return path.with_name(f"{stem}{rest}{path.suffix}") if stem not in ("", name) else None


def word_stem(token: str, otherwise: str = "concept") -> str:
    """A word as the beginning of a file's name on any system, as the Web UI and ComfyUI then call it.

    Args:
      token: `<my-cat>` gives `my-cat`.
      otherwise: for words of signs alone.
    """
    stem = re.sub(r"\W+", "-", token).strip("-")
    stem = stem.encode()[:_LONGEST_NAME].decode(errors="ignore").strip("-") or otherwise
    taken = _DEVICES.fullmatch(stem) or stem.lower().startswith(LEARNED_EMBEDS)
    return f"word-{stem}" if taken else stem


def file_of_word(token: str) -> str:
    """The file of one of several words that were learned together: `learned_embeds-my-cat.safetensors`."""
    stem = word_stem(token)
    taken = re.fullmatch(r"best|steps-\d+", stem, re.IGNORECASE)
    return f"{LEARNED_EMBEDS}-{'word-' if taken else ''}{stem}.safetensors"


def files_of_word(token: str, *, sdxl: bool, several: bool) -> tuple[str, ...]:
    """Names of the files of a result that a word names, in the order in which they are written.

    Args:
      token: the word.
      sdxl: whether it is for SDXL, where a file has both text encoders' vectors.
      several: whether it was learned together with others, where each has diffusers' files of its own.
    """
    own = Path(file_of_word(token))
    halves = [second_half(own).name, own.name] if sdxl else [own.name]
    return *(halves if several else ()), *((f"{word_stem(token)}.safetensors",) if sdxl else ())


def files_of_words(words: Sequence[str], *, sdxl: bool) -> tuple[str, ...]:
    """Names of the files of a result that its words name, in the order in which they are written."""
    several = len(words) > 1
    return tuple(name for word in words for name in files_of_word(word, sdxl=sdxl, several=several))


def _parts(path: Path) -> tuple[str, str]:
    found = _STEM.fullmatch(path.stem)
    return (found["name"], found["rest"] or "") if found else (path.stem, "")
