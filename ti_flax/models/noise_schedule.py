"""Noise schedule and training targets of a latent diffusion model (arXiv:2006.11239, arXiv:2202.00512)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.errors import WeightsError
from ti_flax.models import config_fields as fields

PREDICTION_TYPES = ("epsilon", "v_prediction")
_MOST_TIMESTEPS = 100_000
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_PLACEMENT = {
    "steps_offset": fields.count,
    "timestep_spacing": fields.one_of("leading", "trailing", "linspace"),
}


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The forward process q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) (arXiv:2006.11239, eq. 4).

    Attributes:
      alphas_cumprod: abar_t, `[timesteps]` float32, falling from nearly 1.
      prediction_type: what the UNet predicts, `epsilon` or `v_prediction`.
    """

    alphas_cumprod: np.ndarray
    prediction_type: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str = "scheduler_config.json") -> NoiseSchedule:
        """Reads the schedule out of any diffusers scheduler's configuration.

        Raises:
          WeightsError: a beta schedule, spacing or prediction type that no Stable Diffusion uses.
        """
        config = fields.given(config)
        # For the samplers; what is wrong with it is said here, before any training.
        placed = {name: config[name] for name in _PLACEMENT if name in config}
        fields.supported_fields(placed, where, read=_PLACEMENT, fixed={}, informational=())
        prediction_type = config.get("prediction_type", "epsilon")
        if prediction_type not in PREDICTION_TYPES:
            raise WeightsError(
                f"{where}: prediction_type",
                expected=" or ".join(PREDICTION_TYPES),
                found=repr(prediction_type),
                remedy="Use a Stable Diffusion 1.x, 2.x or XL model.",
            )
        betas = _checked_betas(config, where)
        if config.get("rescale_betas_zero_snr"):
            betas = _zero_terminal_snr(betas)
        return cls(np.cumprod(1.0 - betas).astype(np.float32), prediction_type)

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def add_noise(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise; shapes `[batch, height, width, channels]`."""
        signal, sigma = self._coefficients(timesteps, latents.ndim)
        return signal * latents + sigma * noise

    def target(self, latents: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """What the UNet should answer: the noise, or v = sqrt(abar) noise - sqrt(1 - abar) x_0.

        (arXiv:2202.00512, appendix D.)
        """
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self._coefficients(timesteps, latents.ndim)
        return signal * noise - sigma * latents

    def _coefficients(self, timesteps: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
        abar = jnp.asarray(self.alphas_cumprod)[timesteps].reshape((-1,) + (1,) * (rank - 1))
        return jnp.sqrt(abar), jnp.sqrt(1.0 - abar)


def _checked_betas(config: Mapping[str, Any], where: str) -> np.ndarray:
    """The variances of a configuration, all of them in [0, 1)."""
    betas, reason = np.empty(0), "numbers that are no noise schedule"
    try:
        with np.errstate(all="ignore"):
            betas = _betas(config, where)
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error)
    if betas.ndim != 1 or not betas.size or not ((betas >= 0) & (betas < 1)).all():
        raise WeightsError(
            where,
            expected="beta_start and beta_end, or trained_betas, from 0 to 1, and up to "
            f"{_MOST_TIMESTEPS} num_train_timesteps",
            found=reason,
            remedy="Take the scheduler's config from the model's own repository.",
        )
    return betas


def _betas(config: Mapping[str, Any], where: str) -> np.ndarray:
    """The variances beta_t of a scheduler configuration, `[timesteps]` float64."""
    if "trained_betas" in config:
        return np.asarray(config["trained_betas"], np.float64)
    schedule = config.get("beta_schedule", "linear")
    steps = int(config.get("num_train_timesteps", 1000))
    if not 1 <= steps <= _MOST_TIMESTEPS:
        raise ValueError(f"num_train_timesteps {steps}")
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if schedule == "linear":
        return np.linspace(start, end, steps)
    if schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2
    if schedule == "squaredcos_cap_v2":
        return _cosine_betas(steps)
    raise WeightsError(
        f"{where}: beta_schedule",
        expected=" or ".join(BETA_SCHEDULES),
        found=repr(schedule),
        remedy="Use a Stable Diffusion 1.x, 2.x or XL model.",
    )


def _cosine_betas(steps: int) -> np.ndarray:
    """beta_t = min(1 - abar(t + 1) / abar(t), 0.999) (arXiv:2102.09672, eq. 17)."""
    edges = np.arange(steps + 1) / steps
    abar = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - abar[1:] / abar[:-1], 0.999)


def _zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shifts and scales sqrt(abar) so that the last step is pure noise (arXiv:2305.08891, alg. 1)."""
    root = np.sqrt(np.cumprod(1.0 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root**2
    alphas = np.concatenate([abar[:1], abar[1:] / abar[:-1]])
    return 1.0 - alphas
