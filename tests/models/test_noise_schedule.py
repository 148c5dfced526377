import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.errors import WeightsError
from ti_flax.models.noise_schedule import NoiseSchedule

SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CONFIGS = {
    "scaled_linear": SCALED,
    "linear": {"beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": list(np.linspace(1e-4, 0.02, 50))},
    "zero_snr": SCALED | {"rescale_betas_zero_snr": True},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_diffusers(name):
    torch = pytest.importorskip("torch")
    from diffusers import DDPMScheduler

    config = CONFIGS[name]
    reference = DDPMScheduler(
        **{"num_train_timesteps": len(config.get("trained_betas", range(1000)))} | config
    )
    schedule = NoiseSchedule.from_config(config | {"prediction_type": "v_prediction"})
    np.testing.assert_allclose(schedule.alphas_cumprod, reference.alphas_cumprod.numpy(), atol=2e-6)
    rng = np.random.default_rng(0)
    latents, noise = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    timesteps = np.array([0, schedule.num_train_timesteps // 2, schedule.num_train_timesteps - 1])
    given = [torch.tensor(x) for x in (latents, noise, timesteps)]
    noisy = schedule.add_noise(jnp.asarray(latents), jnp.asarray(noise), jnp.asarray(timesteps))
    target = schedule.target(jnp.asarray(latents), jnp.asarray(noise), jnp.asarray(timesteps))
    np.testing.assert_allclose(noisy, reference.add_noise(*given).numpy(), atol=1e-5)
    np.testing.assert_allclose(target, reference.get_velocity(*given).numpy(), atol=1e-5)


def test_epsilon_target_is_the_noise():
    schedule = NoiseSchedule.from_config(SCALED)
    noise = jnp.ones((1, 2, 2, 1))
    assert schedule.target(jnp.zeros_like(noise), noise, jnp.array([3])) is noise


@pytest.mark.parametrize("field, value", [("prediction_type", "sample"), ("beta_schedule", "sigmoid")])
def test_refuses_what_stable_diffusion_does_not_use(field, value):
    said = f"{field}.*{value}.*Use a Stable Diffusion 1.x, 2.x or XL model"
    with pytest.raises(WeightsError, match=said):
        NoiseSchedule.from_config(SCALED | {field: value})
