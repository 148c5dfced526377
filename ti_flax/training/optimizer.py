"""The optimizer over the added rows: chosen by name, after a clip, behind the mask of rows that learn.

Rows are a tree, `[added_tokens, width]` for each text encoder; a clip by norm is over all of them together.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ti_flax.config.options import DIRECTIONAL
from ti_flax.errors import ConfigError

Schedule = Callable[[Any], Any]

# optax's functions by the names that options give them, where these differ.
_NAMED = {"optimistic_adam": "optimistic_adam_v2"}
# Options under kohya's names, which are PyTorch's.
_THEIR_NAMES = {"betas": ("b1", "b2"), "d_coef": ("estim_lr_coef",), "d0": ("estim_lr0",)}
# What is not the user's to set here: the rate, what other options set, and what is no number.
_OWN = frozenset(
    {
        *("learning_rate", "adam_learning_rate", "warmup_steps"),
        *("mask", "weight_decay_mask", "trust_ratio_mask", "muon_weight_dimension_numbers"),
        *("mu_dtype", "state_dtype", "dtype_momentum", "accumulator_dtype"),
        *("clip_value_fn", "init_step", "ns_coeffs"),
    }
)
# Their estimate of the size of a step divides by the sum of what was moved so far, so the first rate of a
# warm-up cannot be 0.
_DIVIDES_BY_RATE = ("prodigy", "dadapt_adamw")
_SMALLEST_RATE = 1e-6


def make_optimizer(
    name: str,
    schedule: Schedule,
    *,
    arguments: Mapping[str, Any] | None = None,
    max_grad_norm: Any = None,
    clip_value: Any = None,
) -> optax.GradientTransformation:
    """An optimizer of optax, or `directional`, after an optional clip of the gradient.

    Args:
      name: an `optimizer` option, such as adamw (arXiv:1711.05101).
      schedule: learning rate by update index.
      arguments: the optimizer's own options under optax's names.
      max_grad_norm: `[]`, norm of all rows together that the gradient is clipped to.
      clip_value: `[]`, size that each of its numbers is clipped to.
    """
    if name in _DIVIDES_BY_RATE:
        chosen = schedule
        schedule = lambda step: jnp.maximum(chosen(step), _SMALLEST_RATE)  # noqa: E731
    optimizer = _function(name)(learning_rate=schedule, **(arguments or {}))
    if clip_value is not None:
        return optax.chain(optax.clip(clip_value), optimizer)
    if max_grad_norm is not None:
        return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)
    return optimizer


def directional(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Turns each row by the same angle whatever its gradient (arXiv:2512.13672, normalised Riemannian SGD).

    With v the direction of a row and m its norm, the row moves by -learning_rate x m x g / |g|, where g is
    the gradient without its part along v, which is the gradient on the sphere. A row whose g is 0 stays. The
    way back to the sphere, and the prior, are rules for the rows (`rescale_norms`, `less_prior`).

    Args:
      learning_rate: of v, the tangent of the angle that an update turns it by.
    """

    def step(gradient: jax.Array, row: jax.Array) -> jax.Array:
        norm = jnp.linalg.norm(row, axis=-1, keepdims=True)
        direction = row / jnp.where(norm == 0, 1, norm)
        along = jnp.sum(gradient * direction, axis=-1, keepdims=True)
        tangent = gradient - along * direction
        length = jnp.linalg.norm(tangent, axis=-1, keepdims=True)
        return norm * tangent / jnp.where(length == 0, 1, length)

    steps = optax.stateless(lambda gradient, rows: jax.tree.map(step, gradient, rows))
    return optax.chain(steps, optax.scale_by_learning_rate(learning_rate))


def _function(name: str) -> Callable[..., optax.GradientTransformation]:
    from optax import contrib

    if name == DIRECTIONAL:
        return directional
    name = _NAMED.get(name, name)
    return getattr(optax, name, None) or getattr(contrib, name)


def optimizer_arguments(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Reads `name=value` options of an optimizer and tries them on an array.

    Args:
      name: of the optimizer.
      given: texts such as `weight_decay=0.01`, `betas=0.9,0.99` or `nesterov=true`.

    Returns:
      The arguments of optax's function.

    Raises:
      ConfigError: there is no such option, or no such value.
    """
    defaults: dict[str, Any] = {
        option.name: option.default
        for option in inspect.signature(_function(name)).parameters.values()
        if option.name not in _OWN
    }
    arguments: dict[str, Any] = {}
    for text in given:
        for option, value in _read_argument(name, defaults, text):
            if option in arguments:
                raise ConfigError(f"optimizer_args {text!r}", expected=f"{option} to be given once")
            arguments[option] = value
    _try(name, arguments)
    return arguments


def _read_argument(name: str, defaults: Mapping[str, Any], text: str) -> list[tuple[str, Any]]:
    """Reads one `name=value`, which may be kohya's name for two of optax's options."""
    option, equals, value = (part.strip() for part in text.partition("="))
    where = f"optimizer_args {text!r}"
    if not equals:
        raise ConfigError(where, expected="NAME=VALUE", found="no equals sign")
    names = (option,) if option in defaults else _THEIR_NAMES.get(option, ())
    if not names or not set(names) <= set(defaults):
        known = ", ".join(defaults) or "it has none"
        raise ConfigError(where, expected=f"an option of {name}: {known}", found=option)
    values = value.strip("()[]").split(",") if len(names) > 1 else [value]
    if len(values) != len(names):
        raise ConfigError(where, expected=f"{len(names)} numbers", found=value)
    return [
        (each, _argument(part.strip(), defaults[each], where))
        for each, part in zip(names, values, strict=True)
    ]


def _argument(text: str, default: Any, where: str) -> Any:
    """A value of the default's type: true or false, text, a whole number, a number or several."""
    kind = type(default)
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int:
            return int(text)
        if kind is tuple:
            values = tuple(_finite(part) for part in text.strip("()[]").split(","))
            return {len(default): values}[len(values)]
        return None if default is None and text.lower() in ("none", "null") else _finite(text)
    except (ValueError, KeyError):
        expected = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
        expected = f"{len(default)} numbers with commas" if isinstance(default, tuple) else expected
        raise ConfigError(where, expected=expected, found=text or "nothing") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _try(name: str, arguments: Mapping[str, Any]) -> None:
    """Traces an update, so that what optax refuses is said before anything is loaded."""
    rows = jax.ShapeDtypeStruct((2, 4), jnp.float32)

    def moved(rows: jax.Array) -> Any:
        optimizer = make_optimizer(name, lambda step: 1.0, arguments=arguments)
        return optimizer.update(rows, optimizer.init(rows), rows)

    try:
        jax.eval_shape(moved, rows)
    except (ValueError, TypeError, ZeroDivisionError, AssertionError) as error:
        raise ConfigError(
            f"optimizer_args of {name}", expected="values that optax takes", found=str(error).splitlines()[0]
        ) from None


def average_rows(
    opt_state: Any, rows: Mapping[str, np.ndarray], trainable: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The rows that a schedule-free optimizer means to be used (arXiv:2405.15682, eq. 4), else the rows.

    Gradients are taken at y = (1 - b1) z + b1 x; the state holds z, and x is the average to use.

    Args:
      opt_state: of `mask_rows`, on the host.
      rows: `[added_tokens, width]` float32 by text encoder, y.
      trainable: `[added_tokens]` bool by text encoder.
    """
    from optax.contrib import ScheduleFreeState

    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ScheduleFreeState))
    states = [leaf for leaf in leaves if isinstance(leaf, ScheduleFreeState)]
    averaged = {encoder: np.array(each) for encoder, each in rows.items()}
    if not states:
        return averaged
    state: Any = states[0]
    weight = np.float32(state.b1)
    for encoder, z in state.z["learned"].items():
        learns = trainable[encoder]
        averaged[encoder][learns] = (averaged[encoder][learns] - (1 - weight) * np.asarray(z)) / weight
    return averaged


def mask_rows(
    inner: optax.GradientTransformation, trainable: Mapping[str, np.ndarray]
) -> optax.GradientTransformation:
    """Lets `inner` see and move only the added rows that learn.

    The rows of each text encoder are cut in two leaves, learned and loaded, and `optax.masked` keeps the
    second from the optimizer: no gradient of theirs is clipped with, no moment kept, no decay applied.

    Args:
      inner: any optax transformation.
      trainable: `[added_tokens]` bool by text encoder.

    Returns:
      A transformation over rows `[added_tokens, width]` by text encoder; loaded rows get updates of
      exactly 0.
    """
    places = {
        part: {
            encoder: np.flatnonzero(learns == (part == "learned")) for encoder, learns in trainable.items()
        }
        for part in ("learned", "loaded")
    }
    # A part without rows is left out: an empty gather crashes the CPU compiler of jaxlib 0.11.
    places = {
        part: {encoder: rows for encoder, rows in of_part.items() if rows.size}
        for part, of_part in places.items()
    }
    places = {part: of_part for part, of_part in places.items() if of_part}
    masked = optax.chain(
        optax.masked(inner, {part: part == "learned" for part in places}),
        optax.masked(optax.set_to_zero(), {part: part == "loaded" for part in places}),
    )

    def cut(rows: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
        return {
            part: {encoder: rows[encoder][indices] for encoder, indices in of_part.items()}
            for part, of_part in places.items()
        }

    def init(params: Any) -> optax.OptState:
        return masked.init(cut(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        parts: Any
        parts, state = masked.update(cut(updates), state, None if params is None else cut(params))
        moved = jax.tree.map(jnp.zeros_like, updates)
        for part, of_part in places.items():
            for encoder, indices in of_part.items():
                moved[encoder] = moved[encoder].at[indices].set(parts[part][encoder])
        return moved, state

    return optax.GradientTransformation(init, update)


def apply_updates(
    rows: Mapping[str, jax.Array], updates: Mapping[str, jax.Array], trainable: Mapping[str, np.ndarray]
) -> dict[str, jax.Array]:
    """Adds updates to the rows that learn; the others keep their bits (`-0.0 + 0.0` would not)."""
    return {
        encoder: jnp.where(jnp.asarray(trainable[encoder])[:, None], each + updates[encoder], each)
        for encoder, each in rows.items()
    }
