"""Prompts of images, each in as many chunks as it needs, with attention weights if they are asked for."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ti_flax.config.options import CHUNK_TOKENS
from ti_flax.errors import shortened
from ti_flax.models.prompts.attention_weights import Part, parse_weights
from ti_flax.models.prompts.chunks import NEW_CHUNK, Chunk, ChunkRules, size
from ti_flax.models.tokenizer import encode_prompts
from ti_flax.models.word_places import all_written_out

# The most letters of a prompt, and of its end, that a note shows.
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class PromptRules:
    """How prompts of images are read.

    Attributes:
      chunks: the most of a prompt; None: as many as it needs.
      weights: whether brackets weigh, as in the Web UI.
    """

    chunks: int | None = 1
    weights: bool = False


class EncodedPrompt(NamedTuple):
    """A prompt as the text encoders are given it.

    Attributes:
      token_ids: `[chunks * length]` int32.
      weights: of each token, like it, float32; None where brackets do not weigh.
      read: how many tokens of the prompt these are.
      tokens: how many it has.
      needed: chunks that all of it takes.
      rest: the words at its end that found no room, or no whole one.
    """

    token_ids: np.ndarray
    weights: np.ndarray | None
    read: int
    tokens: int
    needed: int
    rest: str = ""

    @property
    def cut_off(self) -> bool:
        """Whether the end of the prompt is missing."""
        return self.read < self.tokens


def encode_each(tokenizer: Any, prompts: Sequence[str], rules: PromptRules) -> list[EncodedPrompt]:
    """Encodes every prompt by itself, in as many chunks as it needs and may have.

    Args:
      tokenizer: a CLIP tokenizer that already has the added tokens.
      prompts: texts, in which a placeholder stands for all of its tokens.
      rules: how they are read.

    Raises:
      TokenError: one of them is no text.
    """
    chunk_rules, encoded = ChunkRules.of(tokenizer), []
    plain = encode_prompts(tokenizer, prompts) if rules == PromptRules() else None

    def pieces_of(prompt: str) -> Chunk:
        return _pieces(tokenizer, prompt, chunk_rules, weights=rules.weights)

    for place, prompt in enumerate(prompts):
        pieces = pieces_of(prompt)
        tokens, needed = size(pieces), len(chunk_rules.chunks(pieces, None))
        chunks = chunk_rules.chunks(pieces, rules.chunks)
        ids, read = chunk_rules.token_ids(chunks, len(chunks)), sum(map(size, chunks))
        if plain is not None:  # of a word with several vectors, what has room is read
            ids, read = plain[place], min(tokens, chunk_rules.length - 2)
        weights = chunk_rules.weights(chunks, len(chunks)) if rules.weights else None
        rest = _rest(prompt, read, lambda text: size(pieces_of(text))) if read < tokens else ""
        encoded.append(EncodedPrompt(ids, weights, read, tokens, needed, rest))
    return encoded


def same_length(
    tokenizer: Any, encoded: Sequence[EncodedPrompt], tokens: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Gives all prompts the length of the longest, by empty chunks.

    Args:
      tokenizer: that encoded them.
      encoded: by the same rules.
      tokens: that they have at least.

    Returns:
      Token ids `[prompts, tokens]` int32, and weights like them, float32, or None.
    """
    longest = max(tokens, *(len(each.token_ids) for each in encoded))
    empty = np.tile(encode_prompts(tokenizer, [""])[0], longest // tokenizer.model_max_length)
    token_ids = np.stack([np.append(each.token_ids, empty[len(each.token_ids) :]) for each in encoded])
    weights = [
        np.append(each.weights, np.ones(longest - len(each.weights), np.float32))
        for each in encoded
        if each.weights is not None
    ]
    return token_ids, np.stack(weights) if weights else None


def cut_off_note(
    tokenizer: Any,
    names: Mapping[str, str],
    prompts: Sequence[EncodedPrompt],
    option: str,
    *,
    most: int | None,
) -> str:
    """Says which prompt is too long, what of it is cut off, and what to do; nothing where all have room.

    Args:
      tokenizer: that encoded them.
      names: from the text of each prompt to what it is called.
      prompts: what the texts became, in the same order.
      option: that sets how many tokens are read.
      most: chunks that it may be set to; None: any number.
    """
    cut = [(*named, each) for named, each in zip(names.items(), prompts, strict=True) if each.cut_off]
    if not cut:
        return ""
    text, name, encoded = cut[0]
    missing = shortened(encoded.rest, _LONGEST_SHOWN)
    others = f" (so are {len(cut) - 1} more)" if cut[1:] else ""
    chunks = len(encoded.token_ids) // tokenizer.model_max_length
    remedy = f"set {option} to {CHUNK_TOKENS * min(encoded.needed, most or encoded.needed)}"
    if chunks == most:
        remedy = "shorten it"
    elif most is not None and encoded.needed > most:
        remedy += ", the most, or shorten it"
    return (
        f"{name} {shortened(text, _LONGEST_SHOWN)!r} is cut off after {encoded.read} of its {encoded.tokens} "
        f"tokens, before {missing!r}{others}; {remedy}"
    )


def _pieces(tokenizer: Any, prompt: str, rules: ChunkRules, *, weights: bool) -> Chunk:
    pieces: Chunk = []
    for text, weight in parse_weights(prompt) if weights else [Part(prompt)]:
        if text is None:
            pieces.append(NEW_CHUNK)
        else:
            (written_out,) = all_written_out(tokenizer, [text])
            ids = tokenizer(written_out, add_special_tokens=False, verbose=False)["input_ids"]
            pieces += rules.pieces(ids, weight)
    return pieces


def _rest(prompt: str, read: int, count: Callable[[str], int]) -> str:
    """The words of a prompt behind those of which so many tokens are read, as their count tells."""
    words = prompt.split()
    whole = bisect.bisect_right(range(len(words) + 1), read, key=lambda end: count(" ".join(words[:end])))
    return " ".join(words[whole - 1 :])
