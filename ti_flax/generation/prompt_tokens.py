"""From the prompts of images, and the embeddings that they name, to what the text encoders are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ti_flax.console.messages import say
from ti_flax.embedding.bases import rows_to_draw_with
from ti_flax.embedding.initialization import FrozenEmbedding, add_frozen_embeddings
from ti_flax.embedding.rows import joined
from ti_flax.generation.generator import PromptTokens
from ti_flax.generation.png_metadata import ImageSpec
from ti_flax.models.base_model import BaseTokenizers
from ti_flax.models.prompt_encoding import SpecialTokens
from ti_flax.models.prompts.attention_weights import plain_text
from ti_flax.models.prompts.encode import EncodedPrompt, PromptRules, cut_off_note, encode_each

# Where embeddings come from, for messages.
EMBEDS = "--learned_embeds"


@dataclasses.dataclass(frozen=True)
class TokenizedPrompts:
    """What the tokenizer is to know of prompts.

    Attributes:
      encoded: every text, with and without the words of embeddings.
      rows: `[added_tokens, width]` float32 for each text encoder, by name.
      first_added_id: token id of the first row.
      special: what ends and pads prompts.
    """

    encoded: dict[tuple[str, bool], EncodedPrompt]
    rows: dict[str, np.ndarray]
    first_added_id: int
    special: SpecialTokens

    def tokens(self, spec: ImageSpec) -> tuple[int, int]:
        """How many tokens an image's prompt and negative prompt have, with those of empty places."""
        prompt, negative = self._both(spec)
        return len(prompt.token_ids), len(negative.token_ids)

    def of(self, specs: Sequence[ImageSpec]) -> tuple[PromptTokens, PromptTokens]:
        """Prompts and negative prompts of images that have equally many tokens of each."""
        prompts, negatives = zip(*map(self._both, specs), strict=True)
        return _stacked(prompts), _stacked(negatives)

    def _both(self, spec: ImageSpec) -> tuple[EncodedPrompt, EncodedPrompt]:
        return self.encoded[spec.prompt, spec.learned], self.encoded[spec.negative_prompt, spec.learned]


def _stacked(prompts: Sequence[EncodedPrompt]) -> PromptTokens:
    weights = [each.weights for each in prompts if each.weights is not None]
    return PromptTokens(
        np.stack([each.token_ids for each in prompts]), np.stack(weights) if weights else None
    )


def tokenize_prompts(
    tokenizers: BaseTokenizers,
    embeddings: Sequence[FrozenEmbedding],
    specs: Sequence[ImageSpec],
    widths: Mapping[str, int],
    rules: PromptRules,
) -> TokenizedPrompts:
    """Adds the words of embeddings to the tokenizer and encodes what is asked for.

    Args:
      tokenizers: of the base model.
      embeddings: embeddings.
      specs: all images.
      widths: of the text encoders, by name.
      rules: how prompts are read.

    Raises:
      TokenError: a word is known already, given twice, or part of another.
      WeightsError: an embedding is of another width.
    """
    rows = [rows_to_draw_with(each.file, each.path, widths) for each in embeddings]
    tokenizer = tokenizers.tokenizer
    first_added_id = len(tokenizer)
    encoded = _encoded(tokenizer, specs, rules, learned=False)
    words = add_frozen_embeddings(tokenizer, embeddings, None, EMBEDS)
    encoded |= _encoded(tokenizer, specs, rules, learned=True)
    texts = list(dict.fromkeys(text for spec in specs for text in (spec.prompt, spec.negative_prompt)))
    texts = list(map(plain_text, texts)) if rules.weights else texts
    pairs = [*zip(embeddings, words, strict=True)]
    named = {each.path for each, word in pairs if any(map(word.named_in, texts))}
    for each, word in [pair for pair in pairs if pair[0].path not in named]:
        say(f"note: no prompt has {word.placeholder_token}, the word of {each.path}: write it as it is here")
    nothing = {name: np.zeros((1, width), np.float32) for name, width in widths.items()}
    return TokenizedPrompts(encoded, joined(rows or [nothing]), first_added_id, tokenizers.special)


def _encoded(
    tokenizer: Any, specs: Sequence[ImageSpec], rules: PromptRules, *, learned: bool
) -> dict[tuple[str, bool], EncodedPrompt]:
    chosen = [spec for spec in specs if spec.learned == learned]
    names = dict.fromkeys((spec.prompt for spec in chosen), "prompt")
    for spec in chosen:
        names.setdefault(spec.negative_prompt, "negative prompt")
    if not names:
        return {}
    encoded = encode_each(tokenizer, [*names], rules)
    note = cut_off_note(tokenizer, names, encoded, "--max_token_length", most=None)
    if learned and note:
        say(f"note: {note}, or to any")
    return {(text, learned): each for text, each in zip(names, encoded, strict=True)}
