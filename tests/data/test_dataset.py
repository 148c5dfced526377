"""Weights of images become places of an epoch, in the smallest numbers that keep their proportion."""

import jax
import numpy as np
import pytest

from ti_flax.data.dataset import epoch_sample_indices, one_shape, weighted_sample_indices
from ti_flax.errors import ConfigError
from ti_flax.training.batches import image_index


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
    for one, other in zip(plain, weighted):
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
