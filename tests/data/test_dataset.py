"""Weights of images become places of an epoch, in the smallest numbers that keep their proportion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chunks import draw_sample

from ti_flax.data import dataset
from ti_flax.data.dataset import (
    Bucket,
    Dataset,
    epoch_sample_indices,
    one_shape,
    padded,
    padded_size,
    weighted_sample_indices,
    with_class_images,
)
from ti_flax.errors import ConfigError
from ti_flax.training.batches import DrawRules, image_index
from ti_flax.training.timesteps import TimestepRules


@pytest.mark.parametrize(
    ("weights", "places"),
    [
        ((1, 1, 1), (0, 1, 2)),
        ((100, 100, 100), (0, 1, 2)),
        ((200, 100, 300), (0, 0, 1, 2, 2, 2)),
        ((7,), (0,)),
    ],
)
def test_places(weights, places):
    found = epoch_sample_indices(weights)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, places)


def test_equal_weights_change_nothing():
    posteriors, token_ids = np.zeros((3, 2, 4, 4, 8), np.float32), np.zeros((2, 5), np.int32)
    (plain,), (weighted,) = (
        one_shape(posteriors, token_ids, weights).buckets for weights in (None, (100, 100, 100))
    )
    for one, other in zip(plain[:5], weighted[:5]):
        assert one is other is None or (one.dtype == other.dtype and np.array_equal(one, other))


def test_an_epoch_shows_every_image_as_often_as_it_weighs():
    places = epoch_sample_indices((4, 2, 6))
    key = jax.random.key(0)
    for epoch in range(3):
        samples = [epoch * len(places) + n for n in range(len(places))]
        shown = [int(places[image_index(key, np.int32(sample), len(places))]) for sample in samples]
        assert np.bincount(shown).tolist() == [2, 1, 3]


def test_an_epoch_that_is_too_long_is_refused():
    with pytest.raises(
        ConfigError, match=r"^repeats: expected proportions .*1000000 .*found 2000001 in the shortest"
    ):
        epoch_sample_indices((2_000_000, 1))


def test_places_of_buckets_keep_the_proportions_between_them():
    found = weighted_sample_indices((200, 100, 300, 100), [np.array([1, 2]), np.array([0, 3])])
    assert [places.tolist() for places in found] == [[0, 1, 1, 1], [0, 0, 1]]
    assert all(places.dtype == np.int32 for places in found)


def test_few_sizes_hold_every_number_and_a_large_set_wastes_little():
    sizes = {padded_size(count, 8) for count in range(1, 100_001)}
    assert sorted(sizes)[:8] == [8, 16, 32, 64, 80, 96, 112, 128] and len(sizes) < 50
    for count in (1, 3, 5, 8, 9, 64, 65, 81, 1_000, 1_025, 99_999):
        size = padded_size(count, 8)
        assert count <= size and padded_size(size, 8) == size
        assert size < 1.25 * count + 1 or count < 65
    assert padded_size(65, 256) == padded_size(256, 256) == 256 and padded_size(257, 256) == 320


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_padding_keeps_what_is_there_and_counts_it(masked, sized):
    rng = np.random.default_rng(0)
    posteriors = rng.normal(size=(9, 2, 4, 4, 8)).astype(np.float32)
    weights = rng.uniform(size=(9, 2, 4, 4)).astype(np.float32) if masked else None
    groups, places = np.arange(9, dtype=np.int32)[::-1], np.repeat(np.arange(9, dtype=np.int32), 8)
    token_ids = rng.integers(0, 99, (9, 7, 5)).astype(np.int32)
    sizes = rng.uniform(size=(9, 2, 6)).astype(np.float32) if sized else None
    examples = Dataset((Bucket(posteriors, groups, places, weights, sizes),), token_ids)
    class_sizes = [sizes[3:6]] if sized else None
    examples = with_class_images(examples, [posteriors[:3]], token_ids[0], class_sizes)
    found = padded(examples)
    [bucket], [class_bucket] = found.buckets, found.class_buckets
    assert bucket.posteriors.shape == (16, 2, 4, 4, 8) and bucket.sample_indices.shape == (512,)
    assert bucket.places == 72 and class_bucket.places == 3 and class_bucket.posteriors.shape[0] == 8
    for long, short in zip(bucket[:5], examples.buckets[0][:5], strict=True):
        assert long is short is None or np.array_equal(long[: len(short)], short)
    chosen = padded(examples, pictures=False).buckets[0]
    assert len(chosen.posteriors) == 0
    if sized:
        np.testing.assert_array_equal(chosen.time_ids, bucket.time_ids)
        np.testing.assert_array_equal(class_bucket.time_ids[:3], sizes[3:6])
    else:
        assert chosen.time_ids is class_bucket.time_ids is None
    for table, ids in ((found.prompts, token_ids), (found.class_prompts, token_ids[:1])):
        groups, variants, _ = ids.shape
        assert table.variants == variants and table.token_ids.shape == (512, 5)
        np.testing.assert_array_equal(table.token_ids[: groups * variants].reshape(ids.shape), ids)


def test_samples_are_those_of_the_images_whatever_the_padding(monkeypatch):
    """The same draws from arrays that are just as long as what they hold."""
    rng = np.random.default_rng(0)
    posteriors = rng.normal(size=(5, 2, 4, 4, 8)).astype(np.float32)
    token_ids = rng.integers(0, 99, (4, 5)).astype(np.int32)
    examples = one_shape(posteriors, token_ids, (1, 1, 2, 1, 1))
    rules = DrawRules(
        global_batch=3, scaling_factor=1.0, timesteps=TimestepRules(first=0, end=10), flip_p=0.5
    )

    def drawn():
        [bucket], prompts = padded(examples)[:2]
        where = jnp.stack(jnp.meshgrid(jnp.arange(16), jnp.arange(3)), -1).reshape(-1, 2)
        key = jax.random.key(0)
        one = lambda at: draw_sample(rules, key, bucket, prompts, step=at[0], position=at[1])  # noqa: E731
        return bucket.posteriors.shape, jax.device_get(jax.vmap(one)(where))

    shape, expected = drawn()
    monkeypatch.setattr(dataset, "padded_size", lambda count, fewest: count)
    exact, found = drawn()
    assert shape[0] == 8 and exact[0] == 5
    assert {row.tobytes() for row in found.token_ids} == {row.tobytes() for row in token_ids}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.tobytes() == other.tobytes()
