"""The learning rate of every update."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.config.constraints import POLYNOMIAL_LR_END
from ti_flax.config.stepped_values import parse_steps

Schedule = Callable[[Any], jax.Array]
_LAST_STEP = 2**31 - 1
# Updates whose learning rates are computed at once.
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the learning rate changes over a run.

    Attributes:
      name: of the kind, an lr_scheduler.
      total_steps: updates of the whole run; the falling kinds end there.
      warmup_steps: updates over which the rate rises linearly from 0; two constant kinds have none.
      num_cycles: hard restarts of cosine_with_restarts.
      power: of polynomial.
      step_rules: factors of piecewise_constant and their last steps.
      timescale: updates before inverse_sqrt falls; None is warmup_steps, or 10,000 without.
      min_ratio: share of the peak that cosine_with_min_lr, warmup_stable_decay and rex end at.
      decay_steps: updates of warmup_stable_decay's fall; None is a tenth of the run.
    """

    name: str
    total_steps: int
    warmup_steps: int = 0
    num_cycles: int = 1
    power: float = 1.0
    step_rules: str | None = None
    timescale: int | None = None
    min_ratio: float = 0.0
    decay_steps: int | None = None


def learning_rate_schedule(shape: Shape, *, peak: float) -> Schedule:
    """Learning rate by update index, with the values of diffusers' and transformers' `get_scheduler`.

    `rex` is arXiv:2107.04197, section 3.

    Args:
      shape: how it changes.
      peak: the learning rate after warm-up.

    Returns:
      A function from the update index (`[]` int32, 0 for the first) to a `[]` float32.
    """
    if shape.name == "constant":
        return lambda step: jnp.full(jnp.shape(step), peak, jnp.float32)
    if shape.name == "piecewise_constant":
        return stepped_schedule(shape.step_rules or "1", factor=peak)
    decay = _decay(shape, peak)

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = step / max(1, shape.warmup_steps)
        progress = (step - shape.warmup_steps) / max(1, shape.total_steps - shape.warmup_steps)
        progress = jnp.clip(progress, 0.0, 1.0)
        return peak * jnp.where(step < shape.warmup_steps, warmup, decay(progress, step))

    return schedule


def rate_of_step(schedule: Schedule, total: int) -> Callable[[int], float]:
    """The learning rate of one update, by its index from 0; computed for a block of updates at a time.

    Args:
      schedule: the learning rate.
      total: updates of the run.
    """
    size = min(_BLOCK, total)

    @functools.lru_cache(maxsize=2)
    def block(number: int) -> np.ndarray:
        first = number * size  # where the run ends within the block, its last update is repeated
        return np.asarray(schedule(np.minimum(np.arange(first, first + size), total - 1)))

    return lambda index: float(block(index // size)[index % size])


def rates_after(schedule: Schedule, count: int) -> Callable[[int], np.ndarray]:
    """From a number of updates made to the learning rates of the next ones, `[count]` float32.

    Args:
      schedule: the learning rate.
      count: how many.
    """

    def rates(step: int) -> np.ndarray:
        indices = np.minimum(np.arange(step, step + count), _LAST_STEP).astype(np.int32)
        return np.asarray(schedule(indices), np.float32)

    return rates


def _decay(shape: Shape, peak: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The factor on the peak after warm-up, by progress from 0 to 1 and by step."""
    cycles, low = shape.num_cycles, shape.min_ratio
    timescale = shape.timescale or shape.warmup_steps or 10_000
    falls = shape.decay_steps or max(1, shape.total_steps // 10)
    first = shape.total_steps - falls
    return {
        "constant_with_warmup": lambda progress, step: jnp.ones_like(progress),
        "linear": lambda progress, step: 1.0 - progress,
        "cosine": lambda progress, step: _half_cosine(progress),
        "cosine_with_restarts": lambda progress, step: jnp.where(
            progress >= 1.0, 0.0, _half_cosine((cycles * progress) % 1.0)
        ),
        "polynomial": lambda progress, step: (
            _power(1.0 - progress, shape.power) * (1.0 - POLYNOMIAL_LR_END / peak) + POLYNOMIAL_LR_END / peak
        ),
        "inverse_sqrt": lambda progress, step: jax.lax.rsqrt(
            jnp.maximum(step - shape.warmup_steps + timescale, 1.0) / timescale
        ),
        "cosine_with_min_lr": lambda progress, step: low + (1.0 - low) * _half_cosine(progress),
        "warmup_stable_decay": lambda progress, step: (
            low + (1.0 - low) * _half_cosine(jnp.clip((step - first) / falls, 0.0, 1.0))
        ),
        "rex": lambda progress, step: low + (1.0 - low) * (1.0 - progress) / (1.0 - 0.5 * progress),
    }[shape.name]


def _half_cosine(progress: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jnp.cos(math.pi * progress))


def _power(base: jax.Array, power: float) -> jax.Array:
    return base if power == 1 else base**power


def stepped_schedule(text: str, *, factor: float = 1.0) -> Schedule:
    """Learning rate that is constant in stretches.

    Args:
      text: "0.05:50, 0.01:100, 0.005": 0.05 for the first 50 updates, 0.01 up to the 100th, then 0.005.
      factor: multiplies every number.
    """
    pairs = parse_steps(text)
    if len(pairs) == 1:
        return lambda step: jnp.full(jnp.shape(step), pairs[0][0] * factor, jnp.float32)
    rates = np.asarray([rate * factor for rate, _ in pairs], np.float32)
    lasts = np.asarray([_LAST_STEP if last is None else last for _, last in pairs[:-1]], np.int32)

    def schedule(step: Any) -> jax.Array:
        place = jnp.searchsorted(jnp.asarray(lasts), jnp.asarray(step, jnp.int32), side="right")
        return jnp.asarray(rates)[place]

    return schedule
