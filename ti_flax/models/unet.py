"""Denoising UNet of Stable Diffusion 1.x and 2.x (arXiv:2112.10752, appendix E.2).

The parameter tree is that of diffusers' FlaxUNet2DConditionModel; the numbers are those of PyTorch's
UNet2DConditionModel, which differs in the epsilon of the transformers' group norm and in the exact GELU.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ti_flax.models import config_fields as fields
from ti_flax.models.attention import AUTO, Attention
from ti_flax.models.layers import (
    Downsample,
    ResnetBlock,
    Upsample,
    conv,
    dense,
    gelu,
    group_norm,
    layer_norm,
)

# Not in the config of any UNet: constants of PyTorch's Transformer2DModel and BasicTransformerBlock.
_TRANSFORMER_GROUP_NORM_EPSILON = 1e-6
_TRANSFORMER_LAYER_NORM_EPSILON = 1e-5

_READ = {
    "in_channels": fields.integer,
    "out_channels": fields.integer,
    "flip_sin_to_cos": fields.boolean,
    "freq_shift": fields.count,
    "down_block_types": fields.list_of("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": fields.list_of("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": fields.integers,
    "layers_per_block": fields.one_or_more_layers,
    "transformer_layers_per_block": fields.one_or_more_layers,
    "norm_num_groups": fields.integer,
    "norm_eps": fields.number,
    "cross_attention_dim": fields.one_or_more_integers,
    "use_linear_projection": fields.boolean,
}
_FIXED = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dropout": (0.0,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1.0,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
# Sizes of parts that are switched off above, and choices that leave the numbers as they are: scores and
# softmax are always float32 here, whether or not `upcast_attention` asks for it.
_INFORMATIONAL = frozenset(
    {
        "addition_embed_type_num_heads",
        "addition_time_embed_dim",
        "dtype",
        "projection_class_embeddings_input_dim",
        "sample_size",
        "split_head_dim",
        "upcast_attention",
        "use_memory_efficient_attention",
    }
)


@dataclasses.dataclass(frozen=True)
class UNet2DConditionConfig:
    """Shape of a UNet; the defaults are those of diffusers.

    `num_attention_heads` is the number of heads in every block. Configs call it `attention_head_dim` more
    often than not, a name that stayed from an early mistake and does not mean the heads' width.
    """

    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: tuple[int, ...] = (2, 2, 2, 2)
    transformer_layers_per_block: tuple[int, ...] = (1, 1, 1, 1)
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    num_attention_heads: tuple[int, ...] = (8, 8, 8, 8)
    use_linear_projection: bool = False

    @classmethod
    def from_dict(cls, config_json: Mapping[str, Any], where: str = "unet/config.json"):
        """Read a parsed `config.json`.

        Raises:
          WeightsError: for a field or value this model does not support, or fields that do not fit together.
        """
        config_json = dict(config_json)
        heads = _heads_field(config_json, where)
        values = fields.supported_fields(
            config_json, where, read=_READ, fixed=_FIXED, informational=_INFORMATIONAL
        )
        blocks = len(values.get("block_out_channels", cls.block_out_channels))
        defaults = {"layers_per_block": 2, "transformer_layers_per_block": 1}
        for name, default in defaults.items():
            values[name] = fields.per_block(values.get(name, default), blocks, f"{where}, field {name}")
        values["num_attention_heads"] = fields.per_block(heads, blocks, f"{where}, the number of heads")
        values["cross_attention_dim"] = _single(values.get("cross_attention_dim", 1280), where)
        config = cls(**values)
        config._check(where)
        return config

    def _check(self, where: str) -> None:
        blocks = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types"):
            types = getattr(self, name)
            fields.require(len(types) == blocks, f"{where}, field {name}", f"{blocks} entries", list(types))
        for channels, heads in zip(self.block_out_channels, self.num_attention_heads, strict=True):
            for divisor, what in ((heads, "heads"), (self.norm_num_groups, "groups")):
                fields.require(
                    channels % divisor == 0, where, f"channels to be a multiple of {divisor} {what}", channels
                )


def _heads_field(config_json: dict[str, Any], where: str) -> int | tuple[int, ...]:
    """Take the number of heads out of the config under either of its names."""
    named = config_json.pop("num_attention_heads", None)
    misnamed = config_json.pop("attention_head_dim", None)
    name, value = ("num_attention_heads", named) if named is not None else ("attention_head_dim", misnamed)
    found = {name: 8 if value is None else value}
    reader = {name: fields.one_or_more_integers}
    return fields.supported_fields(found, where, read=reader, fixed={}, informational=())[name]


def _single(value: int | tuple[int, ...], where: str) -> int:
    """Give the one width of the prompt's encoding, which every block has to share."""
    widths = {value} if isinstance(value, int) else set(value)
    fields.require(len(widths) == 1, f"{where}, field cross_attention_dim", "one width", sorted(widths))
    return widths.pop()


def timestep_embedding(
    timesteps: jax.Array, channels: int, *, flip_sin_to_cos: bool, freq_shift: int
) -> jax.Array:
    """Encode timesteps as sines and cosines of falling frequency (arXiv:1706.03762, section 3.5).

    Args:
      timesteps: `[batch]`, integers or floats.
      channels: size of the encoding.
      flip_sin_to_cos: put the cosines first.
      freq_shift: taken from the number of frequencies in the exponent's divisor.

    Returns:
      `[batch, channels]` float32.
    """
    half = channels // 2
    exponent = jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(-math.log(10000.0) * exponent)[None, :]
    parts = [jnp.cos(angles), jnp.sin(angles)] if flip_sin_to_cos else [jnp.sin(angles), jnp.cos(angles)]
    return jnp.pad(jnp.concatenate(parts, axis=-1), ((0, 0), (0, channels % 2)))


class FlaxUNet2DConditionModel(nn.Module):
    """Predict noise or velocity in latents, given timesteps and an encoded prompt.

    Attributes:
      config: shape of the model.
      dtype: of parameters and computation.
      gradient_checkpointing: compute activations again in the backward pass instead of keeping them.
      attention: how to compute it.
    """

    config: UNet2DConditionConfig
    dtype: DTypeLike = jnp.float32
    gradient_checkpointing: bool = False
    attention: Attention = AUTO

    @nn.compact
    def __call__(
        self, sample: jax.Array, timesteps: jax.Array, encoder_hidden_states: jax.Array
    ) -> jax.Array:
        """Return the prediction `[batch, height, width, out_channels]` in the compute dtype.

        Args:
          sample: noisy latents `[batch, height, width, in_channels]`.
          timesteps: `[batch]`.
          encoder_hidden_states: the encoded prompt `[batch, tokens, width]`.
        """
        config = self.config
        context = encoder_hidden_states.astype(self.dtype)
        embedded = _TimeEmbedding(config, self.dtype, name="time_embedding")(timesteps)
        hidden_states = conv(config.block_out_channels[0], 3, self.dtype, "conv_in")(
            sample.astype(self.dtype)
        )
        hidden_states, skips = self._down(hidden_states, embedded, context)
        hidden_states = self._block(_MidBlock)(config, self.dtype, self.attention, name="mid_block")(
            hidden_states, embedded, context
        )
        hidden_states = self._up(hidden_states, skips, embedded, context)
        hidden_states = group_norm(config.norm_num_groups, config.norm_eps, self.dtype, "conv_norm_out")(
            hidden_states
        )
        return conv(config.out_channels, 3, self.dtype, "conv_out")(nn.silu(hidden_states))

    def _block(self, block: type[nn.Module]) -> type[nn.Module]:
        return nn.remat(block) if self.gradient_checkpointing else block

    def _down(self, hidden_states, embedded, context):
        """Run the blocks that shrink; every layer's output is kept for the block that grows it back."""
        skips = (hidden_states,)
        for index in range(len(self.config.block_out_channels)):
            block = self._block(_DownBlock)(
                self.config, index, self.dtype, self.attention, name=f"down_blocks_{index}"
            )
            hidden_states, outputs = block(hidden_states, embedded, context)
            skips += outputs
        return hidden_states, skips

    def _up(self, hidden_states, skips, embedded, context):
        """Run the blocks that grow, the last skips first."""
        blocks = len(self.config.block_out_channels)
        for index in range(blocks):
            layers = self.config.layers_per_block[blocks - 1 - index] + 1
            skips, own = skips[:-layers], skips[-layers:]
            # An odd height or width was rounded up on the way down: the skip knows the size it had.
            size = skips[-1].shape[1:3] if skips else None
            block = self._block(_UpBlock)(
                self.config, index, size, self.dtype, self.attention, name=f"up_blocks_{index}"
            )
            hidden_states = block(hidden_states, own, embedded, context)
        return hidden_states


class _TimeEmbedding(nn.Module):
    config: UNet2DConditionConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, timesteps):
        channels = self.config.block_out_channels[0]
        encoded = timestep_embedding(
            timesteps,
            channels,
            flip_sin_to_cos=self.config.flip_sin_to_cos,
            freq_shift=self.config.freq_shift,
        )
        hidden_states = dense(4 * channels, self.dtype, "linear_1")(encoded.astype(self.dtype))
        return dense(4 * channels, self.dtype, "linear_2")(nn.silu(hidden_states))


def _resnet(config: UNet2DConditionConfig, channels: int, dtype: DTypeLike, name: str) -> ResnetBlock:
    return ResnetBlock(channels, config.norm_num_groups, config.norm_eps, dtype, name=name)


class _DownBlock(nn.Module):
    config: UNet2DConditionConfig
    index: int
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states, embedded, context):
        config, index = self.config, self.index
        outputs = ()
        for layer in range(config.layers_per_block[index]):
            resnet = _resnet(config, config.block_out_channels[index], self.dtype, f"resnets_{layer}")
            hidden_states = resnet(hidden_states, embedded)
            if config.down_block_types[index] == "CrossAttnDownBlock2D":
                attention = _Transformer(
                    config, index, self.dtype, self.attention, name=f"attentions_{layer}"
                )
                hidden_states = attention(hidden_states, context)
            outputs += (hidden_states,)
        if index < len(config.block_out_channels) - 1:
            hidden_states = Downsample(False, self.dtype, name="downsamplers_0")(hidden_states)
            outputs += (hidden_states,)
        return hidden_states, outputs


class _MidBlock(nn.Module):
    config: UNet2DConditionConfig
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states, embedded, context):
        last = len(self.config.block_out_channels) - 1
        channels = self.config.block_out_channels[last]
        hidden_states = _resnet(self.config, channels, self.dtype, "resnets_0")(hidden_states, embedded)
        attention = _Transformer(self.config, last, self.dtype, self.attention, name="attentions_0")
        hidden_states = attention(hidden_states, context)
        return _resnet(self.config, channels, self.dtype, "resnets_1")(hidden_states, embedded)


class _UpBlock(nn.Module):
    config: UNet2DConditionConfig
    index: int
    size: tuple[int, int] | None
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states, skips, embedded, context):
        config = self.config
        mirrored = len(config.block_out_channels) - 1 - self.index
        for layer, skip in enumerate(reversed(skips)):
            hidden_states = jnp.concatenate([hidden_states, skip], axis=-1)
            resnet = _resnet(config, config.block_out_channels[mirrored], self.dtype, f"resnets_{layer}")
            hidden_states = resnet(hidden_states, embedded)
            if config.up_block_types[self.index] == "CrossAttnUpBlock2D":
                attention = _Transformer(
                    config, mirrored, self.dtype, self.attention, name=f"attentions_{layer}"
                )
                hidden_states = attention(hidden_states, context)
        if self.size is not None:
            hidden_states = Upsample(self.dtype, name="upsamplers_0")(hidden_states, self.size)
        return hidden_states


class _Transformer(nn.Module):
    """Attention over an image's positions; `index` is the block whose heads and depth it takes."""

    config: UNet2DConditionConfig
    index: int
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states, context):
        shape, residual = hidden_states.shape, hidden_states
        flat = (shape[0], shape[1] * shape[2], shape[3])
        groups = self.config.norm_num_groups
        hidden_states = group_norm(groups, _TRANSFORMER_GROUP_NORM_EPSILON, self.dtype, "norm")(hidden_states)
        hidden_states = self._projection("proj_in", shape[-1])(hidden_states).reshape(flat)
        for layer in range(self.config.transformer_layers_per_block[self.index]):
            heads = self.config.num_attention_heads[self.index]
            block = _TransformerBlock(heads, self.dtype, self.attention, name=f"transformer_blocks_{layer}")
            hidden_states = block(hidden_states, context)
        return residual + self._projection("proj_out", shape[-1])(hidden_states.reshape(shape))

    def _projection(self, name: str, channels: int) -> nn.Module:
        """SD 1.x keeps the projections as 1x1 convolutions, SD 2.x as linear layers: the same numbers."""
        if self.config.use_linear_projection:
            return dense(channels, self.dtype, name)
        return conv(channels, 1, self.dtype, name)


class _TransformerBlock(nn.Module):
    heads: int
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states, context):
        norms = (
            layer_norm(_TRANSFORMER_LAYER_NORM_EPSILON, self.dtype, f"norm{index}") for index in (1, 2, 3)
        )
        normed = next(norms)(hidden_states)
        to_itself = _Attention(self.heads, self.dtype, self.attention, name="attn1")
        hidden_states = hidden_states + to_itself(normed, normed)
        normed = next(norms)(hidden_states)
        to_prompt = _Attention(self.heads, self.dtype, self.attention, name="attn2")
        hidden_states = hidden_states + to_prompt(normed, context)
        normed = next(norms)(hidden_states)
        return hidden_states + _FeedForward(self.dtype, name="ff")(normed)


class _Attention(nn.Module):
    heads: int
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states, context):
        channels = hidden_states.shape[-1]

        def split(name, tokens):
            projected = dense(channels, self.dtype, name, use_bias=False)(tokens)
            return projected.reshape(*tokens.shape[:2], self.heads, channels // self.heads)

        attended = self.attention(
            split("to_q", hidden_states), split("to_k", context), split("to_v", context)
        )
        return dense(channels, self.dtype, "to_out_0")(attended.reshape(hidden_states.shape))


class _FeedForward(nn.Module):
    dtype: DTypeLike

    @nn.compact
    def __call__(self, hidden_states):
        gated = _GatedGelu(self.dtype, name="net_0")(hidden_states)
        return dense(hidden_states.shape[-1], self.dtype, "net_2")(gated)


class _GatedGelu(nn.Module):
    """GEGLU of four times the width (arXiv:2002.05202, eq. 6)."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, hidden_states):
        projected = dense(8 * hidden_states.shape[-1], self.dtype, "proj")(hidden_states)
        linear, gate = jnp.split(projected, 2, axis=-1)
        return linear * gelu(gate)
