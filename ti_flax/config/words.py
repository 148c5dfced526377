"""How the tokenizer spells a new word, and what other tools make of its blanks and signs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ti_flax.errors import shortened

# A prompt template's places, as the Web UI and Python call them: the word, twice, and the caption.
TEMPLATE_PLACES = re.compile(r"\[name\]|\{\}|\[filewords\]")
_LONGEST_SHOWN = 80
# Signs, what they are read as, and by whom.
_GRAMMAR = (
    (" ", "the end of the word", "ComfyUI, and scripts that split prompts at blanks"),
    ("()[]", "more or less weight", "the Web UI, ComfyUI, kohya's scripts"),
    (":", "a weight or a command", "the Web UI, ComfyUI"),
    ("{}|", "alternatives", "dynamic prompts, ComfyUI"),
    ("\\", "no sign of its own", "the Web UI, ComfyUI"),
    (",", "the end of a tag", "captions made of tags"),
    ("=", "the end of the word", "TOKEN=FILE of extra_embeds and --learned_embeds"),
    ("\"'`$", "quotes or a command", "shells"),
    ("/", "a folder", "tools that name the file after the word"),
)


def spelled_plainly(word: str) -> str:
    """Returns a word as CLIP's tokenizer spells it: composed (NFC), single blanks, small letters.

    Letters become small one by one, as there: a sigma at the end is no other letter.
    """
    composed = re.sub(r"\s+", " ", unicodedata.normalize("NFC", word))
    return "".join(letter.lower() for letter in composed)


def clashing_words(words: Sequence[tuple[str, ...]]) -> dict[int, list[tuple[int, str, str]]]:
    """Find words of different concepts that are the same or part of one another, as the tokenizer reads them.

    diffusers replaces words in prompts as plain text, so a text with the longer one would stand for both.

    Args:
      words: of each concept.

    Returns:
      The place of a concept to the places before it that it clashes with, each with its own word and the
      other's.
    """
    owners: dict[str, list[tuple[int, str]]] = {}
    for place, its in enumerate(words):
        for word in its:
            owners.setdefault(spelled_plainly(word), []).append((place, word))
    everything = "\0".join(owners)
    clashes: dict[int, list[tuple[int, str, str]]] = {}
    for part, its in owners.items():
        around = [other for other in owners if part in other] if everything.count(part) > 1 else [part]
        for first, one in its:
            for second, other in (each for whole in around for each in owners[whole]):
                if first < second:
                    clashes.setdefault(second, []).append((first, other, one))
                elif second < first and spelled_plainly(other) != part:
                    clashes.setdefault(first, []).append((second, one, other))
    return clashes


def notes_on_word(word: str) -> list[str]:
    """Return what a person should know, before the training, of a word that some tools cannot use.

    Args:
      word: the placeholder token.
    """
    found = []
    for signs, meaning, tools in _GRAMMAR:
        there = " ".join(dict.fromkeys(each for each in word if each in signs))
        if there:
            found.append(f"{'the blank' if signs == ' ' else there} as {meaning} ({tools})")
    if word.startswith("-"):
        found.append("- at its beginning as an option (command lines)")
    if not found or not word.strip():
        return []
    shown, better = shortened(repr(word), _LONGEST_SHOWN), better_word(word)
    return [f"placeholder_token {shown}: some tools read {'; '.join(found)}. {better} avoids that"]


def better_word(word: str) -> str:
    """Return the same word without what tools stumble over, in the angle brackets that are custom."""
    inner = shortened(re.sub(r"[^\w.+-]+", "-", word).strip("-.+"), _LONGEST_SHOWN)
    return f"<{inner or 'my-concept'}>"
