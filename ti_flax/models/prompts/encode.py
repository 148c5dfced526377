"""Prompts of images, each in as many chunks as it needs, with attention weights if they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ti_flax.errors import shortened
from ti_flax.models.prompts.attention_weights import Part, parse_weights
from ti_flax.models.prompts.chunks import NEW_CHUNK, Chunk, ChunkRules, size
from ti_flax.models.tokenizer import encode_prompts
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
      tokens: how many the prompt has.
      unseen: token ids of its end that the text encoders are not given, mostly none.
    """

    token_ids: np.ndarray
    weights: np.ndarray | None
    tokens: int
    unseen: tuple[int, ...]

    def note(self, tokenizer: Any, where: str, prompt: str, *, more: bool) -> str:
        """What to tell of a prompt that is cut off, empty for any other.

        Args:
          tokenizer: that encoded it.
          where: the option that it comes from.
          prompt: the text.
          more: whether a larger `max_token_length` is possible.
        """
        if not self.unseen:
            return ""
        end, remedy = tokenizer.decode(list(self.unseen)).strip(), "; a larger max_token_length reads on"
        return (
            f"note: {where}: the text encoder does not see the end of {shortened(prompt, 80)!r}, the last "
            f"{len(self.unseen)} of {self.tokens} tokens: {shortened(end, 60)!r}{remedy if more else ''}"
        )


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
        whole = [_ids(tokenizer, text) for text in all_written_out(tokenizer, prompts)]
        seen = tokenizer.model_max_length - 2  # without begin and end
        return [
            EncodedPrompt(row, None, len(ids), tuple(ids[seen:]))
            for ids, row in zip(whole, token_ids, strict=True)
        ]
    chunk_rules, encoded = ChunkRules.of(tokenizer), []
    for prompt in prompts:
        pieces = _pieces(tokenizer, prompt, chunk_rules, weights=rules.weights)
        chunks = chunk_rules.chunks(pieces, rules.chunks)
        ids = [each for piece in pieces for each in piece.token_ids]
        encoded.append(
            EncodedPrompt(
                chunk_rules.token_ids(chunks, len(chunks)),
                chunk_rules.weights(chunks, len(chunks)) if rules.weights else None,
                len(ids),
                tuple(ids[sum(map(size, chunks)) :]),
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
            pieces += rules.pieces(_ids(tokenizer, written_out), weight)
    return pieces


def _ids(tokenizer: Any, written_out: str) -> list[int]:
    return tokenizer(written_out, add_special_tokens=False, verbose=False)["input_ids"]
