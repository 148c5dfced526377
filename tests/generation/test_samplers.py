import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.errors import ConfigError
from ti_flax.generation.samplers import ddim, dpmsolver_multistep, euler, sampling_steps
from ti_flax.models.noise_schedule import NoiseSchedule

# The scheduler configuration of Stable Diffusion 1.5, as far as samplers read it.
SD15 = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}
# With linspace, diffusers' DDIM steps down by total / steps, past its own timesteps; ours goes from one
# to the next, so there is nothing to agree with.
COMBINATIONS = [("ddim", None), ("ddim", "leading"), ("ddim", "trailing")] + [
    (sampler, spacing)
    for sampler in ("dpmsolver++", "euler")
    for spacing in (None, "leading", "trailing", "linspace")
]
WALKS = {"ddim": ddim, "dpmsolver++": dpmsolver_multistep, "euler": euler}


def reference_scheduler(sampler, config):
    """diffusers' scheduler of a sampler."""
    import diffusers

    names = {"ddim": "DDIM", "dpmsolver++": "DPMSolverMultistep", "euler": "EulerDiscrete"}
    return getattr(diffusers, f"{names[sampler]}Scheduler").from_config(config)


def walk_of(reference, noise):
    """Where diffusers' scheduler ends with the toy's answers, in units without its own scale."""
    import torch

    x = torch.tensor(noise) * reference.init_noise_sigma
    for timestep in reference.timesteps:
        given = reference.scale_model_input(x, timestep)
        x = reference.step(
            torch.tensor(toy_answer(given.numpy(), np.float32(timestep))), timestep, x
        ).prev_sample
    return x.numpy()


def toy_answer(x, timestep):
    """Stands for a UNet: smooth, bounded, and different at every timestep."""
    return np.float32(0.8) * np.tanh(x) + np.float32(0.001) * timestep * np.cos(x)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' scheduler
@pytest.mark.parametrize("steps", [1, 2, 10, 25, 50])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler, spacing", COMBINATIONS)
def test_agrees_with_diffusers(sampler, prediction_type, spacing, steps):
    pytest.importorskip("torch")
    config = SD15 | {"prediction_type": prediction_type} | ({"timestep_spacing": spacing} if spacing else {})
    reference = reference_scheduler(sampler, config)
    reference.set_timesteps(steps)
    noise = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    x = walk_of(reference, noise)
    schedule = NoiseSchedule.from_config(config)
    spaced = sampling_steps(schedule, config, steps=steps, sampler=sampler)
    assert spaced.timesteps.tolist() == reference.timesteps.tolist()
    ours = WALKS[sampler](
        lambda x, t: 0.8 * jnp.tanh(x) + 0.001 * t * jnp.cos(x), jnp.asarray(noise), spaced, prediction_type
    )
    scale = np.abs(x).max()
    np.testing.assert_allclose(ours / scale, x / scale, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' scheduler
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
@pytest.mark.parametrize("sampler", WALKS)
def test_a_last_timestep_of_pure_noise(sampler, steps):
    """Zero terminal SNR: alphas_cumprod ends at 0 exactly, and nothing is divided by it."""
    pytest.importorskip("torch")
    config = SD15 | {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    reference = reference_scheduler(sampler, config)
    reference.set_timesteps(steps)
    noise = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    x = walk_of(reference, noise)
    schedule = NoiseSchedule.from_config(config)
    spaced = sampling_steps(schedule, config, steps=steps, sampler=sampler)
    assert schedule.alphas_cumprod[-1] == 0 and spaced.timesteps[0] == 999
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = WALKS[sampler](
            lambda x, t: 0.8 * jnp.tanh(x) + 0.001 * t * jnp.cos(x),
            jnp.asarray(noise),
            spaced,
            "v_prediction",
        )
    assert np.isfinite(ours).all()
    scale = np.abs(x).max()
    # diffusers' other solvers put 2^-24 in the place of 0.
    np.testing.assert_allclose(ours / scale, x / scale, atol=1e-3)


@pytest.mark.parametrize(
    "changes", [{"sampler": "heun"}, {"steps": 0}, {"steps": 1001}, {"config": {"timestep_spacing": "odd"}}]
)
def test_wrong_requests_are_said(changes):
    arguments = {"steps": 10, "sampler": "ddim"} | changes
    config = SD15 | arguments.pop("config", {})
    with pytest.raises(ConfigError, match="expected"):
        sampling_steps(NoiseSchedule.from_config(SD15), config, **arguments)
