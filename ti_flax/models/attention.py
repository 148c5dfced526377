"""Attention: one function that every model calls, so that other implementations can take its place."""

import jax
import jax.numpy as jnp


def dot_product_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    """Mix values by the softmax of scaled query-key products (arXiv:1706.03762, eq. 1).

    Products are accumulated and normalised in float32 whatever the inputs are: in bfloat16 the
    softmax over some thousand tokens loses most of its digits, and Stable Diffusion 2.1 overflows in float16.

    Args:
      query: `[batch, tokens, heads, head_dim]`.
      key: `[batch, context_tokens, heads, head_dim]`.
      value: `[batch, context_tokens, heads, head_dim]`.
      mask: booleans that broadcast to `[batch, heads, tokens, context_tokens]`; False hides a context token.

    Returns:
      `[batch, tokens, heads, head_dim]` in the dtype of `query`.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * (query.shape[-1] ** -0.5)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)
