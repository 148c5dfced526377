"""What the posteriors need is known, said and settled before anything is encoded."""

import shutil
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_vae import VAE, entries, random_pixels

from ti_flax.data import encoding as encodings
from ti_flax.data.encoding import settle_encoding, sides_of
from ti_flax.data.images.load import ImageGroup, TrainingImages
from ti_flax.data.latent_cache import LatentCache
from ti_flax.data.latents import Encoder
from ti_flax.data.posteriors import in_memory
from ti_flax.errors import ConfigError, DataError

PICTURE = 8 * 8 * 8 * 4  # bytes of a posterior
GIB = 2**30


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(encodings, "say", lines.append)
    return lines


def sizes_of(pixels):
    """Any: nothing of them is encoded."""
    return np.zeros((len(pixels), 2, 6), np.float32)


def images_of(*counts, masked=False):
    groups, first = [], 0
    for number, count in enumerate(counts):
        pixels = random_pixels(count, seed=number)
        masks = np.full(pixels.shape[:3], 255, np.uint8) if masked else None
        groups.append(ImageGroup(np.arange(first, first + count), pixels, sizes_of(pixels), masks))
        first += count
    return TrainingImages(tuple(groups), tuple(map(str, range(first))))


def memory(monkeypatch, machine):
    monkeypatch.setattr(encodings, "memory_of_machine", lambda: machine)


def settled(params, images, class_images=None, *, flip_p=0.5, cache=None):
    encoder = Encoder(VAE, params, jnp.float32)
    return settle_encoding(encoder, images, class_images, flip_p=flip_p, cache=cache)


def test_what_a_set_takes_is_said(params, said):
    found = settled(params, images_of(4, 1), images_of(1))
    assert not found.in_files
    assert said == ["12 encoded images and mirror images take 24.0 KiB of memory"]
    assert found.shape(4, 16, 24) == (4, 2, 8, 12, 8)


@pytest.mark.parametrize(("flip_p", "sides", "kinds"), [(0.0, (0,), "images"), (1.0, (1,), "mirror images")])
def test_what_is_never_drawn_is_not_encoded(params, said, flip_p, sides, kinds):
    found = settled(params, images_of(5), flip_p=flip_p)
    assert found.sides == sides == sides_of(flip_p)
    assert said == [f"5 encoded {kinds} take 10.0 KiB of memory"]


def test_masks_take_memory_too(params, said):
    settled(params, images_of(6, masked=True))
    assert said[-1].endswith(" take 27.0 KiB of memory")  # 24 of pictures, 3 of their loss weights


def test_what_exceeds_the_machine_stays_in_files_where_there_is_room(params, said, monkeypatch, tmp_path):
    images = images_of(6)
    memory(monkeypatch, (12 * PICTURE + images.pixels.nbytes) * 4 // 3)
    assert not settled(params, images).in_files
    memory(monkeypatch, (12 * PICTURE + images.pixels.nbytes) * 4 // 3 - 4)
    with pytest.raises(DataError, match="^latents_cache_dir: expected a folder of your own, .* 24.0 KiB"):
        settled(params, images)

    def free(amount):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(amount))

    cache = LatentCache(tmp_path, GIB)
    free(12 * PICTURE - 1)
    with pytest.raises(DataError, match=r"expected room for 24.0 KiB, .* found 24.0 KiB; 12 encoded"):
        settled(params, images, cache=cache)
    free(12 * PICTURE)
    found = settled(params, images, cache=cache)
    assert found.in_files and said[-1].endswith(" take 24.0 KiB of disk")
    in_memory(found.unencoded(images.groups[0], 0, images.names))
    assert len(entries(tmp_path)) == 12
    free(0)  # all are there
    assert settled(params, images, cache=cache).in_files


def test_nothing_is_encoded_to_know_it_and_wrong_sides_are_refused(params, monkeypatch):
    monkeypatch.setattr(Encoder, "encode", lambda *_: 1 / 0)
    settled(params, images_of(2))
    pixels = np.zeros((1, 17, 17, 3), np.uint8)
    odd = TrainingImages((ImageGroup(np.arange(1), pixels, sizes_of(pixels)),), ("a",))
    with pytest.raises(ConfigError, match="^resolution: expected a multiple of 2"):
        settled(params, odd)


def test_the_digest_follows_the_images_and_what_encodes_them(params):
    digests = [
        settled(params, images_of(2)).digest,
        settled(params, images_of(3)).digest,
        settled(jax.tree.map(lambda leaf: leaf * 2, params), images_of(2)).digest,
    ]
    assert len(set(digests)) == 3
    assert settled(params, images_of(2), flip_p=0).digest == digests[0]


def test_pixels_that_nobody_shows_are_let_go_of():
    images = images_of(3, 2)
    few = images.with_pixels_of(4)
    assert [group.indices.tolist() for group in few.groups] == [[0, 1, 2], [3]]
    assert few.names == images.names and few.groups[1].pixels.base is None
    for count in (1, 4):
        np.testing.assert_array_equal(
            np.stack(images.with_pixels_of(4).first(count)), np.stack(images.first(count))
        )
    assert images.with_pixels_of(0).groups == ()
