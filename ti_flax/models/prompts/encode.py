"""Prompts of images, each in as many chunks as it needs, with attention weights if they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ti_flax.models.prompts.attention_weights import Part, parse_weights
from ti_flax.models.prompts.chunks import NEW_CHUNK, Chunk, ChunkRules, size
from ti_flax.models.tokenizer import encode_prompts, prompts_cut_off
from ti_flax.models.word_places import all_written_out


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
      cut_off: whether the end of the prompt is missing.
    """

    token_ids: np.ndarray
    weights: np.ndarray | None
    cut_off: bool


def encode_each(tokenizer: Any, prompts: Sequence[str], rules: PromptRules) -> list[EncodedPrompt]:
    """Encodes every prompt by itself, in as many chunks as it needs and may have.

    Args:
      tokenizer: a CLIP tokenizer that already has the added tokens.
      prompts: texts, in which a placeholder stands for all of its tokens.
      rules: how they are read.

    Raises:
      TokenError: one of them is no text.
    """
    if rules == PromptRules():
        token_ids = encode_prompts(tokenizer, prompts)
        cut = {*prompts_cut_off(tokenizer, prompts, token_ids)}
        return [EncodedPrompt(row, None, text in cut) for text, row in zip(prompts, token_ids, strict=True)]
    chunk_rules, encoded = ChunkRules.of(tokenizer), []
    for prompt in prompts:
        pieces = _pieces(tokenizer, prompt, chunk_rules, weights=rules.weights)
        chunks = chunk_rules.chunks(pieces, rules.chunks)
        encoded.append(
            EncodedPrompt(
                chunk_rules.token_ids(chunks, len(chunks)),
                chunk_rules.weights(chunks, len(chunks)) if rules.weights else None,
                sum(map(size, chunks)) < size(pieces),
            )
        )
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
