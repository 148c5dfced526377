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


def memories(monkeypatch, *, device, machine=64 * GIB):
    monkeypatch.setattr(encodings, "memory_of_device", lambda: device)
    monkeypatch.setattr(encodings, "memory_of_machine", lambda: machine)


def settled(params, images, class_images=None, *, flip_p=0.5, cache=None, streaming="auto"):
    encoder = Encoder(VAE, params, jnp.float32)
    return settle_encoding(encoder, images, class_images, flip_p=flip_p, cache=cache, streaming=streaming)


def test_a_small_set_goes_to_every_device(params, said, monkeypatch):
    memories(monkeypatch, device=4 * 12 * PICTURE)
    found = settled(params, images_of(4, 1), images_of(1))
    assert not found.streamed and not found.in_files
    assert said == ["12 encoded pictures (images and mirror images) take 24.0 KiB on each device"]
    assert found.shape(4, 16, 24) == (4, 2, 8, 12, 8)


@pytest.mark.parametrize(("flip_p", "sides", "kinds"), [(0.0, (0,), "images"), (1.0, (1,), "mirror images")])
def test_what_is_never_drawn_is_not_encoded(params, said, flip_p, sides, kinds):
    found = settled(params, images_of(5), flip_p=flip_p)
    assert found.sides == sides == sides_of(flip_p)
    assert said == [f"5 encoded pictures ({kinds}) take 10.0 KiB on each device"]


@pytest.mark.parametrize("masked", [False, True])
def test_more_than_a_quarter_of_a_device_is_streamed(params, said, monkeypatch, masked):
    need = 12 * PICTURE + masked * 12 * 8 * 8 * 4  # with the weights of the masks
    memories(monkeypatch, device=4 * need)
    assert not settled(params, images_of(6, masked=masked)).streamed
    memories(monkeypatch, device=4 * need - 1)
    found = settled(params, images_of(6, masked=masked))
    assert found.streamed and not found.in_files
    assert said[-1].endswith(" and stay in memory; each call sends what it needs")
    assert settled(params, images_of(1), streaming="always").streamed


def test_what_is_never_to_be_streamed_and_fits_on_no_device_is_refused(params, monkeypatch):
    memories(monkeypatch, device=12 * PICTURE)
    assert not settled(params, images_of(6), streaming="never").streamed
    memories(monkeypatch, device=12 * PICTURE - 1)
    with pytest.raises(
        DataError, match="^stream_latents never: expected .* found 12 encoded pictures .* 24.0 KiB"
    ):
        settled(params, images_of(6), streaming="never")


def test_what_exceeds_the_machine_stays_in_files_where_there_is_room(params, said, monkeypatch, tmp_path):
    images = images_of(6)
    memories(monkeypatch, device=PICTURE, machine=(12 * PICTURE + images.pixels.nbytes) * 4 // 3)
    assert not settled(params, images).in_files
    memories(monkeypatch, device=PICTURE, machine=(12 * PICTURE + images.pixels.nbytes) * 4 // 3 - 4)
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
    assert found.streamed and found.in_files and "stay in files" in said[-1]
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


def test_memory_of_devices(monkeypatch):
    Device = namedtuple("Device", "memory_stats")
    monkeypatch.setattr(encodings, "memory_of_machine", lambda: 8 * GIB)
    for stats, expected in (
        ([{"bytes_limit": 3 * GIB}, {"bytes_limit": 2 * GIB}], 2 * GIB),
        ([None, None, {}, None], 2 * GIB),
    ):
        devices = [Device(lambda stats=each: stats) for each in stats]
        monkeypatch.setattr(jax, "local_devices", lambda devices=devices: devices)
        assert encodings.memory_of_device() == expected


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
