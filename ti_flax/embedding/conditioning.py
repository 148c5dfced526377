"""What the UNet is told of prompts that name added tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ti_flax.embedding.contents import BEHIND
from ti_flax.embedding.rows import Rows, embed_tokens, put_behind
from ti_flax.models.prompt_encoding import (
    CLIP_TOKENS,
    PromptEncoding,
    SpecialTokens,
    encode_prompt,
    token_ids_by_encoder,
    weighed,
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
    weights: jax.Array | None = None,
) -> PromptEncoding:
    """Encodes prompts, whose added tokens every text encoder looks up in its own rows.

    Args:
      model: the modules.
      params: parameter trees of the text encoders, by name.
      rows: `[added_tokens, width]` float32 by text encoder, the only thing worth differentiating by; those
        that go behind one take the place of its output.
      token_ids: `[batch, tokens]` int32 as the first tokenizer pads them.
      first_added_id: the token id of the first row.
      special: what ends and pads prompts.
      weights: of tokens, `[batch, tokens]` float32, for the hidden states of each text encoder, not for what
        is pooled; None: all count the same.
    """
    read = token_ids_by_encoder(model, token_ids, special)
    embedded = {
        name: embed_tokens(token_table(params, name), rows[name], ids, first_added_id=first_added_id)
        for name, ids in read.items()
    }
    encoding = encode_prompt(model, params, embedded, token_ids, special)
    if weights is None and not any(f"{name}{BEHIND}" in rows for name in read):
        return encoding
    begin, parts = 0, []
    for name, ids in read.items():
        end = begin + embedded[name].shape[-1]
        part = encoding.hidden_states[..., begin:end]
        behind = rows.get(f"{name}{BEHIND}")
        if behind is not None:
            part = put_behind(part, behind, ids, first_added_id=first_added_id)
        parts.append(part if weights is None else weighed(part, weights, special))
        begin = end
    return encoding._replace(hidden_states=jnp.concatenate(parts, axis=-1))
