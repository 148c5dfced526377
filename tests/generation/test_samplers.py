import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.errors import ConfigError
from ti_flax.generation.samplers import ddim, dpmsolver_multistep, sampling_steps
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
    ("dpmsolver++", spacing) for spacing in (None, "leading", "trailing", "linspace")
]


def toy_answer(x, timestep):
    """Stands for a UNet: smooth, bounded, and different at every timestep."""
    return np.float32(0.8) * np.tanh(x) + np.float32(0.001) * timestep * np.cos(x)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' scheduler
@pytest.mark.parametrize("steps", [1, 2, 10, 25, 50])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler, spacing", COMBINATIONS)
def test_agrees_with_diffusers(sampler, prediction_type, spacing, steps):
    torch = pytest.importorskip("torch")
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    config = SD15 | {"prediction_type": prediction_type} | ({"timestep_spacing": spacing} if spacing else {})
    kind = DDIMScheduler if sampler == "ddim" else DPMSolverMultistepScheduler
    reference = kind.from_config(config)
    reference.set_timesteps(steps)
    noise = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    x = torch.tensor(noise)
    for timestep in reference.timesteps:
        answer = torch.tensor(toy_answer(x.numpy(), np.float32(timestep)))
        x = reference.step(answer, timestep, x).prev_sample
    schedule = NoiseSchedule.from_config(config)
    spaced = sampling_steps(schedule, config, steps=steps, sampler=sampler)
    assert spaced.timesteps.tolist() == reference.timesteps.tolist()
    walk = ddim if sampler == "ddim" else dpmsolver_multistep
    ours = walk(
        lambda x, t: 0.8 * jnp.tanh(x) + 0.001 * t * jnp.cos(x), jnp.asarray(noise), spaced, prediction_type
    )
    scale = np.abs(x.numpy()).max()
    np.testing.assert_allclose(ours / scale, x.numpy() / scale, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' scheduler
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_a_last_timestep_of_pure_noise(sampler, steps):
    """Zero terminal SNR: alphas_cumprod ends at 0 exactly, and nothing is divided by it."""
    torch = pytest.importorskip("torch")
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    config = SD15 | {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    kind = DDIMScheduler if sampler == "ddim" else DPMSolverMultistepScheduler
    reference = kind.from_config(config)
    reference.set_timesteps(steps)
    noise = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    x = torch.tensor(noise)
    for timestep in reference.timesteps:
        x = reference.step(torch.tensor(toy_answer(x.numpy(), np.float32(timestep))), timestep, x).prev_sample
    schedule = NoiseSchedule.from_config(config)
    spaced = sampling_steps(schedule, config, steps=steps, sampler=sampler)
    assert schedule.alphas_cumprod[-1] == 0 and spaced.timesteps[0] == 999
    walk = ddim if sampler == "ddim" else dpmsolver_multistep
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = walk(
            lambda x, t: 0.8 * jnp.tanh(x) + 0.001 * t * jnp.cos(x),
            jnp.asarray(noise),
            spaced,
            "v_prediction",
        )
    assert np.isfinite(ours).all()
    scale = np.abs(x.numpy()).max()
    # diffusers' solver puts 2^-24 in the place of 0.
    np.testing.assert_allclose(ours / scale, x.numpy() / scale, atol=1e-3)


@pytest.mark.parametrize(
    "changes", [{"sampler": "euler"}, {"steps": 0}, {"steps": 1001}, {"config": {"timestep_spacing": "odd"}}]
)
def test_wrong_requests_are_said(changes):
    arguments = {"steps": 10, "sampler": "ddim"} | changes
    config = SD15 | arguments.pop("config", {})
    with pytest.raises(ConfigError, match="expected"):
        sampling_steps(NoiseSchedule.from_config(SD15), config, **arguments)
