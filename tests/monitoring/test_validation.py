"""The fixed set and the loss over it: always the same, whole, and what training minimises."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chunks import draw_sample
from row_trees import tree
from tiny_models import LEAST

from ti_flax.data.dataset import Bucket, Dataset, padded
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.stable_diffusion import random_stable_diffusion
from ti_flax.monitoring.validation import (
    Validation,
    chosen_images,
    eval_set,
    evaluation_interval,
    make_evaluation,
    samples_for,
)
from ti_flax.training.devices import replicate
from ti_flax.training.objective import Objective
from ti_flax.training.state import KEY_IMPLEMENTATION, StepConfig, Taught
from ti_flax.training.step import denoising_loss
from ti_flax.training.timesteps import TimestepRules

VOCABULARY = 120
ALL = TimestepRules(first=0, end=1000)


def bucket(images, shape=(4, 4), *, seed=0, weights=None, prompts=None):
    rng = np.random.default_rng([seed, images])
    return Bucket(
        rng.normal(size=(images, 2, *shape, 8)).astype(np.float32),
        np.zeros(images, np.int32) if prompts is None else prompts,
        np.repeat(np.arange(images, dtype=np.int32), weights or [1] * images),
        rng.uniform(0.5, 1.5, (images, 2, *shape)).astype(np.float32) if seed else None,
    )


def samples_of(chosen):
    """All samples in order: bucket, image, mirrored, timestep."""
    found = []
    for index, places in enumerate(chosen.places):
        columns = (column[:, : places.rounds[0]] for column in places[:4])
        for number, *rest in zip(*(np.ravel(column).tolist() for column in columns), strict=True):
            found += [(number, index, *rest)] if number >= 0 else []
    assert [number for number, *_ in sorted(found)] == list(range(len(chosen.weights)))
    return [tuple(rest) for _, *rest in sorted(found)]


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 1), (1, 8), (4, 3), (8, 64)])
@pytest.mark.parametrize("sizes", [(3,), (5, 2), (1, 1, 40)])
def test_every_image_and_mirror_comes_equally_often_over_the_whole_range(devices, batch_size, sizes):
    buckets = [bucket(size) for size in sizes]
    layout = {"batch_size": batch_size, "devices": devices}
    chosen = eval_set(buckets, ALL, flip_p=0.5, samples=48, **layout)
    samples = samples_of(chosen)
    shown = [sample[:3] for sample in samples]
    counts = {each: shown.count(each) for each in shown}
    assert len(set(counts.values())) == 1
    if sum(sizes) <= 24:
        assert len(counts) == 2 * sum(sizes)
    timesteps = [sample[3] for sample in samples]
    width = 1000 / len(samples)
    assert [int(timestep / width) for timestep in timesteps] == list(range(len(samples)))
    # The layout over devices and passes is no part of what is measured.
    assert samples == samples_of(eval_set(buckets, ALL, flip_p=0.5, samples=48, batch_size=1, devices=1))
    for places in chosen.places:
        assert places.number.shape[0] == len(places.rounds) == devices
        assert places.number.shape[2] <= batch_size
    assert chosen.passes * devices < len(samples) + sum(batch_size * devices for _ in sizes)


@pytest.mark.parametrize(("flip_p", "mirrors"), [(0.0, {0}), (0.3, {0, 1}), (1.0, {1})])
def test_mirror_images_are_looked_at_where_training_has_them(flip_p, mirrors):
    chosen = eval_set([bucket(3)], ALL, flip_p=flip_p, samples=12, batch_size=4, devices=1)
    assert {sample[2] for sample in samples_of(chosen)} == mirrors


def test_the_timesteps_are_those_that_are_trained():
    rules = TimestepRules(first=200, end=208)
    chosen = eval_set([bucket(2)], rules, flip_p=0.0, samples=4, batch_size=4, devices=1)
    assert [sample[3] for sample in samples_of(chosen)] == [201, 203, 205, 207]


def test_many_images_are_bounded_and_each_bucket_has_one():
    found = chosen_images([1000, 1, 250], 50)
    assert len(set(found)) == len(found) == pytest.approx(50, abs=3)
    assert {index for index, _ in found} == {0, 1, 2}
    images = [image for index, image in found if index == 0]
    assert images[0] == 0 and set(np.diff(images)) <= {25, 26}
    assert chosen_images([2, 1], 50) == [(0, 0), (0, 1), (1, 0)]


def test_images_count_as_often_as_an_epoch_shows_them():
    chosen = eval_set([bucket(2, weights=[3, 1])], ALL, flip_p=0.0, samples=4, batch_size=4, devices=1)
    np.testing.assert_allclose(chosen.weights, [0.375, 0.125, 0.375, 0.125])


@pytest.mark.parametrize(
    ("total", "update_samples", "samples", "interval"),
    [
        (200, 8, 32, 50),
        (3000, 4, 64, 177),
        (5000, 16, 64, 100),
        (5, 1, 32, 3),
        (1, 1, 32, 1),
        (100000, 1, 64, 2000),
    ],
)
def test_evaluations_take_at_most_a_twentieth_of_a_run(total, update_samples, samples, interval):
    assert samples_for(total, update_samples) == samples
    steps = evaluation_interval(total=total, passes=samples, update_samples=update_samples)
    assert steps == interval
    evaluations = len([0, *range(steps, total, steps), total])
    cost = evaluations * samples / (2 * total * update_samples)
    assert cost <= 0.05 or evaluations <= 3


@pytest.mark.parametrize(("passes", "interval"), [(128, 20), (66, 11), (64, 10), (16, 10)])
def test_evaluations_of_a_run_until_it_is_done_take_two_fifths_of_it_or_lie_ten_steps_apart(passes, interval):
    assert evaluation_interval(total=None, passes=passes, update_samples=8) == interval
    assert interval == 10 or passes / (2 * 8 * interval) <= 0.4


def make_step_config(family="sd1", **changes):
    model = random_stable_diffusion(LEAST[family], seed=0)
    config = StepConfig(
        model=model,
        schedule=NoiseSchedule.from_config(model.configs["scheduler"]),
        optimizer=types.SimpleNamespace(),
        trainable=tree(np.asarray([True, True])),
        first_added_id=VOCABULARY,
        batch_size=3,
    )
    return dataclasses.replace(config, **changes)


def examples_of(*buckets):
    token_ids = np.random.default_rng(1).integers(0, VOCABULARY, (2, 4, 77)).astype(np.int32)
    token_ids[..., 5:7] = [VOCABULARY, VOCABULARY + 1]
    return Dataset(buckets, token_ids)


def rows_of(config, seed=2):
    width = config.model.widths["text_encoder"]
    rows = np.random.default_rng(seed).normal(size=(2, width)) * 0.02
    return tree(rows.astype(np.float32))


def loss_over(config, examples, rows, *, devices, seed=3, samples=12, **layout):
    """The loss with so many of the virtual devices, and the set it is over."""
    places = jax.local_devices()[:devices]
    params = config.model.params
    frozen = {"text_encoder": params["text_encoder"], "unet": params["unet"]}
    chosen = eval_set(
        examples.buckets,
        config.draw_rules.timesteps,
        flip_p=config.flip_p,
        samples=samples,
        batch_size=config.batch_size,
        devices=devices,
    )
    taught = Taught(np.asarray(jax.random.key_data(jax.random.key(seed))), config.settings)
    given = replicate(padded(examples), places)
    measure = Validation(config, replicate(frozen, places), given, taught, chosen, devices=places)
    return [measure(each) for each in rows]


HUBER = Objective(loss_type="huber", huber_c=np.linspace(0.1, 1, 1000, dtype=np.float32))


@pytest.fixture(scope="module")
def two_buckets():
    config = make_step_config(objective=HUBER)
    prompts = np.asarray([0, 1, 1, 0], np.int32)
    return config, examples_of(bucket(4, seed=1, prompts=prompts), bucket(2, (2, 4), seed=2))


def test_it_is_the_same_at_every_evaluation_and_on_any_number_of_devices(two_buckets):
    config, examples = two_buckets
    rows, others = rows_of(config), rows_of(config, seed=5)
    first, other, again = loss_over(config, examples, [rows, others, rows], devices=1)
    assert first == again != other
    (on_two,) = loss_over(config, examples, [rows], devices=2)
    assert on_two == pytest.approx(first, rel=1e-6)
    (other_seed,) = loss_over(config, examples, [rows], devices=1, seed=4)
    assert other_seed != first


def test_it_is_the_loss_that_training_minimises():
    config = make_step_config(objective=HUBER, batch_size=60)
    examples = examples_of(bucket(4, seed=1))
    rows = jax.tree.map(jnp.asarray, rows_of(config))
    # So many samples that only their noise is between the two.
    (found,) = loss_over(config, examples, [rows], devices=1, samples=480)
    given = padded(examples)
    rules = dataclasses.replace(
        config.draw_rules, global_batch=480, timesteps=dataclasses.replace(ALL, sampling="stratified")
    )
    params = {name: config.model.params[name] for name in ("text_encoder", "unet")}

    @jax.jit
    def trained(first):
        def one(position):
            where = {"step": jnp.int32(0), "position": position}
            return draw_sample(rules, jax.random.key(11), given.buckets[0], given.prompts, **where)

        return denoising_loss(rows, params, jax.vmap(one)(first + jnp.arange(60)), config)

    expected = np.mean([trained(first) for first in range(0, 480, 60)])
    assert found == pytest.approx(expected, rel=0.02)


def test_an_evaluation_needs_less_memory_than_an_update():
    config = make_step_config()
    examples = examples_of(bucket(3, (8, 8)))
    given = padded(examples)
    chosen = eval_set(examples.buckets, ALL, flip_p=0.5, samples=60, batch_size=3, devices=1)
    params = {name: config.model.params[name] for name in ("text_encoder", "unet")}
    frozen = {**params, "examples": given}
    rows = jax.tree.map(jnp.asarray, rows_of(config))
    key = jax.random.key_data(jax.random.key(0, impl=KEY_IMPLEMENTATION))
    taught = Taught(key, config.settings)
    places = jax.tree.map(lambda leaf: leaf[0], chosen.places)
    evaluation = jax.jit(make_evaluation(config)).lower(rows, frozen, taught, places).compile()

    def loss(rows, frozen):
        def one(position):
            where = {"step": jnp.int32(0), "position": position}
            return draw_sample(config.draw_rules, jax.random.key(0), given.buckets[0], given.prompts, **where)

        return denoising_loss(rows, frozen, jax.vmap(one)(jnp.arange(3)), config)

    update = jax.jit(jax.grad(loss)).lower(rows, params).compile()
    needs = [program.memory_analysis().temp_size_in_bytes for program in (evaluation, update)]
    assert needs[0] < needs[1]
    # One device has 20 rounds of 3, and room for more, in which nothing is computed.
    [errors] = evaluation(rows, frozen, taught, places)
    assert places[0].rounds == 20 and errors.shape == (256, 3)
    assert (errors[:20] > 0).all() and not errors[20:].any()
