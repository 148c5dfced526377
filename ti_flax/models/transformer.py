"""The UNet's transformers: attention over an image and to the prompt (arXiv:2112.10752, section 3.3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ti_flax.models.attention import Attention
from ti_flax.models.layers import STACKED, conv, dense, gelu, group_norm, layer_norm, run_stacked

# Not in the config of any UNet: constants of PyTorch's Transformer2DModel and BasicTransformerBlock.
_GROUP_NORM_EPSILON = 1e-6
_LAYER_NORM_EPSILON = 1e-5


class Transformer(nn.Module):
    """Layers of attention over an image's positions, between two projections.

    Several layers are run by a scan, and their parameters stacked.

    Attributes:
      layers: how many.
      heads: of each attention.
      groups: of the group norm before them.
      linear_projection: SD 1.x keeps the projections as 1x1 convolutions, SD 2.x and SDXL as linear layers:
        the same numbers.
      dtype: of parameters and computation.
      attention: how to compute it.
      checkpointed: compute a layer's activations again in the backward pass, where several are stacked.
    """

    layers: int
    heads: int
    groups: int
    linear_projection: bool
    dtype: DTypeLike
    attention: Attention
    checkpointed: bool = False

    @nn.compact
    def __call__(self, hidden_states: jax.Array, context: jax.Array) -> jax.Array:
        """Map `[batch, height, width, channels]` to the same shape.

        Args:
          hidden_states: of the image.
          context: the encoded prompt, `[batch, tokens, width]`.
        """
        shape, residual = hidden_states.shape, hidden_states
        flat = (shape[0], shape[1] * shape[2], shape[3])
        hidden_states = group_norm(self.groups, _GROUP_NORM_EPSILON, self.dtype, "norm")(hidden_states)
        hidden_states = self._projection("proj_in", shape[-1])(hidden_states).reshape(flat)
        number = 0 if self.layers == 1 else STACKED
        block = _TransformerBlock(self.heads, self.dtype, self.attention, name=f"transformer_blocks_{number}")
        if self.layers == 1:
            hidden_states = block(hidden_states, context)
        else:
            hidden_states, _ = run_stacked(
                block, self.layers, hidden_states, context, checkpointed=self.checkpointed
            )
        return residual + self._projection("proj_out", shape[-1])(hidden_states.reshape(shape))

    def _projection(self, name: str, channels: int) -> nn.Module:
        if self.linear_projection:
            return dense(channels, self.dtype, name)
        return conv(channels, 1, self.dtype, name)


class _TransformerBlock(nn.Module):
    heads: int
    dtype: DTypeLike
    attention: Attention

    @nn.compact
    def __call__(self, hidden_states, context):
        norms = (layer_norm(_LAYER_NORM_EPSILON, self.dtype, f"norm{index}") for index in (1, 2, 3))
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
