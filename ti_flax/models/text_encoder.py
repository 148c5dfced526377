"""CLIP text encoders (arXiv:2103.00020, section 2.4).

Parameter trees are those of FlaxCLIPTextModel and FlaxCLIPTextModelWithProjection, but that the latter's
layers are stacked.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ti_flax.models import config_fields as fields
from ti_flax.models.attention import AUTO, Attention
from ti_flax.models.layers import (
    STACKED,
    dense,
    embedding,
    gelu,
    layer_norm,
    quick_gelu,
    run_stacked,
)

_READ = {
    "vocab_size": fields.integer,
    "hidden_size": fields.integer,
    "intermediate_size": fields.integer,
    "num_hidden_layers": fields.layers,
    "num_attention_heads": fields.integer,
    "max_position_embeddings": fields.integer,
    "layer_norm_eps": fields.number,
    "hidden_act": fields.one_of("quick_gelu", "gelu"),
    "projection_dim": fields.integer,
}
_FIXED = {
    "attention_dropout": (0.0,),
    "dropout": (0.0,),
    "model_type": ("clip_text_model",),
    "is_encoder_decoder": (False,),
    "chunk_size_feed_forward": (0,),
}
_INFORMATIONAL = frozenset(
    {
        "architectures",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "use_return_dict",
    }
)


# What ends a text in CLIP's vocabulary, `<|endoftext|>`.
END_OF_TEXT = 49407
# The default of transformers.
_PROJECTION_DIM = 512


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """Shape of a text encoder; the defaults are those of transformers.

    `projection_dim` is the width of the pooled output, None for an encoder that has none.
    """

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"
    projection_dim: int | None = None

    @classmethod
    def from_dict(
        cls,
        config_json: Mapping[str, Any],
        where: str = "text_encoder/config.json",
        *,
        projected: bool = False,
    ):
        """Read a parsed `config.json`.

        Args:
          config_json: the parsed file.
          where: the file's name, for messages.
          projected: whether it is that of a CLIPTextModelWithProjection; CLIPTextModel's has a
            `projection_dim` too, which says nothing.

        Raises:
          WeightsError: for a field or value this model does not support.
        """
        values = fields.supported_fields(
            config_json, where, read=_READ, fixed=_FIXED, informational=_INFORMATIONAL
        )
        projection_dim = values.pop("projection_dim", _PROJECTION_DIM)
        config = cls(**values, projection_dim=projection_dim if projected else None)
        fields.require(
            config.hidden_size % config.num_attention_heads == 0,
            where,
            f"hidden_size to be a multiple of num_attention_heads ({config.num_attention_heads})",
            config.hidden_size,
        )
        return config


class FlaxCLIPTextModel(nn.Module):
    """Text encoder that takes token embeddings already looked up, so that some of them can be learned.

    Attributes:
      config: shape of the model.
      dtype: of parameters and computation.
      attention: how to compute it.
      clip_skip: layers at the end that are not run; the final norm then follows an earlier layer.
      penultimate: as SDXL takes it: one more layer is not run, nor is the final norm.
    """

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32
    attention: Attention = AUTO
    clip_skip: int = 0
    penultimate: bool = False

    def setup(self):
        skipped = self.clip_skip + self.penultimate
        self.text_model = _TextTransformer(
            self.config, self.dtype, self.attention, skipped, not self.penultimate
        )

    def __call__(self, inputs_embeds: jax.Array) -> jax.Array:
        """Return the hidden states of the last layer run, `[batch, tokens, width]`.

        Args:
          inputs_embeds: token embeddings without positions, `[batch, tokens, width]`.
        """
        return self.text_model(inputs_embeds)

    def token_embeddings(self, input_ids: jax.Array) -> jax.Array:
        """Look up `[batch, tokens]` ids in the token table: `[batch, tokens, width]`."""
        return self.text_model.embeddings.token_embedding(input_ids)

    def encode_ids(self, input_ids: jax.Array) -> jax.Array:
        """Encode `[batch, tokens]` ids with the token table alone: `[batch, tokens, width]`."""
        return self(self.token_embeddings(input_ids))


class FlaxCLIPTextModelWithProjection(nn.Module):
    """SDXL's second text encoder, whose pooled output tells the UNet what the whole prompt says.

    Its layers are run by a scan, as there are 32 of them.

    Attributes:
      config: shape of the model, with a `projection_dim`.
      dtype: of parameters and computation.
      attention: how to compute it.
      clip_skip: how many layers earlier the hidden states are taken; pooled stays the last layer's.
    """

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32
    attention: Attention = AUTO
    clip_skip: int = 0

    def setup(self):
        self.text_model = _PooledTransformer(self.config, self.dtype, self.attention, self.clip_skip)
        width = self.config.projection_dim or _PROJECTION_DIM
        self.text_projection = dense(width, self.dtype, use_bias=False)

    def __call__(self, inputs_embeds: jax.Array, ends: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the hidden states before the last layer, and the pooled output.

        Args:
          inputs_embeds: token embeddings without positions, `[batch, tokens, width]`.
          ends: place of the first end of the text, where the output is pooled, `[batch]` int32.

        Returns:
          `[batch, tokens, width]`, without the final norm, and `[batch, projection_dim]`.
        """
        hidden_states, pooled = self.text_model(inputs_embeds, ends)
        return hidden_states, self.text_projection(pooled)

    def token_embeddings(self, input_ids: jax.Array) -> jax.Array:
        """Look up `[batch, tokens]` ids in the token table: `[batch, tokens, width]`."""
        return self.text_model.embeddings.token_embedding(input_ids)

    def encode_ids(self, input_ids: jax.Array, ends: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encode `[batch, tokens]` ids with the token table alone; the rest is as of a call."""
        return self(self.token_embeddings(input_ids), ends)


class _TextTransformer(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention
    skipped: int
    normed: bool

    def setup(self):
        self.embeddings = _Embeddings(self.config, self.dtype)
        self.encoder = _Encoder(self.config, self.dtype, self.attention, self.skipped)
        self.final_layer_norm = layer_norm(self.config.layer_norm_eps, self.dtype)

    def __call__(self, inputs_embeds):
        hidden_states = self.encoder(self.embeddings(inputs_embeds))
        if self.normed or self.is_initializing():  # its parameters are there all the same
            hidden_states = self.final_layer_norm(hidden_states)
        return hidden_states


class _PooledTransformer(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention
    clip_skip: int

    def setup(self):
        self.embeddings = _Embeddings(self.config, self.dtype)
        self.encoder = _StackedEncoder(self.config, self.dtype, self.attention)
        self.final_layer_norm = layer_norm(self.config.layer_norm_eps, self.dtype)

    def __call__(self, inputs_embeds, ends):
        last, inputs = self.encoder(self.embeddings(inputs_embeds))
        at_end = jnp.take_along_axis(last, ends[:, None, None], axis=1)[:, 0]
        return inputs[self.config.num_hidden_layers - 1 - self.clip_skip], self.final_layer_norm(at_end)


class _Embeddings(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike

    def setup(self):
        width = self.config.hidden_size
        self.token_embedding = embedding(self.config.vocab_size, width, self.dtype)
        self.position_embedding = embedding(self.config.max_position_embeddings, width, self.dtype)

    def __call__(self, inputs_embeds):
        positions = self.position_embedding(jnp.arange(inputs_embeds.shape[1]))
        return inputs_embeds.astype(self.dtype) + positions


class _Encoder(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention
    skipped: int

    def setup(self):
        self.layers = _LayerStack(self.config, self.dtype, self.attention, self.skipped)

    def __call__(self, hidden_states):
        return self.layers(hidden_states)


class _StackedEncoder(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention

    def setup(self):
        self.layers = _StackedLayers(self.config, self.dtype, self.attention)

    def __call__(self, hidden_states):
        return self.layers(hidden_states)


class _StackedLayers(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states):
        layer = _EncoderLayer(self.config, self.dtype, self.attention, name=STACKED)
        return run_stacked(layer, self.config.num_hidden_layers, hidden_states)


class _LayerStack(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention
    skipped: int

    @nn.compact
    def __call__(self, hidden_states):
        skipped = 0 if self.is_initializing() else self.skipped  # they have parameters all the same
        for index in range(self.config.num_hidden_layers - skipped):
            layer = _EncoderLayer(self.config, self.dtype, self.attention, name=str(index))
            hidden_states = layer(hidden_states)
        return hidden_states


class _EncoderLayer(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states):
        epsilon = self.config.layer_norm_eps
        normed = layer_norm(epsilon, self.dtype, "layer_norm1")(hidden_states)
        attention = _SelfAttention(self.config, self.dtype, self.attention, name="self_attn")
        hidden_states = hidden_states + attention(normed)
        normed = layer_norm(epsilon, self.dtype, "layer_norm2")(hidden_states)
        return hidden_states + _FeedForward(self.config, self.dtype, name="mlp")(normed)


class _SelfAttention(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states):
        batch, tokens, width = hidden_states.shape
        heads = self.config.num_attention_heads
        query, key, value = (
            dense(width, self.dtype, name)(hidden_states).reshape(batch, tokens, heads, width // heads)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attended = self.attention(query, key, value, causal=True)
        return dense(width, self.dtype, "out_proj")(attended.reshape(batch, tokens, width))


class _FeedForward(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, hidden_states):
        activation = quick_gelu if self.config.hidden_act == "quick_gelu" else gelu
        hidden_states = activation(dense(self.config.intermediate_size, self.dtype, "fc1")(hidden_states))
        return dense(self.config.hidden_size, self.dtype, "fc2")(hidden_states)
