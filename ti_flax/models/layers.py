"""Layers the models share. Names and shapes of parameters are those of diffusers' Flax classes."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ti_flax.models.convolution import convolution

# In a name in memory: parameters of all the identical layers that files number, stacked along a first axis.
STACKED = "*"


def dense(features: int, dtype: DTypeLike, name: str | None = None, *, use_bias: bool = True) -> nn.Dense:
    """Make a linear layer whose parameters are kept in the compute dtype."""
    return nn.Dense(features, use_bias=use_bias, dtype=dtype, param_dtype=dtype, name=name)


def conv(
    features: int, kernel: int, dtype: DTypeLike, name: str | None = None, *, stride: int = 1, padding=None
) -> nn.Conv:
    """Make a square convolution; without `padding` it keeps the image's size at stride 1."""
    sides = ((kernel // 2, kernel // 2),) * 2 if padding is None else padding
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=sides,
        dtype=dtype,
        param_dtype=dtype,
        conv_general_dilated=convolution,
        name=name,
    )


def embedding(rows: int, width: int, dtype: DTypeLike) -> nn.Embed:
    """Make a table of vectors kept in the compute dtype."""
    return nn.Embed(rows, width, dtype=dtype, param_dtype=dtype)


def group_norm(groups: int, epsilon: float, dtype: DTypeLike, name: str | None = None) -> nn.GroupNorm:
    """Make a group norm with float32 statistics.

    The variance is taken around the mean: the one-pass `E[x^2] - E[x]^2` loses digits where activations
    sit far from zero, as they do late in the VAE.
    """
    return nn.GroupNorm(
        groups, epsilon=epsilon, dtype=dtype, param_dtype=dtype, use_fast_variance=False, name=name
    )


def layer_norm(epsilon: float, dtype: DTypeLike, name: str | None = None) -> nn.LayerNorm:
    """Make a layer norm with float32 statistics, the variance taken around the mean."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, param_dtype=dtype, use_fast_variance=False, name=name)


def quick_gelu(hidden_states: jax.Array) -> jax.Array:
    """Approximate GELU by `x * sigmoid(1.702 x)`, as CLIP does (arXiv:1606.08415, section 2)."""
    return hidden_states * jax.nn.sigmoid(1.702 * hidden_states)


gelu = functools.partial(jax.nn.gelu, approximate=False)


def run_stacked(
    layer: nn.Module, count: int, hidden_states: jax.Array, *context: jax.Array, checkpointed: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Run identical layers one after the other by one scan: compilation takes as long as for one of them.

    Args:
      layer: maps hidden states and context to hidden states; its parameters are those of all layers, stacked.
      count: of the layers.
      hidden_states: the first layer's input.
      context: what every layer is given besides.
      checkpointed: compute a layer's activations again in the backward pass, and keep its input alone.

    Returns:
      The last layer's output, and the input of every layer, `[count, ...]`.
    """

    def run(layer, hidden_states, *context):
        return layer(hidden_states, *context), hidden_states

    # A loop's body needs no barrier against the compiler's taking both computations for the same.
    run = nn.remat(run, prevent_cse=False) if checkpointed else run
    axes: dict[str, Any] = {"variable_axes": {"params": 0}, "in_axes": nn.broadcast}
    scan = nn.scan(run, **axes, split_rngs={"params": True}, length=count)
    return scan(layer, hidden_states, *context)


class ResnetBlock(nn.Module):
    """Two convolutions with group norms, a residual path, and the time embedding added in between.

    Attributes:
      channels: channels of the output; a 1x1 convolution fits an input with others to them.
      groups: groups of both norms.
      epsilon: added to the norms' variance.
      dtype: of parameters and computation.
    """

    channels: int
    groups: int
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, hidden_states: jax.Array, time_embedding: jax.Array | None = None) -> jax.Array:
        """Map `[batch, height, width, in_channels]` and `[batch, width]` to `channels` channels."""
        residual = hidden_states
        hidden_states = group_norm(self.groups, self.epsilon, self.dtype, "norm1")(hidden_states)
        hidden_states = conv(self.channels, 3, self.dtype, "conv1")(nn.silu(hidden_states))
        if time_embedding is not None:
            shift = dense(self.channels, self.dtype, "time_emb_proj")(nn.silu(time_embedding))
            hidden_states = hidden_states + shift[:, None, None, :]
        hidden_states = group_norm(self.groups, self.epsilon, self.dtype, "norm2")(hidden_states)
        hidden_states = conv(self.channels, 3, self.dtype, "conv2")(nn.silu(hidden_states))
        if residual.shape[-1] != self.channels:
            residual = conv(self.channels, 1, self.dtype, "conv_shortcut")(residual)
        return residual + hidden_states


class Downsample(nn.Module):
    """Halve height and width with a strided convolution.

    The UNet pads by one on all sides, the VAE at the bottom and on the right alone (`asymmetric`).
    """

    asymmetric: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, hidden_states: jax.Array) -> jax.Array:
        """Map `[batch, height, width, channels]` to half the size; the UNet's padding rounds odd ones up."""
        sides = ((0, 1), (0, 1)) if self.asymmetric else ((1, 1), (1, 1))
        channels = hidden_states.shape[-1]
        return conv(channels, 3, self.dtype, "conv", stride=2, padding=sides)(hidden_states)


class Upsample(nn.Module):
    """Double height and width by repeating pixels, then convolve."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, hidden_states: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
        """Map `[batch, height, width, channels]` to twice the size, or to the odd `size` just below it."""
        hidden_states = jnp.repeat(jnp.repeat(hidden_states, 2, axis=1), 2, axis=2)
        if size is not None:
            hidden_states = hidden_states[:, : size[0], : size[1]]
        return conv(hidden_states.shape[-1], 3, self.dtype, "conv")(hidden_states)
