"""CLIP text encoder (arXiv:2103.00020, section 2.4) with the parameter tree of FlaxCLIPTextModel."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ti_flax.models import config_fields as fields
from ti_flax.models.attention import AUTO, Attention
from ti_flax.models.layers import dense, embedding, gelu, layer_norm, quick_gelu

_READ = {
    "vocab_size": fields.integer,
    "hidden_size": fields.integer,
    "intermediate_size": fields.integer,
    "num_hidden_layers": fields.layers,
    "num_attention_heads": fields.integer,
    "max_position_embeddings": fields.integer,
    "layer_norm_eps": fields.number,
    "hidden_act": fields.one_of("quick_gelu", "gelu"),
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
        "projection_dim",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "use_return_dict",
    }
)


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """Shape of a text encoder; the defaults are those of transformers."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"

    @classmethod
    def from_dict(cls, config_json: Mapping[str, Any], where: str = "text_encoder/config.json"):
        """Read a parsed `config.json`.

        Raises:
          WeightsError: for a field or value this model does not support.
        """
        values = fields.supported_fields(
            config_json, where, read=_READ, fixed=_FIXED, informational=_INFORMATIONAL
        )
        config = cls(**values)
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
    """

    config: CLIPTextConfig
    dtype: DTypeLike = jnp.float32
    attention: Attention = AUTO
    clip_skip: int = 0

    def setup(self):
        self.text_model = _TextTransformer(self.config, self.dtype, self.attention, self.clip_skip)

    def __call__(self, inputs_embeds: jax.Array) -> jax.Array:
        """Return the hidden states of the last layer run after the final norm, `[batch, tokens, width]`.

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


class _TextTransformer(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention
    clip_skip: int

    def setup(self):
        self.embeddings = _Embeddings(self.config, self.dtype)
        self.encoder = _Encoder(self.config, self.dtype, self.attention, self.clip_skip)
        self.final_layer_norm = layer_norm(self.config.layer_norm_eps, self.dtype)

    def __call__(self, inputs_embeds):
        return self.final_layer_norm(self.encoder(self.embeddings(inputs_embeds)))


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
    clip_skip: int

    def setup(self):
        self.layers = _LayerStack(self.config, self.dtype, self.attention, self.clip_skip)

    def __call__(self, hidden_states):
        return self.layers(hidden_states)


class _LayerStack(nn.Module):
    config: CLIPTextConfig
    dtype: DTypeLike
    attention: Attention
    clip_skip: int

    @nn.compact
    def __call__(self, hidden_states):
        skipped = 0 if self.is_initializing() else self.clip_skip  # they have parameters all the same
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
