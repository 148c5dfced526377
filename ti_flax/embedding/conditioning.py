"""What the UNet is told of prompts that name added tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from ti_flax.embedding.rows import Rows, embed_tokens
from ti_flax.models.prompt_encoding import (
    CLIP_TOKENS,
    PromptEncoding,
    SpecialTokens,
    encode_prompt,
    token_ids_by_encoder,
)
from ti_flax.models.stable_diffusion import FlaxStableDiffusion, token_table


def encode_with_rows(
    model: FlaxStableDiffusion,
    params: Mapping[str, Any],
    rows: Rows,
    token_ids: jax.Array,
    *,
    first_added_id: int,
    special: SpecialTokens = CLIP_TOKENS,
) -> PromptEncoding:
    """Encodes prompts, whose added tokens every text encoder looks up in its own rows.

    Args:
      model: the modules.
      params: parameter trees of the text encoders, by name.
      rows: `[added_tokens, width]` float32 by text encoder, the only thing worth differentiating by.
      token_ids: `[batch, tokens]` int32 as the first tokenizer pads them.
      first_added_id: the token id of the first row.
      special: what ends and pads prompts.
    """
    embedded = {
        name: embed_tokens(token_table(params, name), rows[name], ids, first_added_id=first_added_id)
        for name, ids in token_ids_by_encoder(model, token_ids, special).items()
    }
    return encode_prompt(model, params, embedded, token_ids, special)
