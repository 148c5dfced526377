"""The Web UI's attention weights: `(word)`, `(word:1.2)` and `[word]` (modules/prompt_parser.py there)."""

from __future__ import annotations

import re
from typing import NamedTuple

# What round brackets multiply by, and square ones divide by.
BRACKET = 1.1

_SIGNS = re.compile(
    r"\\(?P<escaped>[()\[\]\\]?)"
    r"|(?P<opened>[(\[])"
    r"|(?P<weighed>:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\))"
    r"|(?P<closed>[)\]])"
    r"|(?P<text>:|[^\\()\[\]:]+)"
)
_NEW_CHUNK = re.compile(r"\s*\bBREAK\b\s*")


class Part(NamedTuple):
    """Part of a prompt.

    Attributes:
      text: without the brackets that weigh; None for BREAK, which asks for a new chunk.
      weight: what its tokens' hidden states are multiplied by.
    """

    text: str | None
    weight: float = 1.0


def parse_weights(prompt: str) -> list[Part]:
    r"""Takes the brackets that weigh out of a prompt, as the Web UI does.

    `(a)` weighs 1.1, `(a:1.5)` 1.5, `[a]` 1 / 1.1; brackets in brackets multiply. `\(`, `\)`, `\[`, `\]` and
    `\\` stand for themselves. A bracket that is not closed ends with the prompt, and one that was not opened
    is text, as is a number that is none. BREAK begins a new chunk.

    Returns:
      The parts in order, neighbours of one weight as one part; none of an empty prompt.
    """
    texts: list[str | None] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        begin = opened[kind].pop()
        weights[begin:] = [weight * factor for weight in weights[begin:]]

    for sign in _SIGNS.finditer(prompt):
        if sign["opened"]:
            opened[sign["opened"]].append(len(texts))
        elif sign["weighed"] and opened["("]:
            close("(", float(sign["weight"]))
        elif sign["closed"] == ")" and opened["("]:
            close("(", BRACKET)
        elif sign["closed"] == "]" and opened["["]:
            close("[", 1 / BRACKET)
        else:
            found = _with_breaks(sign["text"]) if sign["text"] else [_plain(sign)]
            texts += found
            weights += [1.0] * len(found)
    for kind, factor in (("(", BRACKET), ("[", 1 / BRACKET)):
        while opened[kind]:
            close(kind, factor)
    return _joined([Part(*pair) for pair in zip(texts, weights, strict=True)])


def plain_text(prompt: str) -> str:
    """The prompt without the brackets that weigh, as the tokenizer reads it."""
    return "".join(" " if part.text is None else part.text for part in parse_weights(prompt))


def _plain(sign: re.Match[str]) -> str:
    """A sign that stands for itself: an escaped one, or a bracket that nothing opened."""
    return sign["escaped"] if sign["escaped"] is not None else sign[0]


def _with_breaks(text: str) -> list[str | None]:
    first, *others = _NEW_CHUNK.split(text)
    return [first, *(part for other in others for part in (None, other))]


def _joined(parts: list[Part]) -> list[Part]:
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if part.text is None:
            joined.append(part)
        elif last is not None and last.text is not None and last.weight == part.weight:
            joined[-1] = Part(last.text + part.text, part.weight)
        elif part.text:
            joined.append(part)
    return joined
