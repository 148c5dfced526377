"""Names and shapes of a module's parameters, without computing anything."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ti_flax.models.text_encoder import FlaxCLIPTextModel, FlaxCLIPTextModelWithProjection
from ti_flax.models.unet import SIZES, FlaxUNet2DConditionModel
from ti_flax.models.vae import FlaxAutoencoderKL


def parameter_shapes(module: nn.Module) -> dict[str, Any]:
    """Return the tree of `jax.ShapeDtypeStruct` of one of the modules, without computing anything."""
    return _shapes(module.clone(dtype=jnp.dtype(module.dtype), parent=None))


@functools.lru_cache(maxsize=16)
def _shapes(module: nn.Module) -> dict[str, Any]:
    inputs, method = _example_inputs(module)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, method=method))
    return variables["params"]


def _example_inputs(module: nn.Module) -> tuple[tuple, Callable | None]:
    """Give the smallest inputs that touch every parameter of a module, and the method to give them to."""
    if isinstance(module, FlaxCLIPTextModel):
        return (jnp.zeros((1, 1), jnp.int32),), FlaxCLIPTextModel.encode_ids
    if isinstance(module, FlaxCLIPTextModelWithProjection):
        ids, ends = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1,), jnp.int32)
        return (ids, ends), FlaxCLIPTextModelWithProjection.encode_ids
    if isinstance(module, FlaxAutoencoderKL):
        side = module.config.downsampling
        return (jnp.zeros((1, side, side, module.config.in_channels)),), None
    if isinstance(module, FlaxUNet2DConditionModel):
        config = module.config
        side = 2 ** (len(config.block_out_channels) - 1)
        sample = jnp.zeros((1, side, side, config.in_channels))
        inputs = (sample, jnp.zeros((1,)), jnp.zeros((1, 1, config.cross_attention_dim)))
        if config.addition_embed_type is not None:
            inputs += (jnp.zeros((1, config.pooled_dim)), jnp.zeros((1, SIZES)))
        return inputs, None
    raise TypeError(f"not a module of Stable Diffusion: {type(module).__name__}")
