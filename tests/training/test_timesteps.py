"""Which timesteps are drawn: each as often as any other, in parts or mirrored where that is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ti_flax.config.options import LossOptions
from ti_flax.errors import ConfigError
from ti_flax.training.timesteps import TimestepRules


def drawn(rules, samples, updates=1, seed=0):
    """Timesteps `[updates, samples]`."""

    def one(update, position):
        key = jax.random.fold_in(jax.random.key(seed), update)
        sample_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed + 1), update), position)
        return rules.draw(sample_key, key, position=position, samples=samples)

    whole = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
    return np.asarray(whole(jnp.arange(updates), jnp.arange(samples)))


@pytest.mark.parametrize("sampling", ["uniform", "stratified", "antithetic"])
@pytest.mark.parametrize("samples", [8, 3])
def test_every_timestep_of_the_range_is_as_likely(sampling, samples):
    rules = TimestepRules(first=5, end=25, sampling=sampling)
    found = drawn(rules, samples, updates=6000)
    assert found.min() == 5 and found.max() == 24
    for position in range(samples):
        counts = np.bincount(found[:, position] - 5, minlength=20)
        # 300 expected; five standard deviations.
        assert abs(counts - 300).max() < 5 * np.sqrt(300)


@pytest.mark.parametrize("samples", [8, 7, 1])
def test_stratified_has_one_sample_in_every_part_and_none_keeps_its_part(samples):
    found = drawn(TimestepRules(first=0, end=1000, sampling="stratified"), samples, updates=200)
    edges = np.arange(samples) * 1000 // samples
    ordered = np.sort(found, axis=1)
    assert (ordered >= edges).all() and (ordered <= (np.arange(samples) + 1) * 1000 // samples).all()
    if samples > 1:
        parts = found * samples // 1000
        assert all(len(set(parts[:, position])) == samples for position in range(samples))


def test_antithetic_mirrors_pairs_and_leaves_the_last_of_an_odd_number_alone():
    found = drawn(TimestepRules(first=100, end=600, sampling="antithetic"), 7, updates=50)
    assert (found[:, 0:6:2] + found[:, 1:6:2] == 699).all()
    assert len(np.unique(found[:, 6])) > 25
    assert len(np.unique(found[:, 0])) > 25 and (found[:, 0] != found[:, 2]).any()


def test_uniform_draws_what_randint_draws():
    rules = TimestepRules.from_options(LossOptions(), 1000)
    key = jax.random.key(5)
    found = rules.draw(key, jax.random.key(6), position=jnp.int32(3), samples=8)
    assert found == jax.random.randint(key, (), 0, 1000)
    rules = TimestepRules.from_options(LossOptions(min_timestep=200, max_timestep=201), 1000)
    assert rules.draw(key, jax.random.key(6), position=jnp.int32(3), samples=8) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_timestep": 1001},
            "max_timestep: expected at most 1000, as the model has timesteps 0 to 999, found 1001",
        ),
        (
            {"min_timestep": 1000},
            "min_timestep: expected at most 999, as the model has timesteps 0 to 999, found 1000",
        ),
    ],
)
def test_timesteps_that_the_model_does_not_have(options, message):
    with pytest.raises(ConfigError) as caught:
        TimestepRules.from_options(LossOptions(**options), 1000)
    assert str(caught.value) == message
