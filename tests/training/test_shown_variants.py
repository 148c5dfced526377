"""Which variant and side of its image a sample shows; evaluations show the images as they are."""

import dataclasses

import jax
import numpy as np
import pytest
from chunks import KEY
from tiny_step import make_step_config

from ti_flax.data.dataset import Bucket, Dataset, padded
from ti_flax.monitoring.validation import eval_set, looked_at
from ti_flax.training.batches import choose
from ti_flax.training.streaming import Choices, Feed, examples_in, shapes_of
from ti_flax.training.timesteps import TimestepRules

IMAGES, VARIANTS, UPDATES = 4, 3, 60


@pytest.fixture(scope="module")
def config():
    return dataclasses.replace(make_step_config(batch_size=4, accumulation=2), variants=VARIANTS)


@pytest.fixture(scope="module")
def choices(config):
    return Choices(config)


def numbered_bucket(sides):
    """Pictures that hold 100 x image + 10 x variant + side."""

    def numbers(sides):
        image, variant, side = np.indices((IMAGES, VARIANTS, sides))
        return (100.0 * image + 10 * variant + side).reshape(IMAGES, -1).astype(np.float32)

    posteriors = np.tile(numbers(sides)[:, :, None, None, None], (1, 1, 2, 2, 8))
    weights = np.tile(numbers(2)[:, :, None, None], (1, 1, 2, 2))
    time_ids = np.tile(numbers(sides)[:, :, None], (1, 1, 6))
    images = np.arange(IMAGES, dtype=np.int32)
    return Bucket(posteriors, np.zeros_like(images), images, weights, time_ids, VARIANTS)


def dataset_of(bucket):
    return Dataset((bucket,), np.zeros((1, 1, 77), np.int32))


def shown_by(config, choices, bucket, step, updates):
    """What samples show, `[samples, 3]`: a number each of posterior, loss weights and sizes."""
    examples = dataset_of(bucket)
    shapes = shapes_of(examples)
    feed = Feed(config, examples, KEY, shapes, capacity=UPDATES, choices=choices)
    [window] = feed.windows(step, updates, (0,))
    shown = jax.tree.map(lambda each: each[:updates].reshape(updates * 8, *each.shape[3:]), window.training)
    example = examples_in(shown, shapes.buckets[0])
    numbers = [example.posterior[:, 0, 0, 0], example.loss_weights[:, 0, 0], example.time_ids[:, 0]]
    return np.stack(numbers, axis=1).astype(int)


def test_a_sample_shows_any_variant_of_its_image(config, choices):
    posteriors, weights, sizes = shown_by(config, choices, numbered_bucket(2), 0, UPDATES).T
    np.testing.assert_array_equal(posteriors, sizes)
    np.testing.assert_array_equal(posteriors, weights)
    assert 0.4 < np.mean(posteriors % 10) < 0.6
    often = np.bincount(posteriors // 10 % 10, minlength=VARIANTS) / len(posteriors)
    np.testing.assert_allclose(often, 1 / VARIANTS, atol=0.08)
    assert (np.bincount(posteriors // 100) == len(posteriors) // IMAGES).all()


def test_where_one_side_is_encoded_its_variants_are_shown(config, choices):
    posteriors, weights, sizes = shown_by(config, choices, numbered_bucket(1), 0, UPDATES).T
    np.testing.assert_array_equal(posteriors, sizes)
    np.testing.assert_array_equal(posteriors // 10, weights // 10)  # of the same image and variant
    assert (posteriors % 10 == 0).all() and set(posteriors // 10 % 10) == {0, 1, 2}


def test_variants_depend_on_step_and_position_alone(config, choices):
    bucket = numbered_bucket(2)
    parts = [shown_by(config, choices, bucket, step, 2) for step in (0, 2, 4)]
    np.testing.assert_array_equal(np.concatenate(parts), shown_by(config, choices, bucket, 0, 6))


def test_variants_change_nothing_else_that_is_drawn(config):
    examples, key = padded(dataset_of(numbered_bucket(2))), jax.random.key(1)

    @jax.jit
    def drawn(step, position):
        several, alone = config.draw_rules, dataclasses.replace(config.draw_rules, variants=1)
        return [
            choose(rules, key, examples.buckets[0], examples.prompts, step=step, position=position)
            for rules in (alone, several)
        ]

    alone, several = drawn(5, 2)
    assert alone.variant is None and several.variant is not None
    for one, other in zip(alone[:-1], several[:-1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_sample_is_mirrored_as_often_as_its_image_says(config, choices):
    bucket = numbered_bucket(2)._replace(flip_p=np.float32([0, 0.5, 1, 1]))
    posteriors, _, _ = shown_by(config, choices, bucket, 0, UPDATES).T
    never, half, *always = ((posteriors % 10)[posteriors // 100 == image].mean() for image in range(IMAGES))
    assert never == 0 and 0.3 < half < 0.7 and always == [1, 1]


def test_evaluations_look_at_the_images_as_they_are():
    bucket = numbered_bucket(2)
    chosen = eval_set(
        [bucket], TimestepRules(first=0, end=1000), flip_p=0.5, samples=8, batch_size=2, devices=1
    )
    [found], _ = looked_at([bucket], chosen)
    assert found.variants == 1 and found.posteriors.shape[1] == found.loss_weights.shape[1] == 2
    for numbers in (found.posteriors[..., 0, 0, 0], found.loss_weights[..., 0, 0], found.time_ids[..., 0]):
        np.testing.assert_array_equal(numbers, [[100 * image, 100 * image + 1] for image in range(IMAGES)])
