"""What is mixed into the noise, against NumPy, and that nothing else of a sample changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chunks import draw_sample

from ti_flax.config.options import LossOptions
from ti_flax.data.dataset import one_shape, padded
from ti_flax.training.batches import DrawRules
from ti_flax.training.noise import NoiseRules, multires_noise
from ti_flax.training.timesteps import TimestepRules

RNG = np.random.default_rng(0)
POSTERIORS = RNG.normal(size=(3, 2, 8, 6, 8)).astype(np.float32)
EXAMPLES = padded(one_shape(POSTERIORS, np.arange(4 * 77, dtype=np.int32).reshape(4, 77)))


@functools.cache
def draws(**options):
    """Eight samples of four updates each, stacked `[updates, samples, ...]`."""
    given = LossOptions(**options)
    rules = DrawRules(
        global_batch=8,
        scaling_factor=0.2,
        timesteps=TimestepRules.from_options(given, 1000),
        flip_p=0.5,
        noise=NoiseRules.from_options(given),
    )

    def one(step, position):
        key = jax.random.key(3)
        return draw_sample(rules, key, EXAMPLES.buckets[0], EXAMPLES.prompts, step=step, position=position)

    # Not as one program: XLA fuses what lies around a draw into it, which may change the draw's last bit.
    whole = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return jax.device_get(whole(jnp.arange(4), jnp.arange(8)))


@pytest.fixture(scope="module")
def plain():
    return draws()


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"noise_offset": 0.25}, {"noise"}),
        ({"noise_offset": 0.25, "adaptive_noise_scale": 1.0}, {"noise"}),
        ({"multires_noise_iterations": 3, "multires_noise_discount": 0.8}, {"noise"}),
        ({"input_perturbation": 0.5}, {"input_noise"}),
        ({"min_timestep": 200, "max_timestep": 500}, {"timesteps"}),
        ({"timestep_sampling": "stratified"}, {"timesteps"}),
        ({"timestep_sampling": "antithetic"}, {"timesteps"}),
    ],
)
def test_an_option_changes_its_part_of_a_sample_and_nothing_else(plain, options, changed):
    batch = draws(**options)
    for name, value in batch._asdict().items():
        before = getattr(plain, name)
        same = value is before or (before is not None and value.tobytes() == before.tobytes())
        assert same == (name not in changed), name


def test_an_offset_is_the_same_all_over_a_channel(plain):
    added = draws(noise_offset=0.25).noise - plain.noise
    np.testing.assert_allclose(added, added[:, :, :1, :1] * np.ones_like(added), atol=1e-6)
    offsets = added[:, :, 0, 0].ravel() / 0.25
    # 4 x 8 x 4 independent normal draws.
    assert len(np.unique(offsets.round(4))) > 120
    assert abs(offsets.mean()) < 0.4 and 0.8 < offsets.std() < 1.2


def test_an_adaptive_offset_grows_with_the_mean_of_the_channel():
    latents = RNG.normal(size=(8, 6, 4)).astype(np.float32) + np.array([0, 1, -2, 3], np.float32)
    key = jax.random.key(1)
    unit = np.asarray(NoiseRules(offset=1.0).channel_offsets(key, jnp.asarray(latents)), np.float64)
    means = np.abs(latents.astype(np.float64).mean(axis=(0, 1)))
    for scale in (0.3, -0.1):
        rules = NoiseRules(offset=0.2, adaptive_scale=scale)
        expected = np.maximum(0.2 + scale * means, 0) * unit
        np.testing.assert_allclose(
            rules.channel_offsets(key, jnp.asarray(latents)), expected, rtol=1e-5, atol=1e-7
        )
    assert expected[3] == 0


def test_the_perturbed_input_is_not_the_target(plain):
    batch = draws(input_perturbation=0.5)
    extra = (batch.input_noise - plain.noise).ravel() / 0.5
    assert abs(extra.mean()) < 0.05 and 0.95 < extra.std() < 1.05
    assert abs(np.corrcoef(extra, plain.noise.ravel())[0, 1]) < 0.05


def stretched(coarse, shape, cell):
    """Linear interpolation of a grid of cells `cell` wide, at the middle of each pixel."""

    def along(values, axis, count):
        places = np.clip((np.arange(count) + 0.5) / cell - 0.5, 0, values.shape[axis] - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        share = (places - low).reshape([-1 if i == axis else 1 for i in range(3)])
        return np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share

    return along(along(coarse, 0, shape[0]), 1, shape[1])


def test_multires_noise():
    key, discount, iterations = jax.random.key(2), 0.6, 4
    shaped = jax.jit(multires_noise, static_argnames=("iterations", "discount"))
    noise = RNG.normal(size=(9, 12, 4)).astype(np.float32)
    found = shaped(key, jnp.asarray(noise), iterations=iterations, discount=discount)
    expected, goes_on = noise.astype(np.float64), True
    for layer in range(iterations):
        ratio_key, grid_key = jax.random.split(jax.random.fold_in(key, layer))
        cell = float(jax.random.uniform(ratio_key, minval=2.0, maxval=4.0)) ** layer
        cells = (int(np.ceil(9 / 2**layer)), int(np.ceil(12 / 2**layer)), 4)
        coarse = np.asarray(jax.random.normal(grid_key, cells), np.float64)
        if goes_on:
            expected = expected + discount**layer * stretched(coarse, noise.shape, cell)
        goes_on = goes_on and int(9 / cell) > 1
    assert not goes_on
    np.testing.assert_allclose(found, expected / expected.std(), rtol=1e-4, atol=1e-5)


def test_multires_noise_is_smoother_and_keeps_its_variance(plain):
    coarser = draws(multires_noise_iterations=3, multires_noise_discount=0.8)
    neighbours = []
    for noise in (plain.noise, coarser.noise):
        np.testing.assert_allclose(noise.std(), 1, atol=0.06)
        neighbours.append(np.corrcoef(noise[..., 1:, :].ravel(), noise[..., :-1, :].ravel())[0, 1])
    assert abs(neighbours[0]) < 0.05 and neighbours[1] > 0.15
