"""Samplers: DDIM, DPM-Solver++(2M) and Euler, pure mathematics over a denoiser.

All start from noise at the last of their timesteps and walk to x_0; a denoiser maps noisy latents
and one timestep to the UNet's answer. Timesteps are spaced as Stable Diffusion's own schedulers do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.errors import ConfigError
from ti_flax.models.config_fields import given
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.prompt_encoding import PromptEncoding
from ti_flax.models.stable_diffusion import FlaxStableDiffusion

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
SAMPLERS = ("ddim", "dpmsolver++", "euler")
# What diffusers' EulerDiscreteScheduler puts in the place of abar = 0, where its noise level were infinite.
_LEAST_ABAR = 2.0**-24


@dataclass(frozen=True, eq=False)
class Steps:
    """The coefficients of a sampler's steps; each is one entry of a scan.

    Attributes:
      timesteps: `[steps]`, falling; int32, or float32 where they lie between the schedule's.
      alpha: sqrt(abar) at each timestep and after the last step, `[steps + 1]` float32.
      sigma: sqrt(1 - abar), likewise.
      start: what standard normal noise is multiplied by to begin with.
    """

    timesteps: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    start: float = 1.0


def sampling_steps(
    schedule: NoiseSchedule, scheduler_config: Mapping[str, Any], *, steps: int, sampler: str
) -> Steps:
    """Places `steps` timesteps over the schedule, spaced as the model's scheduler configuration says.

    Raises:
      ConfigError: an unknown sampler, or a number of steps the schedule has no room for.
    """
    if sampler not in SAMPLERS:
        raise ConfigError("sampler", expected=" or ".join(SAMPLERS), found=repr(sampler))
    total = schedule.num_train_timesteps
    if not 1 <= steps <= total:
        raise ConfigError("num_inference_steps", expected=f"1 to {total}", found=str(steps))
    scheduler_config = given(scheduler_config)
    if sampler == "euler":
        return _euler_steps(schedule, scheduler_config, steps)
    spacing = scheduler_config.get("timestep_spacing", "leading" if sampler == "ddim" else "linspace")
    timesteps = _timesteps(
        spacing, total, steps, offset=int(scheduler_config.get("steps_offset", 0)), sampler=sampler
    )
    abar = schedule.alphas_cumprod.astype(np.float64)
    last = 1.0
    if sampler == "ddim" and not scheduler_config.get("set_alpha_to_one", True):
        last = abar[0]  # Stable Diffusion's DDIM ends at the first timestep's level, not at x_0 itself.
    path = np.append(abar[timesteps], last)
    return Steps(
        timesteps.astype(np.int32), np.sqrt(path).astype(np.float32), np.sqrt(1.0 - path).astype(np.float32)
    )


def _timesteps(spacing: str, total: int, steps: int, *, offset: int, sampler: str) -> np.ndarray:
    """Falling timesteps by diffusers' three spacings (arXiv:2305.08891, table 2)."""
    if spacing == "leading":
        # The multistep solver counts its end point as one of the spaced points, DDIM does not.
        points = steps if sampler == "ddim" else steps + 1
        places = np.arange(points)[::-1] * (total // points)
        places = (places if sampler == "ddim" else places[:-1]) + offset
    elif spacing == "trailing":
        places = np.arange(total, 0, -total / steps).round() - 1
    elif spacing == "linspace":
        places = np.linspace(0, total - 1, steps if sampler == "ddim" else steps + 1).round()[::-1]
        places = places if sampler == "ddim" else places[:-1]
    else:
        raise ConfigError("timestep_spacing", expected="leading, trailing or linspace", found=repr(spacing))
    return np.clip(places, 0, total - 1).astype(np.int64)


def _euler_steps(schedule: NoiseSchedule, config: Mapping[str, Any], steps: int) -> Steps:
    """As diffusers' EulerDiscreteScheduler: `linspace` puts timesteps between those of the schedule."""
    total, spacing = schedule.num_train_timesteps, config.get("timestep_spacing", "linspace")
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, steps)[::-1]
    else:
        offset = int(config.get("steps_offset", 0))
        timesteps = _timesteps(spacing, total, steps, offset=offset, sampler="ddim").astype(np.int32)
    abar = np.maximum(schedule.alphas_cumprod.astype(np.float64), _LEAST_ABAR)
    levels = np.append(np.interp(timesteps, np.arange(total), np.sqrt((1.0 - abar) / abar)), 0.0)
    alpha = 1.0 / np.sqrt(levels**2 + 1.0)
    # Leading timesteps begin with noise of variance one; others with none of the image in it.
    start = 1.0 if spacing == "leading" else float(levels[0] * alpha[0])
    if spacing == "linspace":
        timesteps = timesteps.astype(np.float32)
    return Steps(timesteps, alpha.astype(np.float32), (levels * alpha).astype(np.float32), start)


def euler(denoise: Denoiser, noise: jax.Array, steps: Steps, prediction_type: str) -> jax.Array:
    """Euler's method without churn (arXiv:2206.00364, alg. 1 with S_churn = 0).

    The paper's x is ours divided by alpha, and its noise level is sigma / alpha. Its step adds the difference
    of two levels times the noise: in our x that is DDIM's step (arXiv:2010.02502, section 4.3).

    Arguments and result are those of `ddim`.
    """
    return ddim(denoise, steps.start * noise, steps, prediction_type)


def ddim(denoise: Denoiser, noise: jax.Array, steps: Steps, prediction_type: str) -> jax.Array:
    """Deterministic DDIM (arXiv:2010.02502, eq. 12 with sigma = 0).

    Args:
      denoise: the denoiser.
      noise: `[batch, height, width, channels]` standard normal.
      steps: from `sampling_steps` for this sampler.
      prediction_type: what the denoiser answers.

    Returns:
      Latents, shaped like `noise`.
    """

    def step(x, entry):
        timestep, alpha, sigma, next_alpha, next_sigma = entry
        x_0, eps = _split(denoise(x, timestep), x, alpha, sigma, prediction_type)
        return next_alpha * x_0 + next_sigma * eps, None

    entries = (steps.timesteps, steps.alpha[:-1], steps.sigma[:-1], steps.alpha[1:], steps.sigma[1:])
    return jax.lax.scan(step, noise, jax.tree.map(jnp.asarray, entries))[0]


def dpmsolver_multistep(denoise: Denoiser, noise: jax.Array, steps: Steps, prediction_type: str) -> jax.Array:
    """DPM-Solver++(2M) (arXiv:2211.01095, alg. 2); the first and the last step are of order 1.

    Arguments and result are those of `ddim`.
    """
    alpha, sigma = steps.alpha.astype(np.float64), steps.sigma.astype(np.float64)
    with np.errstate(divide="ignore"):
        log_snr = np.log(alpha) - np.log(sigma)  # lambda of the paper; infinite at x_0
    width = np.diff(log_snr)  # h of the paper
    count = len(steps.timesteps)
    second_order = np.arange(count) > 0
    # The step to x_0 has infinite width: there only the first-order formula has a limit, x = D.
    second_order[-1] = False
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.concatenate([[1.0], width[1:] / width[:-1]])
        weight = np.where(second_order, ratio / 2.0, 0.0)  # 1 / (2 r) with r = h_{i-1} / h_i
    shrink = sigma[1:] / sigma[:-1]
    pull = -alpha[1:] * np.expm1(-width)

    def step(carry, entry):
        x, previous = carry
        timestep, alpha, sigma, shrink, pull, weight = entry
        x_0, _ = _split(denoise(x, timestep), x, alpha, sigma, prediction_type)
        blended = x_0 + weight * (x_0 - previous)
        return (shrink * x + pull * blended, x_0), None

    entries = (steps.timesteps, steps.alpha[:-1], steps.sigma[:-1])
    entries += tuple(np.asarray(a, np.float32) for a in (shrink, pull, weight))
    start = (noise, jnp.zeros_like(noise))
    return jax.lax.scan(step, start, jax.tree.map(jnp.asarray, entries))[0][0]


def _split(
    answer: jax.Array, x: jax.Array, alpha, sigma, prediction_type: str
) -> tuple[jax.Array, jax.Array]:
    """Turns the UNet's answer into its estimate of x_0 and of the noise (arXiv:2202.00512, appendix D)."""
    answer = answer.astype(jnp.float32)
    if prediction_type == "v_prediction":
        return alpha * x - sigma * answer, sigma * x + alpha * answer
    return (x - sigma * answer) / alpha, answer


def _same_tokens(*encodings: PromptEncoding) -> list[PromptEncoding]:
    """Repeats hidden states until all are equally many, which changes nothing in what attends to them."""
    most = math.lcm(*(each.hidden_states.shape[1] for each in encodings))
    return [
        each
        if each.hidden_states.shape[1] == most
        else each._replace(
            hidden_states=jnp.tile(each.hidden_states, (1, most // each.hidden_states.shape[1], 1))
        )
        for each in encodings
    ]


def sample_images(
    model: FlaxStableDiffusion,
    params: Mapping[str, Any],
    *,
    prompt: PromptEncoding,
    negative_prompt: PromptEncoding,
    noise: jax.Array,
    steps: Steps,
    sampler: str,
    schedule: NoiseSchedule,
    guidance_scale: jax.Array | float = 7.5,
) -> jax.Array:
    """Images from prompt encodings, with classifier-free guidance (arXiv:2207.12598, eq. 6).

    Args:
      model: the modules.
      params: parameter trees `unet` and `vae`.
      prompt: what the text encoders make of it.
      negative_prompt: likewise, what to move away from; it may have another number of chunks.
      noise: `[batch, height, width, channels]` standard normal, float32.
      steps: from `sampling_steps`.
      sampler: one of `SAMPLERS`.
      schedule: the model's noise schedule.
      guidance_scale: 1 is no guidance.

    Returns:
      `[batch, height x downsampling, width x downsampling, 3]` float32 in [0, 1].
    """
    pair = _same_tokens(negative_prompt, prompt)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), *pair)
    conditioning = tuple(both) if model.is_sdxl else (both.hidden_states,)
    if model.is_sdxl:
        height, width = (side * model.vae.config.downsampling for side in noise.shape[1:3])
        sizes = jnp.asarray([height, width, 0, 0, height, width], jnp.float32)
        conditioning += (jnp.broadcast_to(sizes, (2 * len(noise), len(sizes))),)

    def denoise(x: jax.Array, timestep: jax.Array) -> jax.Array:
        twice = jnp.concatenate([x, x])
        timesteps = jnp.full(twice.shape[0], timestep)
        answer = model.unet.apply({"params": params["unet"]}, twice, timesteps, *conditioning)
        unguided, guided = jnp.split(jnp.asarray(answer).astype(jnp.float32), 2)
        return unguided + guidance_scale * (guided - unguided)

    sample = {"ddim": ddim, "dpmsolver++": dpmsolver_multistep, "euler": euler}[sampler]
    latents = sample(denoise, noise, steps, schedule.prediction_type)
    latents = latents / model.vae.config.scaling_factor
    images = model.vae.apply({"params": params["vae"]}, latents, method=model.vae.decode)
    return jnp.clip(jnp.asarray(images).astype(jnp.float32) / 2 + 0.5, 0.0, 1.0)
