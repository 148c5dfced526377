"""What the error of a sample counts: how it is measured, and the weight of its timestep."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.config.options import LossOptions
from ti_flax.errors import ConfigError
from ti_flax.models.noise_schedule import NoiseSchedule

# Signal-to-noise ratios above it count as this, except with snr_gamma; the bound that kohya's trainer has.
LARGEST_SNR = 1000.0


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("huber_c", "weights", "prior_loss_weight"),
    meta_fields=("loss_type",),
)
@dataclass(frozen=True, eq=False, kw_only=True)
class Objective:
    """From what the UNet predicts to the error that is minimised: a tree whose leaves are numbers.

    Attributes:
      loss_type: measure of a difference d: `l2` d^2, `l1` |d|, and with c from `huber_c` `huber`
        2c (sqrt(d^2 + c^2) - c) and `smooth_l1` 2 (sqrt(d^2 + c^2) - c) (arXiv:2403.16728; the factors are
        those of kohya's trainer).
      huber_c: `[timesteps]` float32, c of each timestep; None unless the measure has one.
      weights: `[timesteps]` float32, what the errors of a timestep count; None if all count the same.
      prior_loss_weight: `[]`, what the mean error of the class images counts.
    """

    loss_type: str = "l2"
    huber_c: np.ndarray | jax.Array | None = None
    weights: np.ndarray | jax.Array | None = None
    prior_loss_weight: float | jax.Array = 1.0

    @classmethod
    def from_options(cls, options: LossOptions, schedule: NoiseSchedule) -> Objective:
        """The objective of a run.

        Raises:
          ConfigError: an option does not fit what the model predicts, or its noise schedule.
        """
        prior = options.prior_loss_weight
        return cls(
            loss_type=options.loss_type,
            huber_c=huber_thresholds(options, schedule),
            weights=timestep_weights(options, schedule),
            prior_loss_weight=1.0 if prior is None else prior,
        )

    def error(self, predicted: jax.Array, target: jax.Array, timesteps: jax.Array) -> jax.Array:
        """The weighted error of every value, float32.

        Args:
          predicted, target: `[batch, height, width, channels]`.
          timesteps: `[batch]` int32.
        """
        error = self._measure(jnp.asarray(predicted, jnp.float32) - target, timesteps)
        return error if self.weights is None else error * _each(self.weights, timesteps)

    def _measure(self, difference: jax.Array, timesteps: jax.Array) -> jax.Array:
        if self.loss_type == "l1":
            return jnp.abs(difference)
        squared = jnp.square(difference)
        if self.huber_c is None:
            return squared
        c = _each(self.huber_c, timesteps)
        # sqrt(d^2 + c^2) - c without its cancellation near d = 0.
        distance = 2.0 * squared / (jnp.sqrt(squared + jnp.square(c)) + c)
        return distance * c if self.loss_type == "huber" else distance


def huber_thresholds(options: LossOptions, schedule: NoiseSchedule) -> np.ndarray | None:
    """c_t, where the measures `huber` and `smooth_l1` turn from quadratic to linear, `[timesteps]` float32.

    `constant` is c everywhere; `exponential` is c^(t / T); `snr` is (1 - c) / (1 + sigma_t)^2 + c with
    sigma_t = sqrt((1 - abar_t) / abar_t). The last two fall from 1 to c as the noise grows
    (arXiv:2403.16728, as kohya's trainer has it).
    """
    if options.loss_type not in ("huber", "smooth_l1"):
        return None
    c = 0.1 if options.huber_c is None else options.huber_c
    count = schedule.num_train_timesteps
    if options.huber_schedule == "constant":
        return np.full(count, c, np.float32)
    if options.huber_schedule == "exponential":
        return (c ** (np.arange(count) / count)).astype(np.float32)
    abar = schedule.alphas_cumprod.astype(np.float64)
    # 1 / (1 + sigma), in a form that pure noise (abar = 0) does not divide by zero.
    share = np.sqrt(abar) / (np.sqrt(abar) + np.sqrt(1.0 - abar))
    return ((1.0 - c) * share**2 + c).astype(np.float32)


def timestep_weights(options: LossOptions, schedule: NoiseSchedule) -> np.ndarray | None:
    """What the errors of each timestep count, `[timesteps]` float32, or None: all the same.

    With snr = abar / (1 - abar) and s = min(snr, 1000), the product of what is asked for:

    * `snr_gamma`: min(snr, gamma) / snr for epsilon, min(snr, gamma) / (snr + 1) for v (arXiv:2303.09556).
      Pure noise counts 1 and 0, the limits.
    * `debiased_estimation_loss`: 1 / sqrt(s) for epsilon (arXiv:2310.08442), 1 / (s + 1) for v.
    * `scale_v_pred_loss_like_noise_pred`: s / (s + 1), for v: the error of the noise that a v implies.
    * `v_pred_like_loss`: 1 + weight * (s + 1) / s, for epsilon: the error of the v that a noise implies.

    Raises:
      ConfigError: an option is for the other prediction type, or weighs pure noise infinitely.
    """
    _check_prediction_type(options, schedule)
    velocity = schedule.prediction_type == "v_prediction"
    abar = schedule.alphas_cumprod.astype(np.float64)
    with np.errstate(divide="ignore"):
        snr = abar / (1.0 - abar)
        bounded = np.minimum(snr, LARGEST_SNR)
        factors: dict[str, np.ndarray] = {}
        if options.snr_gamma is not None:
            gamma = options.snr_gamma
            for_v, for_epsilon = np.minimum(abar, gamma * (1.0 - abar)), np.minimum(1.0, gamma / snr)
            factors["snr_gamma"] = for_v if velocity else for_epsilon
        if options.debiased_estimation_loss:
            inverse = 1.0 / (bounded + 1.0) if velocity else 1.0 / np.sqrt(bounded)
            factors["debiased_estimation_loss"] = inverse
        if options.scale_v_pred_loss_like_noise_pred:
            factors["scale_v_pred_loss_like_noise_pred"] = bounded / (bounded + 1.0)
        if options.v_pred_like_loss is not None:
            added = options.v_pred_like_loss * (bounded + 1.0) / bounded
            factors["v_pred_like_loss"] = 1.0 + added
    trained = slice(options.min_timestep, options.max_timestep)
    for name, factor in factors.items():
        if not np.isfinite(factor[trained]).all():
            raise ConfigError(
                name,
                expected="a noise schedule that leaves some of the image at every timestep",
                found="one that ends in pure noise, which would count infinitely",
                remedy=f"Set max_timestep to {int(np.argmin(abar))}, or leave {name} out.",
            )
    return np.prod(list(factors.values()), axis=0).astype(np.float32) if factors else None


def _check_prediction_type(options: LossOptions, schedule: NoiseSchedule) -> None:
    for name, given, needed in (
        ("scale_v_pred_loss_like_noise_pred", options.scale_v_pred_loss_like_noise_pred, "v_prediction"),
        ("v_pred_like_loss", options.v_pred_like_loss is not None, "epsilon"),
    ):
        if given and schedule.prediction_type != needed:
            raise ConfigError(
                name,
                expected=f"a model with prediction_type {needed}",
                found=f"prediction_type {schedule.prediction_type}",
                remedy=f"Leave {name} out.",
            )


def _each(table: np.ndarray | jax.Array, timesteps: jax.Array) -> jax.Array:
    return jnp.asarray(table)[timesteps][:, None, None, None]
