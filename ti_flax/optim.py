"""The optimizer over the added rows: optax chain, the mask of rows that learn, learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Schedule = Callable[[Any], jax.Array]

# The learning rate that `polynomial` ends at, the reference scheduler's default.
POLYNOMIAL_LR_END = 1e-7


def learning_rate_schedule(
    name: str, *, peak: float, total_steps: int, warmup_steps: int = 0, num_cycles: int = 1
) -> Schedule:
    """Learning rate by update index, with the names and shapes of diffusers' `get_scheduler`.

    Args:
      name: constant, constant_with_warmup, linear, cosine, cosine_with_restarts or polynomial.
      peak: the learning rate after warm-up.
      total_steps: updates of the whole run; the falling kinds end there.
      warmup_steps: updates over which the rate rises linearly from 0; `constant` has none.
      num_cycles: hard restarts, for cosine_with_restarts.

    Returns:
      A function from the update index (`[]` int32, 0 for the first) to a `[]` float32.
    """
    if name == "constant":
        return lambda step: jnp.full(jnp.shape(step), peak, jnp.float32)
    decay = {
        "constant_with_warmup": lambda progress: jnp.ones_like(progress),
        "linear": lambda progress: 1.0 - progress,
        "cosine": lambda progress: 0.5 * (1.0 + jnp.cos(math.pi * progress)),
        "cosine_with_restarts": lambda progress: jnp.where(
            progress >= 1.0, 0.0, 0.5 * (1.0 + jnp.cos(math.pi * ((num_cycles * progress) % 1.0)))
        ),
        "polynomial": lambda progress: (
            (1.0 - progress) * (1.0 - POLYNOMIAL_LR_END / peak) + POLYNOMIAL_LR_END / peak
        ),
    }[name]

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = step / max(1, warmup_steps)
        progress = jnp.clip((step - warmup_steps) / max(1, total_steps - warmup_steps), 0.0, 1.0)
        return peak * jnp.where(step < warmup_steps, warmup, decay(progress))

    return schedule


def adamw(
    schedule: Schedule,
    *,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
    max_grad_norm: float | None = None,
) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) after an optional clip of the global gradient norm."""
    optimizer = optax.adamw(schedule, b1=betas[0], b2=betas[1], eps=epsilon, weight_decay=weight_decay)
    if max_grad_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


def mask_rows(inner: optax.GradientTransformation, trainable: np.ndarray) -> optax.GradientTransformation:
    """Lets `inner` see and move only the added rows that learn.

    The rows are cut in two leaves, learned and loaded, and `optax.masked` keeps the second from the
    optimizer: no gradient of theirs is clipped with, no moment kept, no decay applied.

    Args:
      inner: any optax transformation.
      trainable: `[added_tokens]` bool.

    Returns:
      A transformation over rows `[added_tokens, width]`; loaded rows get updates of exactly 0.
    """
    places = {"learned": np.flatnonzero(trainable), "loaded": np.flatnonzero(~np.asarray(trainable))}
    # A part without rows is left out: an empty gather crashes the CPU compiler of jaxlib 0.11.
    places = {part: rows for part, rows in places.items() if rows.size}
    masked = optax.chain(
        optax.masked(inner, {part: part == "learned" for part in places}),
        optax.masked(optax.set_to_zero(), {part: part == "loaded" for part in places}),
    )

    def cut(rows: jax.Array) -> dict[str, jax.Array]:
        return {part: rows[indices] for part, indices in places.items()}

    def init(params: Any) -> optax.OptState:
        return masked.init(cut(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        parts: Any
        parts, state = masked.update(cut(updates), state, None if params is None else cut(params))
        moved = jnp.zeros_like(updates)
        for part, indices in places.items():
            moved = moved.at[indices].set(parts[part])
        return moved, state

    return optax.GradientTransformation(init, update)


def move_rows(rows: jax.Array, updates: jax.Array, trainable: np.ndarray) -> jax.Array:
    """Adds updates to the rows that learn; the others keep their bits (`-0.0 + 0.0` would not)."""
    return jnp.where(jnp.asarray(trainable)[:, None], rows + updates, rows)
