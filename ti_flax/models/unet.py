"""Denoising UNet of Stable Diffusion (arXiv:2112.10752, appendix E.2) and SDXL (arXiv:2307.01952, section 2).

The parameter tree is that of diffusers' FlaxUNet2DConditionModel, but that a transformer's layers are stacked
where there are several; the numbers are those of PyTorch's UNet2DConditionModel, which differs in the epsilon
of the transformers' group norm and in the exact GELU.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ti_flax.models import config_fields as fields
from ti_flax.models.attention import AUTO, Attention
from ti_flax.models.layers import Downsample, ResnetBlock, Upsample, conv, dense, group_norm
from ti_flax.models.transformer import Transformer

# The kind of embedding that SDXL adds to that of the timestep: of the prompt as a whole, and of sizes.
TEXT_TIME = "text_time"
# Original height and width, crop top and left, target height and width (arXiv:2307.01952, section 2.2).
SIZES = 6


def _added_embedding(value: Any) -> str:
    if value != TEXT_TIME:
        raise ValueError(f"None or {TEXT_TIME!r}")
    return value


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
    "addition_embed_type": _added_embedding,
    "addition_time_embed_dim": fields.integer,
    "projection_class_embeddings_input_dim": fields.integer,
}
_FIXED = {
    "act_fn": ("silu", "swish"),
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
        "dtype",
        "sample_size",
        "split_head_dim",
        "upcast_attention",
        "use_memory_efficient_attention",
    }
)
_ADDITION_SIZES = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")


@dataclasses.dataclass(frozen=True)
class UNet2DConditionConfig:
    """Shape of a UNet; the defaults are those of diffusers.

    `num_attention_heads` is the number of heads in every block. Configs call it `attention_head_dim` more
    often than not, a name that stayed from an early mistake and does not mean the heads' width. The last
    three are SDXL's: `addition_embed_type` is `text_time`, and the others are the width of one size's
    embedding, and that of the pooled prompt and all sizes together.
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
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None

    @property
    def pooled_dim(self) -> int:
        """The width of the pooled prompt that an SDXL UNet takes."""
        assert self.projection_class_embeddings_input_dim and self.addition_time_embed_dim
        return self.projection_class_embeddings_input_dim - SIZES * self.addition_time_embed_dim

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
        if "addition_embed_type" not in values:  # the sizes of what is not there say nothing
            for name in _ADDITION_SIZES:
                values.pop(name, None)
        config = cls(**values)
        config._check(where)
        return config

    def _check(self, where: str) -> None:
        for name in _ADDITION_SIZES if self.addition_embed_type else ():
            fields.require(getattr(self, name) is not None, where, f"the field {name}", "none")
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
      gradient_checkpointing: compute activations again in the backward pass instead of keeping them: those of
        a block at once, or of each layer by itself in blocks whose transformers have many.
      attention: how to compute it.
    """

    config: UNet2DConditionConfig
    dtype: DTypeLike = jnp.float32
    gradient_checkpointing: bool = False
    attention: Attention = AUTO

    @nn.compact
    def __call__(
        self,
        sample: jax.Array,
        timesteps: jax.Array,
        encoder_hidden_states: jax.Array,
        pooled: jax.Array | None = None,
        time_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Return the prediction `[batch, height, width, out_channels]` in the compute dtype.

        Args:
          sample: noisy latents `[batch, height, width, in_channels]`.
          timesteps: `[batch]`.
          encoder_hidden_states: the encoded prompt `[batch, tokens, width]`.
          pooled: SDXL's prompt as a whole, `[batch, pooled_dim]`; None for other models.
          time_ids: SDXL's sizes, `[batch, 6]` float32: original height and width, crop top and left, target
            height and width, in pixels; None for other models.
        """
        config = self.config
        context = encoder_hidden_states.astype(self.dtype)
        embedded = _TimeEmbedding(config, self.dtype, name="time_embedding")(timesteps)
        if config.addition_embed_type is not None:
            embedded += _AddedEmbedding(config, self.dtype, name="add_embedding")(pooled, time_ids)
        hidden_states = conv(config.block_out_channels[0], 3, self.dtype, "conv_in")(
            sample.astype(self.dtype)
        )
        hidden_states, skips = self._down(hidden_states, embedded, context)
        last = len(config.block_out_channels) - 1
        mid_block = self._block(_MidBlock, last, "CrossAttn")(name="mid_block")
        hidden_states = mid_block(hidden_states, embedded, context)
        hidden_states = self._up(hidden_states, skips, embedded, context)
        hidden_states = group_norm(config.norm_num_groups, config.norm_eps, self.dtype, "conv_norm_out")(
            hidden_states
        )
        return conv(config.out_channels, 3, self.dtype, "conv_out")(nn.silu(hidden_states))

    def _block(self, block: type[nn.Module], level: int, kind: str) -> Callable[..., nn.Module]:
        """Give the block of a level; computed again is all of it at once, or each of its many layers."""
        many = "CrossAttn" in kind and self.config.transformer_layers_per_block[level] > 1
        whole = nn.remat(block) if self.gradient_checkpointing and not many else block
        parts = _Parts(self.config, level, self.dtype, self.attention, self.gradient_checkpointing and many)
        return functools.partial(whole, parts, kind)

    def _down(self, hidden_states, embedded, context):
        """Run the blocks that shrink; every layer's output is kept for the block that grows it back."""
        skips = (hidden_states,)
        for index, kind in enumerate(self.config.down_block_types):
            block = self._block(_DownBlock, index, kind)(name=f"down_blocks_{index}")
            hidden_states, outputs = block(hidden_states, embedded, context)
            skips += outputs
        return hidden_states, skips

    def _up(self, hidden_states, skips, embedded, context):
        """Run the blocks that grow, the last skips first."""
        blocks = len(self.config.block_out_channels)
        for index, kind in enumerate(self.config.up_block_types):
            level = blocks - 1 - index
            layers = self.config.layers_per_block[level] + 1
            skips, own = skips[:-layers], skips[-layers:]
            # An odd height or width was rounded up on the way down: the skip knows the size it had.
            size = skips[-1].shape[1:3] if skips else None
            block = self._block(_UpBlock, level, kind)(size, name=f"up_blocks_{index}")
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


class _AddedEmbedding(nn.Module):
    config: UNet2DConditionConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, pooled, time_ids):
        config = self.config
        encoded = timestep_embedding(
            time_ids.reshape(-1),
            config.addition_time_embed_dim or 0,
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
        parts = (pooled.astype(self.dtype), encoded.reshape(len(pooled), -1).astype(self.dtype))
        width = 4 * config.block_out_channels[0]
        hidden_states = dense(width, self.dtype, "linear_1")(jnp.concatenate(parts, axis=-1))
        return dense(width, self.dtype, "linear_2")(nn.silu(hidden_states))


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What the blocks of a level are made of; `checkpointed` computes each part again by itself."""

    config: UNet2DConditionConfig
    level: int
    dtype: DTypeLike
    attention: Attention
    checkpointed: bool

    def resnet(self, number: int) -> nn.Module:
        config = self.config
        channels = config.block_out_channels[self.level]
        block = nn.remat(ResnetBlock) if self.checkpointed else ResnetBlock
        return block(channels, config.norm_num_groups, config.norm_eps, self.dtype, name=f"resnets_{number}")

    def transformer(self, number: int) -> nn.Module:
        config = self.config
        return Transformer(
            config.transformer_layers_per_block[self.level],
            config.num_attention_heads[self.level],
            config.norm_num_groups,
            config.use_linear_projection,
            self.dtype,
            self.attention,
            self.checkpointed,
            name=f"attentions_{number}",
        )


class _DownBlock(nn.Module):
    parts: _Parts
    kind: str

    @nn.compact
    def __call__(self, hidden_states, embedded, context):
        config, level = self.parts.config, self.parts.level
        outputs = ()
        for layer in range(config.layers_per_block[level]):
            hidden_states = self.parts.resnet(layer)(hidden_states, embedded)
            if self.kind == "CrossAttnDownBlock2D":
                hidden_states = self.parts.transformer(layer)(hidden_states, context)
            outputs += (hidden_states,)
        if level < len(config.block_out_channels) - 1:
            hidden_states = Downsample(False, self.parts.dtype, name="downsamplers_0")(hidden_states)
            outputs += (hidden_states,)
        return hidden_states, outputs


class _MidBlock(nn.Module):
    parts: _Parts
    kind: str

    @nn.compact
    def __call__(self, hidden_states, embedded, context):
        hidden_states = self.parts.resnet(0)(hidden_states, embedded)
        hidden_states = self.parts.transformer(0)(hidden_states, context)
        return self.parts.resnet(1)(hidden_states, embedded)


class _UpBlock(nn.Module):
    parts: _Parts
    kind: str
    size: tuple[int, int] | None

    @nn.compact
    def __call__(self, hidden_states, skips, embedded, context):
        for layer, skip in enumerate(reversed(skips)):
            hidden_states = jnp.concatenate([hidden_states, skip], axis=-1)
            hidden_states = self.parts.resnet(layer)(hidden_states, embedded)
            if self.kind == "CrossAttnUpBlock2D":
                hidden_states = self.parts.transformer(layer)(hidden_states, context)
        if self.size is not None:
            hidden_states = Upsample(self.parts.dtype, name="upsamplers_0")(hidden_states, self.size)
        return hidden_states
