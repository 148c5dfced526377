"""What the UNet is told of a prompt, made of embedded tokens by a model's text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ti_flax.models.stable_diffusion import FlaxStableDiffusion
from ti_flax.models.text_encoder import END_OF_TEXT, FlaxCLIPTextModelWithProjection


@dataclass(frozen=True)
class SpecialTokens:
    """What text encoders depend on beside token ids; the defaults are those of CLIP's vocabulary.

    Attributes:
      end_of_text: ends every prompt, and is where the second encoder's output is pooled.
      second_pad: fills prompts up for SDXL's second encoder, `!`.
      length: tokens that an encoder reads at once, begin and end included; longer prompts are chunks of it.
    """

    end_of_text: int = END_OF_TEXT
    second_pad: int = 0
    length: int = 77


CLIP_TOKENS = SpecialTokens()


class PromptEncoding(NamedTuple):
    """What the UNet takes of prompts.

    Attributes:
      hidden_states: `[batch, tokens, width]`, those of both encoders side by side for SDXL, and those of
        chunks one after the other.
      pooled: `[batch, projection_dim]` for SDXL, of the first chunk; None for other models.
    """

    hidden_states: jax.Array
    pooled: jax.Array | None = None


def token_ids_by_encoder(
    model: FlaxStableDiffusion, token_ids: jax.Array, special: SpecialTokens = CLIP_TOKENS
) -> dict[str, jax.Array]:
    """Return what each text encoder is given for prompts: the vocabularies are one, what pads them differs.

    Args:
      model: the modules.
      token_ids: `[batch, tokens]` int32 as the first tokenizer pads them.
      special: what ends and pads prompts.
    """
    ids = dict.fromkeys(model.text_encoders, token_ids)
    if model.is_sdxl:
        chunks = in_chunks(token_ids, special)
        behind = jnp.arange(chunks.shape[1]) > _ends(chunks, special)[:, None]
        second = jnp.where(behind, special.second_pad, chunks)
        ids["text_encoder_2"] = one_after_another(second, len(token_ids))
    return ids


def encode_prompt(
    model: FlaxStableDiffusion,
    params: Mapping[str, Any],
    embedded: Mapping[str, jax.Array],
    token_ids: jax.Array,
    special: SpecialTokens = CLIP_TOKENS,
) -> PromptEncoding:
    """Encode prompts whose tokens are embedded, the chunks of a long one each by itself.

    Args:
      model: the modules.
      params: parameter trees of the text encoders, by name.
      embedded: `[batch, tokens, width]` for each text encoder, of its own token ids.
      token_ids: `[batch, tokens]` int32 as of `token_ids_by_encoder`.
      special: what ends prompts.
    """
    hidden_states: list[jax.Array] = []
    pooled: Any = None
    for name, encoder in model.text_encoders.items():
        variables, given = {"params": params[name]}, in_chunks(embedded[name], special)
        if isinstance(encoder, FlaxCLIPTextModelWithProjection):
            # The first end of the text, whatever the config names: added words have larger ids than it.
            found, pooled = encoder.apply(variables, given, _ends(in_chunks(token_ids, special), special))
            pooled = of_first_chunk(pooled, len(token_ids))
        else:
            found = encoder.apply(variables, given)
        hidden_states.append(one_after_another(jnp.asarray(found), len(token_ids)))
    if len(hidden_states) == 1:
        return PromptEncoding(hidden_states[0])
    return PromptEncoding(jnp.concatenate(hidden_states, axis=-1), pooled)


def without_empty(
    model: FlaxStableDiffusion,
    encoding: PromptEncoding,
    token_ids: jax.Array,
    special: SpecialTokens = CLIP_TOKENS,
) -> PromptEncoding:
    """Put zeros in the place of empty negative prompts, if the model was made for that.

    Args:
      model: the modules and settings.
      encoding: of the negative prompts.
      token_ids: theirs, `[batch, tokens]` int32.
      special: what ends prompts.
    """
    if not (model.is_sdxl and model.zeros_for_empty_prompt):
        return encoding
    # The place before the end is that of the token which begins every chunk.
    empty = _ends(in_chunks(token_ids, special), special) == 1
    if len(empty) != len(token_ids):
        empty = jnp.all(empty.reshape(len(token_ids), -1), axis=1)
    return jax.tree.map(
        lambda each: jnp.where(empty.reshape(-1, *(1,) * (each.ndim - 1)), jnp.zeros_like(each), each),
        encoding,
    )


def weighed(hidden_states: jax.Array, weights: jax.Array, special: SpecialTokens = CLIP_TOKENS) -> jax.Array:
    """Multiply hidden states by the weights of their tokens, and give each chunk its mean back.

    That is the Web UI's emphasis "Original" (modules/sd_emphasis.py there, EmphasisOriginal).

    Args:
      hidden_states: of one text encoder, `[batch, tokens, width]`.
      weights: `[batch, tokens]` float32.
      special: how long chunks are.
    """
    chunks = in_chunks(hidden_states, special)
    given = chunks.astype(jnp.float32)
    heavier = given * in_chunks(weights, special)[..., None]
    mean, changed = (jnp.mean(each, axis=(1, 2), keepdims=True) for each in (given, heavier))
    # A mean of zero cannot be given back by a factor.
    restored = heavier * jnp.where(changed == 0, 1.0, mean / changed)
    return one_after_another(restored.astype(chunks.dtype), len(hidden_states))


def in_chunks(each: jax.Array, special: SpecialTokens) -> jax.Array:
    """Cut `[batch, tokens, ...]` into what text encoders read at once, `[batch * chunks, length, ...]`."""
    if each.shape[1] <= special.length:
        return each
    return each.reshape(-1, special.length, *each.shape[2:])


def one_after_another(chunks: jax.Array, batch: int) -> jax.Array:
    """Put chunks `[batch * chunks, length, ...]` together again, `[batch, tokens, ...]`."""
    return chunks if len(chunks) == batch else chunks.reshape(batch, -1, *chunks.shape[2:])


def of_first_chunk(each: jax.Array, batch: int) -> jax.Array:
    """What is there of the first chunk of every prompt, `[batch, ...]`, out of `[batch * chunks, ...]`."""
    return each if len(each) == batch else each[:: len(each) // batch]


def _ends(token_ids: jax.Array, special: SpecialTokens) -> jax.Array:
    """The place of each prompt's first end of the text, `[batch]` int32."""
    return jnp.argmax(token_ids == special.end_of_text, axis=1)
