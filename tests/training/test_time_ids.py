"""Every sample is told the sizes of the picture it shows, wherever that comes from; SD draws what it drew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chunks import chunk_arguments, chunk_of, draw_sample, fetched
from tiny_step import CAPACITY, VOCABULARY, make_step_config, rates

from ti_flax.data.dataset import Bucket, Dataset, padded, with_class_images
from ti_flax.monitoring import validation
from ti_flax.monitoring.validation import eval_set, looked_at, make_evaluation
from ti_flax.training import step
from ti_flax.training.batches import Batch, concat
from ti_flax.training.devices import pmapped, replicate, shard
from ti_flax.training.state import Taught, init_state
from ti_flax.training.timesteps import TimestepRules

KEY = np.asarray(jax.random.key_data(jax.random.key(7)))


@pytest.fixture(scope="module")
def config():
    return make_step_config(batch_size=2, accumulation=2)


def numbered(first, images, height, width, sides=(0, 1)):
    """Pictures whose latents are their number, exactly, and whose sizes begin with it."""
    numbers = first + 2 * np.arange(images, dtype=np.float32)[:, None] + np.asarray(sides, np.float32)
    shape = (images, len(sides), height, width, 4)
    mean = np.broadcast_to(numbers[..., None, None, None], shape)
    posteriors = np.concatenate([mean, np.full(shape, -200, np.float32)], axis=-1)
    time_ids = np.stack([numbers + 1000 * place for place in range(6)], axis=-1)
    return posteriors, time_ids


def bucket_of(*arguments, **options):
    posteriors, time_ids = numbered(*arguments, **options)
    images = len(posteriors)
    return Bucket(
        posteriors,
        np.zeros(images, np.int32),
        np.arange(images, dtype=np.int32),
        np.ones((images, 2, *posteriors.shape[2:4]), np.float32) if images == 3 else None,
        time_ids,
    )


def examples_of(*buckets):
    token_ids = np.full((1, 2, 77), VOCABULARY, np.int32)
    class_pictures = [numbered(500, 4, *bucket.posteriors.shape[2:4]) for bucket in buckets]
    posteriors, time_ids = zip(*class_pictures)
    return with_class_images(Dataset(buckets, token_ids), posteriors, token_ids[0], time_ids)


ONE = examples_of(bucket_of(10, 5, 4, 4))
SEVERAL = examples_of(bucket_of(10, 5, 4, 4), bucket_of(50, 3, 4, 6))


def told_wrongly(batch, scaling_factor):
    """How far the sizes of samples are from those of the pictures that they show, `[batch]`."""
    shown = batch.latents[:, 0, 0, :1] / scaling_factor
    expected = shown + 1000 * jnp.arange(6)
    return jnp.max(jnp.abs(batch.time_ids - expected), axis=-1)


@pytest.mark.parametrize("examples", [ONE, SEVERAL], ids=["one shape", "shapes with masks"])
def test_samples_of_updates_are_told_the_sizes_of_their_pictures(config, monkeypatch, examples):
    """With images and class images of several shapes, on two devices."""

    def wrong(rows, frozen, batch, config, class_batch=None):
        factor = config.draw_rules.scaling_factor
        both = jnp.concatenate([told_wrongly(batch, factor), told_wrongly(class_batch, factor)])
        assert batch.time_ids.shape == class_batch.time_ids.shape == (config.batch_size, 6)
        return jnp.max(both) + 0 * jnp.sum(rows["text_encoder"])

    monkeypatch.setattr(step, "denoising_loss", wrong)
    config = dataclasses.replace(config, device_count=2)
    devices = jax.devices()[:2]
    frozen, rows = {"examples": examples}, {"text_encoder": np.zeros((2, 8), np.float32)}
    arguments = chunk_arguments(config, frozen, init_state(config, rows), rates(0), CAPACITY, devices)
    _, measured = chunk_of(config, CAPACITY, frozen, devices)(*arguments)
    losses = fetched(measured, devices)["loss"]
    assert len(losses) > 4 and losses.max() < 1e-2  # a wrong picture is off by 1 at least


@pytest.mark.parametrize("flip_p", [0.0, 1.0])
def test_where_one_side_is_drawn_its_sizes_alone_are_needed(config, flip_p):
    config = dataclasses.replace(config, flip_p=flip_p)
    posteriors, time_ids = numbered(10, 5, 4, 4, sides=(int(flip_p),))
    [bucket] = ONE.buckets
    for sizes in (time_ids, bucket.time_ids):  # or those of both sides, which do no harm
        alone = bucket._replace(posteriors=posteriors, time_ids=sizes)
        batch = drawn(config, padded(Dataset((alone,), ONE.token_ids)), 20)
        assert told_wrongly(batch, config.draw_rules.scaling_factor).max() < 1e-2


def drawn(config, given, count):
    key = jax.random.key(0)
    one = lambda number: draw_sample(  # noqa: E731
        config.draw_rules, key, given.buckets[0], given.prompts, step=number // 4, position=number % 4
    )
    return jax.vmap(one)(jnp.arange(count))


def test_the_rest_of_a_sample_is_what_it_is_without_sizes(config):
    [bucket] = ONE.buckets
    plain = ONE._replace(buckets=(bucket._replace(time_ids=None),), class_buckets=None, class_token_ids=None)
    told, without = drawn(config, padded(ONE), 32), drawn(config, padded(plain), 32)
    assert told.time_ids.shape == (32, 6) and without.time_ids is None
    for one, other in zip(
        jax.tree.leaves(told._replace(time_ids=None)), jax.tree.leaves(without), strict=True
    ):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_a_batch_and_its_class_images_keep_their_sizes():
    rng = np.random.default_rng(0)

    def batch_of(masked, sized):
        latents = rng.normal(size=(2, 4, 4, 4)).astype(np.float32)
        masks = np.ones((2, 4, 4), np.float32) if masked else None
        sizes = rng.uniform(size=(2, 6)).astype(np.float32) if sized else None
        ids = np.zeros((2, 77), np.int32)
        return Batch(latents, latents, np.zeros(2, np.int32), ids, masks, time_ids=sizes)

    one, other = batch_of(True, True), batch_of(False, True)
    np.testing.assert_array_equal(concat(one, other).time_ids, np.concatenate([one.time_ids, other.time_ids]))
    assert concat(batch_of(True, False), batch_of(False, False)).time_ids is None


@pytest.mark.parametrize("picked", [False, True])
def test_evaluations_tell_the_sizes_of_what_they_look_at(config, monkeypatch, picked):
    """Also of the few images alone."""
    factor = config.draw_rules.scaling_factor

    def wrong(rows, frozen, batch, config):
        return jnp.broadcast_to(told_wrongly(batch, factor)[:, None, None, None], batch.latents.shape)

    monkeypatch.setattr(validation, "denoising_error", wrong)
    every = TimestepRules(first=0, end=1000)
    chosen = eval_set(SEVERAL.buckets, every, flip_p=0.5, samples=6, batch_size=2, devices=1)
    buckets, chosen = looked_at(SEVERAL.buckets, chosen) if picked else (SEVERAL.buckets, chosen)
    assert not picked or sum(len(bucket.posteriors) for bucket in buckets) < 8
    examples = padded(SEVERAL._replace(buckets=tuple(buckets), class_buckets=None, class_token_ids=None))
    devices = jax.local_devices()[:1]
    frozen, taught = replicate(({"examples": examples}, Taught(KEY, config.settings)), devices)
    given = (replicate(np.zeros((2, 8), np.float32), devices), frozen, taught)
    errors = pmapped(make_evaluation(config), devices, donate=())(*given, shard(chosen.places, devices))
    for measured, places in zip(errors, chosen.places, strict=True):
        assert np.max(measured) < 1e-2 and (places.number >= 0).any()
