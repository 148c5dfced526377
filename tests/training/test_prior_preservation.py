"""Class images beside the training images, and draws that do not depend on how a batch is spread."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chunks import chunk_arguments, chunk_of, draw_sample, fetched
from row_trees import only
from tiny_step import CAPACITY, VOCABULARY, make_frozen, make_step_config, rates, start_rows

from ti_flax.config.options import LossOptions
from ti_flax.data.dataset import padded, with_class_images
from ti_flax.training import step
from ti_flax.training.batches import Batch, concat
from ti_flax.training.noise import NoiseRules
from ti_flax.training.objective import Objective
from ti_flax.training.state import init_state
from ti_flax.training.step import denoising_loss
from ti_flax.training.timesteps import TimestepRules


@pytest.fixture(scope="module")
def config():
    return make_step_config()


def class_examples(examples, prompts=1, images=5):
    rng = np.random.default_rng(9)
    token_ids = rng.integers(0, VOCABULARY, (prompts, 77)).astype(np.int32)
    token_ids[:, 5:7] = [VOCABULARY, VOCABULARY + 1]
    posteriors = rng.normal(size=(images, 2, 4, 4, 8)).astype(np.float32)
    return with_class_images(examples, [posteriors], token_ids)


def batch_of(seed, images=2, masked=False):
    rng = np.random.default_rng(seed)
    latents, noise = rng.normal(size=(2, images, 4, 4, 4)).astype(np.float32)
    token_ids = rng.integers(0, VOCABULARY, (images, 77)).astype(np.int32)
    token_ids[:, 5:7] = [VOCABULARY, VOCABULARY + 1]
    masks = rng.uniform(0.5, 1.5, size=(images, 4, 4)).astype(np.float32) if masked else None
    timesteps = rng.integers(0, 1000, images).astype(np.int32)
    return jax.tree.map(jnp.asarray, Batch(latents, noise, timesteps, token_ids, masks))


@pytest.mark.parametrize("prompts", [1, 6])
def test_class_prompts_are_a_group_of_their_own_with_even_odds(config, prompts):
    examples = make_frozen(config)["examples"]
    both = class_examples(examples, prompts)
    [bucket] = both.class_buckets
    assert set(bucket.prompts) == {0} and list(bucket.sample_indices) == list(range(5))
    assert both.token_ids is examples.token_ids and both.class_token_ids.shape == (1, prompts, 77)
    given, drawn = padded(both), []
    for number in range(16 * prompts):
        where = {"step": jnp.int32(number), "position": jnp.int32(0)}
        key = jax.random.key(0)
        batch = draw_sample(config.draw_rules, key, given.class_buckets[0], given.class_prompts, **where)
        drawn.append(both.class_token_ids[0].tolist().index(batch.token_ids.tolist()))
    assert np.bincount(drawn, minlength=prompts).min() > 8


def test_training_images_are_drawn_as_without_class_images(config):
    examples = make_frozen(config)["examples"]
    both = class_examples(examples)
    for position in range(4):
        where = {"step": jnp.int32(3), "position": jnp.int32(position)}
        drawn = [
            draw_sample(config.draw_rules, jax.random.key(0), each.buckets[0], each.prompts, **where)
            for each in (padded(examples), padded(both))
        ]
        for found, wanted in zip(*map(jax.tree.leaves, drawn), strict=True):
            assert found.tobytes() == wanted.tobytes()


def test_the_loss_is_the_mean_of_each_kind_and_the_weight_is_that_of_the_class(config):
    frozen = {name: jax.tree.map(jnp.asarray, config.model.params[name]) for name in ("text_encoder", "unet")}
    batch, class_batch = batch_of(0, masked=True), batch_of(1)
    alone = class_batch._replace(loss_weights=jnp.ones((2, 4, 4)))
    rows = jax.tree.map(jnp.float32, start_rows(config))
    loss = jax.jit(denoising_loss, static_argnums=3)
    of_word, of_class = (float(loss(rows, frozen, each, config)) for each in (batch, alone))
    assert abs(of_word - of_class) > 1e-3
    options = LossOptions(class_data_dir="x", prior_loss_weight=0.3)
    weighted = dataclasses.replace(config, objective=Objective.from_options(options, config.schedule))
    found = float(loss(rows, frozen, batch, weighted, class_batch))
    assert found == pytest.approx(of_word + 0.3 * of_class, rel=1e-5)
    for given, expected in ((None, 1.0), (0.0, 0.0)):
        options = LossOptions(class_data_dir="x", prior_loss_weight=given)
        assert Objective.from_options(options, config.schedule).prior_loss_weight == expected


def test_weights_of_one_are_filled_in_beside_weights():
    masked, plain = batch_of(0, masked=True), batch_of(1)
    for first, second in ((masked, plain), (plain, masked)):
        weights = np.split(np.asarray(concat(first, second).loss_weights), 2)
        for found, batch in zip(weights, (first, second), strict=True):
            expected = np.ones((2, 4, 4)) if batch is plain else np.asarray(masked.loss_weights)
            np.testing.assert_array_equal(found, expected)
    assert concat(plain, plain).loss_weights is None


def losses_of(monkeypatch, config, frozen, measure, devices=1):
    """Losses of four updates whose loss is the mean of a measure of (batch, class batch)."""

    def loss(rows, frozen, batch, config, class_batch):
        return jnp.mean(measure(batch, class_batch)) + 0.0 * jnp.sum(only(rows))

    monkeypatch.setattr(step, "denoising_loss", loss)
    places = jax.devices()[:devices]
    frozen = {"examples": frozen["examples"]}
    state = init_state(config, start_rows(config))
    arguments = chunk_arguments(config, frozen, state, rates(0), 4, places)
    measures = chunk_of(config, CAPACITY, frozen, places)(*arguments)[1]
    return fetched(measures, places)["loss"][:4]


def all_of_a_sample(batch, class_batch):
    values = []
    for each in (batch, class_batch):
        seen = each.noise if each.input_noise is None else each.input_noise
        values.append(each.timesteps / 100 + jnp.sum(each.latents * each.noise + 2 * seen, axis=(1, 2, 3)))
    return values[0] + jnp.sqrt(2.0) * values[1]


@pytest.mark.parametrize(
    "options",
    [
        {"timestep_sampling": "stratified"},
        {"timestep_sampling": "antithetic"},
        {"noise_offset": 0.2, "multires_noise_iterations": 2, "input_perturbation": 0.3},
    ],
)
def test_draws_depend_on_the_place_in_the_global_batch_alone(monkeypatch, config, options):
    given = LossOptions(**options)
    config = dataclasses.replace(
        config,
        noise=NoiseRules.from_options(given),
        timesteps=TimestepRules.from_options(given, 1000),
    )
    examples = make_frozen(config)["examples"]
    frozen = {"examples": class_examples(examples)}
    expected = losses_of(monkeypatch, config, frozen, all_of_a_sample)
    assert len(set(expected)) == 4
    split = dataclasses.replace(config, batch_size=1, accumulation=4, device_count=2)
    found = losses_of(monkeypatch, split, frozen, all_of_a_sample, devices=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_class_samples_are_drawn_apart_from_those_beside_them(monkeypatch, config):
    frozen = {"examples": class_examples(make_frozen(config)["examples"])}

    def correlation(batch, class_batch):
        return jnp.corrcoef(batch.noise.ravel(), class_batch.noise.ravel())[0, 1]

    assert abs(losses_of(monkeypatch, config, frozen, correlation)).max() < 0.2

    def equal_timesteps(batch, class_batch):
        return (batch.timesteps == class_batch.timesteps).astype(jnp.float32)

    assert losses_of(monkeypatch, config, frozen, equal_timesteps).max() < 0.5


def test_every_epoch_shows_every_class_image(monkeypatch, config):
    examples = class_examples(make_frozen(config)["examples"], images=4)
    [bucket] = examples.class_buckets
    posteriors = np.full_like(bucket.posteriors, -60.0)
    posteriors[..., :4] = 10.0 ** np.arange(4)[:, None, None, None, None]
    examples = examples._replace(class_buckets=(bucket._replace(posteriors=posteriors),))
    scale = config.model.vae.config.scaling_factor

    def shown(batch, class_batch):
        return jnp.mean(class_batch.latents, axis=(1, 2, 3)) / scale

    found = losses_of(monkeypatch, config, {"examples": examples}, shown)
    np.testing.assert_allclose(found, 1111 / 4, rtol=1e-5)
