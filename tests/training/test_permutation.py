"""A shuffle computed place by place: a permutation of every size, close to uniform, and fresh every epoch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from ti_flax.training.batches import bucket_of_step, image_index
from ti_flax.training.permutation import permuted

KEY = jax.random.key(11, impl="threefry2x32")


@functools.partial(jax.jit, static_argnums=1)
def places_of(size, padded):
    """Where the first `padded` of `size` places go; the size is traced, so all sizes are one program."""
    return jax.vmap(lambda place: permuted(KEY, place, size))(jnp.arange(padded, dtype=jnp.int32))


def orders(epochs, size):
    """A whole order of every epoch, `[epochs, size]`, as `image_index` shows it."""

    def shown(epoch):
        samples = epoch * size + jnp.arange(size, dtype=jnp.int32)
        return jax.vmap(lambda sample: image_index(KEY, sample, jnp.int32(size)))(samples)

    return np.asarray(jax.jit(jax.vmap(shown))(jnp.arange(epochs, dtype=jnp.int32)))


def codes(found):
    """A number of each order."""
    return np.unique(found @ found.shape[1] ** np.arange(found.shape[1]), return_inverse=True)[1]


def test_every_small_size_is_a_permutation():
    for size in range(1, 301):
        found = np.asarray(places_of(jnp.int32(size), 300))[:size]
        assert np.array_equal(np.sort(found), np.arange(size)), size


@pytest.mark.parametrize("size", [4_095, 4_096, 99_991, 999_999, 1_000_000])
def test_large_sizes_are_permutations_that_look_shuffled(size):
    found = np.asarray(places_of(jnp.int32(size), 1_000_000 if size > 5_000 else 4_096))[:size]
    assert np.array_equal(np.sort(found), np.arange(size))
    steps = np.bincount(np.diff(found) % size * 64 // size, minlength=64)
    assert chisquare(steps).pvalue > 1e-3
    # So many stay, or stay beside their neighbour, as in a random shuffle: 1 and 2 are expected.
    assert np.sum(found == np.arange(size)) < 8 and np.sum(np.abs(np.diff(found)) == 1) < 12


def test_all_orders_of_five_images_come_equally_often():
    found = orders(240_000, 5)
    counts = np.bincount(codes(found))
    assert len(counts) == 120 and chisquare(counts).pvalue > 1e-3
    for place in range(5):
        assert chisquare(np.bincount(found[:, place])).pvalue > 1e-3


@pytest.mark.parametrize("size", [2, 3, 4])
def test_an_epoch_says_nothing_of_the_next(size):
    order = codes(orders(60_000, size))
    pairs = np.bincount(order[:-1] * (order.max() + 1) + order[1:])
    assert len(pairs) == (order.max() + 1) ** 2 and chisquare(pairs).pvalue > 1e-3


def test_the_bits_are_those_of_plain_integers():
    """Against Python's own integers, so of no device, backend or way of mapping."""
    size, mask = 1_000, 2**32 - 1
    drawn = np.asarray(jax.random.bits(KEY, (2, 32), jnp.uint32)).tolist()

    def mixed(bits):
        bits = (bits ^ bits >> 16) * 0x7FEB352D & mask
        bits = (bits ^ bits >> 15) * 0x846CA68B & mask
        return bits ^ bits >> 16

    def place_of(place):
        for pairing, salt in zip(*drawn, strict=True):
            other = (pairing - place) % size
            place = other if mixed(max(place, other) ^ salt) >> 31 else place
        return place

    found = np.asarray(places_of(jnp.int32(size), 4_096))[:size]
    assert found.tolist() == [place_of(place) for place in range(size)]


def test_slots_of_other_sizes_are_mapped_together():
    sizes = jnp.asarray([1, 5, 7, 1_000], jnp.int32)
    keys = jax.random.split(KEY, 4)
    together = jax.vmap(image_index, (0, None, 0))(keys, jnp.int32(4_321), sizes)
    alone = [int(image_index(key, jnp.int32(4_321), size)) for key, size in zip(keys, sizes, strict=True)]
    assert together.tolist() == alone


class Places:
    """A bucket of which only the number of places is looked at."""

    def __init__(self, count):
        self.places = np.int32(count)


def test_a_stretch_shows_every_image_as_often_as_its_places_say():
    """And so over many buckets of uneven sizes, with a batch that divides none of them."""
    counts, batch = (1, 37, 4, 100, 2), 3
    total, buckets = sum(counts), [Places(count) for count in counts]
    choose = jax.jit(jax.vmap(lambda step: bucket_of_step(KEY, step, buckets)))
    chosen, rounds = map(np.asarray, choose(jnp.arange(3 * total, dtype=jnp.int32)))
    orders = set()
    for stretch in range(3):
        here = slice(stretch * total, (stretch + 1) * total)
        assert np.bincount(chosen[here]).tolist() == list(counts)
        orders.add(chosen[here].tobytes())
        for bucket, count in enumerate(counts):
            its = rounds[here][chosen[here] == bucket]
            samples = (its[:, None] * batch + np.arange(batch)).ravel()
            key, size = jax.random.key(bucket), jnp.int32(count)
            shown = jax.vmap(lambda sample, key=key, size=size: image_index(key, sample, size))(samples)
            assert np.bincount(shown, minlength=count).tolist() == [batch] * count
    assert len(orders) == 3
