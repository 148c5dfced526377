"""Autoencoder between images and latents (arXiv:2112.10752, section 3.1), as diffusers' AutoencoderKL."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ti_flax.models import config_fields as fields
from ti_flax.models.attention import AUTO, Attention
from ti_flax.models.layers import Downsample, ResnetBlock, Upsample, conv, dense, group_norm

# Not in the config of any autoencoder: a constant of PyTorch's Encoder and Decoder.
_NORM_EPSILON = 1e-6
# Bounds diffusers puts on the log-variance (DiagonalGaussianDistribution).
_LOG_VARIANCE_RANGE = (-30.0, 20.0)

_READ = {
    "in_channels": fields.integer,
    "out_channels": fields.integer,
    "down_block_types": fields.list_of("DownEncoderBlock2D"),
    "up_block_types": fields.list_of("UpDecoderBlock2D"),
    "block_out_channels": fields.integers,
    "layers_per_block": fields.layers,
    "latent_channels": fields.integer,
    "norm_num_groups": fields.integer,
    "scaling_factor": fields.number,
}
_FIXED = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "shift_factor": (None,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
# `force_upcast` asks for float32 where float16 would overflow; there is no float16 here.
_INFORMATIONAL = frozenset({"dtype", "force_upcast", "sample_size"})


@dataclasses.dataclass(frozen=True)
class AutoencoderKLConfig:
    """Shape of an autoencoder and the factor of its latents; the defaults are those of diffusers."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a latent's square of the image."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, config_json: Mapping[str, Any], where: str = "vae/config.json"):
        """Read a parsed `config.json`.

        Raises:
          WeightsError: for a field or value this model does not support, or fields that do not fit together.
        """
        values = fields.supported_fields(
            config_json, where, read=_READ, fixed=_FIXED, informational=_INFORMATIONAL
        )
        config = cls(**values)
        blocks, groups = len(config.block_out_channels), config.norm_num_groups
        for name in ("down_block_types", "up_block_types"):
            types = getattr(config, name)
            fields.require(len(types) == blocks, f"{where}, field {name}", f"{blocks} entries", list(types))
        for channels in config.block_out_channels:
            fields.require(
                channels % groups == 0, where, f"channels to be a multiple of {groups} groups", channels
            )
        return config


class FlaxAutoencoderKL(nn.Module):
    """Encode images to the moments of a Gaussian over latents, and decode latents.

    Attributes:
      config: shape of the model.
      dtype: of parameters and computation.
      attention: how to compute it.
    """

    config: AutoencoderKLConfig
    dtype: DTypeLike = jnp.float32
    attention: Attention = AUTO

    def setup(self):
        latent_channels = self.config.latent_channels
        self.encoder = _Encoder(self.config, self.dtype, self.attention)
        self.decoder = _Decoder(self.config, self.dtype, self.attention)
        self.quant_conv = conv(2 * latent_channels, 1, self.dtype)
        self.post_quant_conv = conv(latent_channels, 1, self.dtype)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Encode and decode again, with the mean as latents: `[batch, height, width, channels]`."""
        mean, _ = jnp.split(self.encode(images), 2, axis=-1)
        return self.decode(mean)

    def encode(self, images: jax.Array) -> jax.Array:
        """Return the latents' mean and log-variance, not scaled, in the compute dtype.

        Args:
          images: `[batch, height, width, channels]` in [-1, 1].

        Returns:
          `[batch, height / downsampling, width / downsampling, 2 * latent_channels]`: the mean, then the
          log-variance limited to [-30, 20].
        """
        moments = self.quant_conv(self.encoder(images.astype(self.dtype)))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return jnp.concatenate([mean, jnp.clip(log_variance, *_LOG_VARIANCE_RANGE)], axis=-1)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Return the image of latents, `[batch, height, width, channels]`, in about [-1, 1].

        Args:
          latents: `[batch, height / downsampling, width / downsampling, latent_channels]`, already divided
            by the scaling factor.
        """
        return self.decoder(self.post_quant_conv(latents.astype(self.dtype)))


def _resnet(config: AutoencoderKLConfig, channels: int, dtype: DTypeLike, name: str) -> ResnetBlock:
    return ResnetBlock(channels, config.norm_num_groups, _NORM_EPSILON, dtype, name=name)


class _Encoder(nn.Module):
    config: AutoencoderKLConfig
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states):
        config = self.config
        hidden_states = conv(config.block_out_channels[0], 3, self.dtype, "conv_in")(hidden_states)
        for index, channels in enumerate(config.block_out_channels):
            last = index == len(config.block_out_channels) - 1
            block = _EncoderBlock(config, channels, last, self.dtype, name=f"down_blocks_{index}")
            hidden_states = block(hidden_states)
        hidden_states = _MidBlock(config, self.dtype, self.attention, name="mid_block")(hidden_states)
        norm = group_norm(config.norm_num_groups, _NORM_EPSILON, self.dtype, "conv_norm_out")
        moments = conv(2 * config.latent_channels, 3, self.dtype, "conv_out")
        return moments(nn.silu(norm(hidden_states)))


class _Decoder(nn.Module):
    config: AutoencoderKLConfig
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states):
        config = self.config
        hidden_states = conv(config.block_out_channels[-1], 3, self.dtype, "conv_in")(hidden_states)
        hidden_states = _MidBlock(config, self.dtype, self.attention, name="mid_block")(hidden_states)
        for index, channels in enumerate(reversed(config.block_out_channels)):
            last = index == len(config.block_out_channels) - 1
            block = _DecoderBlock(config, channels, last, self.dtype, name=f"up_blocks_{index}")
            hidden_states = block(hidden_states)
        norm = group_norm(config.norm_num_groups, _NORM_EPSILON, self.dtype, "conv_norm_out")
        return conv(config.out_channels, 3, self.dtype, "conv_out")(nn.silu(norm(hidden_states)))


class _EncoderBlock(nn.Module):
    config: AutoencoderKLConfig
    channels: int
    last: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, hidden_states):
        for layer in range(self.config.layers_per_block):
            resnet = _resnet(self.config, self.channels, self.dtype, f"resnets_{layer}")
            hidden_states = resnet(hidden_states)
        if not self.last:
            hidden_states = Downsample(True, self.dtype, name="downsamplers_0")(hidden_states)
        return hidden_states


class _DecoderBlock(nn.Module):
    config: AutoencoderKLConfig
    channels: int
    last: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, hidden_states):
        for layer in range(self.config.layers_per_block + 1):
            resnet = _resnet(self.config, self.channels, self.dtype, f"resnets_{layer}")
            hidden_states = resnet(hidden_states)
        if not self.last:
            hidden_states = Upsample(self.dtype, name="upsamplers_0")(hidden_states)
        return hidden_states


class _MidBlock(nn.Module):
    config: AutoencoderKLConfig
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states):
        channels = self.config.block_out_channels[-1]
        hidden_states = _resnet(self.config, channels, self.dtype, "resnets_0")(hidden_states)
        attention = _Attention(self.config.norm_num_groups, self.dtype, self.attention, name="attentions_0")
        hidden_states = attention(hidden_states)
        return _resnet(self.config, channels, self.dtype, "resnets_1")(hidden_states)


class _Attention(nn.Module):
    """Attention with one head over all positions of the image."""

    groups: int
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states):
        batch, height, width, channels = hidden_states.shape
        normed = group_norm(self.groups, _NORM_EPSILON, self.dtype, "group_norm")(hidden_states)
        flat = normed.reshape(batch, height * width, channels)
        query, key, value = (
            dense(channels, self.dtype, name)(flat)[:, :, None, :] for name in ("query", "key", "value")
        )
        attended = self.attention(query, key, value)[:, :, 0, :]
        attended = dense(channels, self.dtype, "proj_attn")(attended)
        return hidden_states + attended.reshape(hidden_states.shape)
