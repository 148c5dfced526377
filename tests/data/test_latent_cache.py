"""The cache is never trusted blindly, stays within its limit, and takes nothing from a run that goes on."""

import fcntl
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_vae import ENTRY, Counted, encode, entries, never, random_pixels

from ti_flax.data import latent_cache
from ti_flax.data.latent_cache import LatentCache
from ti_flax.errors import DataError

KEYS = [f"{number:02x}" + 62 * "0" for number in range(40)]
SHAPE = (2, 2, 8)
SIZE = 32 + 2 * 2 * 8 * 4


def kept(folder, numbers, limit=2**30, values=None):
    cache = LatentCache(folder, limit)
    for number in numbers:
        assert cache.write(KEYS[number], np.full(SHAPE, number if values is None else values, np.float32))
    return cache


def numbers_in(folder):
    return [int(path.parent.name, 16) for path in entries(folder)]


def last_used(folder, number, seconds):
    path = folder / "latents" / KEYS[number][:2] / KEYS[number][2:]
    os.utime(path, (time.time() - seconds,) * 2)


def test_what_is_written_is_read_and_lies_in_subfolders(tmp_path):
    numbers = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    cache = LatentCache(tmp_path, 2**30)
    assert cache.read(KEYS[7], SHAPE) is None and cache.lacks(KEYS[7])
    assert cache.write(KEYS[7], numbers) and not cache.lacks(KEYS[7])
    np.testing.assert_array_equal(cache.read(KEYS[7], SHAPE), numbers)
    assert [str(path.relative_to(tmp_path)) for path in entries(tmp_path)] == ["latents/07/" + 62 * "0"]
    assert entries(tmp_path)[0].stat().st_size == SIZE


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def with_checksum(path, numbers):
    key = path.parent.name + path.name
    path.write_bytes(latent_cache._digest(key, numbers.tobytes()) + numbers.tobytes())


def replaced(path, make):
    path.unlink()
    make(path)


def grown(path):
    with path.open("ab") as file:
        file.truncate(2**40)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "one bit": flip_a_byte,
    "zeros": lambda path: path.write_bytes(bytes(ENTRY)),
    "another file": lambda path: path.write_bytes(b"a text"),
    "another picture's": lambda path: path.write_bytes(entries(path.parents[2])[-1].read_bytes()),
    "another shape": lambda path: with_checksum(path, np.zeros((8, 8, 4), np.float32)),
    "not finite": lambda path: with_checksum(path, np.full((8, 8, 8), np.nan, np.float32)),
    "a terabyte of nothing": grown,
    "a pipe": lambda path: replaced(path, os.mkfifo),
    "a device": lambda path: replaced(path, lambda place: place.symlink_to("/dev/zero")),
    "a link to itself": lambda path: replaced(path, lambda place: place.symlink_to(place.name)),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_entry_costs_nothing_but_its_picture(params, pixels, tmp_path, warned, damage):
    expected, counted = encode(params, pixels, folder=tmp_path), Counted()
    path = entries(tmp_path)[0]
    DAMAGES[damage](path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = encode(params, pixels, folder=tmp_path, progress=counted)
    np.testing.assert_array_equal(found, expected)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB
    (message,) = warned()
    assert "computed again" in message and "\n" not in message
    assert counted.pictures == [1] and path.stat().st_size == ENTRY and not path.is_symlink()
    encode(params, pixels, folder=tmp_path, progress=never)
    assert warned() == []


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_damaged_entry_is_gone_even_if_nothing_can_be_written(
    params, pixels, tmp_path, monkeypatch, warned
):
    encode(params, pixels, folder=tmp_path)
    path = entries(tmp_path)[0]
    path.write_bytes(b"a text")
    monkeypatch.setattr(latent_cache, "atomic_write", full)
    encode(params, pixels, folder=tmp_path)
    assert len(warned()) == 2 and not path.exists()


def test_a_folder_that_cannot_be_written_is_said_once(params, pixels, tmp_path, warned):
    (tmp_path / "file").touch()
    np.testing.assert_array_equal(encode(params, pixels, folder=tmp_path / "file"), encode(params, pixels))
    (message,) = warned()
    assert message.startswith("Latents are not cached")


def test_an_interrupted_write_leaves_nothing(params, pixels, tmp_path, monkeypatch):
    class Interrupted(bytes):
        def __add__(self, other):
            raise KeyboardInterrupt

    monkeypatch.setattr(latent_cache, "_digest", lambda *_: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        encode(params, pixels, folder=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.parent.name not in ("latents", tmp_path.name)] == []


def test_what_was_used_longest_ago_gives_way(tmp_path):
    cache = kept(tmp_path, range(20), limit=20 * SIZE)
    order = np.random.default_rng(3).permutation(20).tolist()  # longest ago first
    for age, number in enumerate(order):
        last_used(tmp_path, number, 500 - age)
    cache.make_room(0)
    assert numbers_in(tmp_path) == list(range(20))
    cache.read(KEYS[order[2]], SHAPE)
    cache.make_room(9 * SIZE - 1)
    assert numbers_in(tmp_path) == sorted([order[2], *order[10:]])


def test_encoding_makes_room_for_itself_and_keeps_what_it_uses(params, tmp_path):
    pixels = random_pixels(6)
    encode(params, pixels[:2], folder=tmp_path)
    for path in entries(tmp_path):
        os.utime(path, (1, 1))
    encode(params, pixels[2:4], folder=tmp_path, limit=6 * ENTRY)
    assert len(entries(tmp_path)) == 6
    encode(params, pixels[1:], folder=tmp_path, limit=6 * ENTRY)  # more than the limit: what it uses stays
    assert len(entries(tmp_path)) == 10
    encode(params, pixels[1:], folder=tmp_path, progress=never)


def test_other_files_stay_and_sets_that_0_1_0_kept_give_way_as_well(tmp_path):
    others = [tmp_path / "picture.png", tmp_path / "latents" / "07" / "mine", tmp_path / "a.npz"]
    cache = kept(tmp_path, range(8))
    old = tmp_path / f"{64 * 'a'}.npz"
    for path in (*others, old):
        path.write_bytes(bytes(10**6))
        os.utime(path, (1, 1))
    left = tmp_path / "latents" / "07" / (".unfinished-" + 16 * "0")
    new = tmp_path / "latents" / "07" / (".unfinished-" + 16 * "1")
    for path, age in ((left, 2 * 24 * 3600), (new, 60)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    cache._limit = 8 * SIZE
    cache.make_room(0)
    assert not old.exists() and all(path.exists() for path in others)
    assert numbers_in(tmp_path)[:7] == list(range(7)) and not left.exists() and new.exists()


OTHER = """
import sys, time
from pathlib import Path
from ti_flax.data.latent_cache import LatentCache
cache = LatentCache(Path(sys.argv[1]), 10**9)
cache.claim(sys.argv[2:])
print("claimed", flush=True)
time.sleep(60)
"""


def test_what_another_running_process_uses_stays_until_it_ends(tmp_path):
    cache = kept(tmp_path, range(4))
    cache._limit = 0
    command = [sys.executable, "-c", OTHER, str(tmp_path), KEYS[1], KEYS[3]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout.readline() == "claimed\n"
        cache.make_room(0)
        assert numbers_in(tmp_path) == [1, 3]
        other.kill()
    cache.make_room(0)
    assert numbers_in(tmp_path) == [] and list((tmp_path / "latents" / "in-use").iterdir()) == []


def test_a_claim_ends_with_its_cache(tmp_path):
    kept(tmp_path, range(2))
    first, second = LatentCache(tmp_path, 0), LatentCache(tmp_path, 0)
    first.claim(KEYS[:1])
    second.make_room(0)
    assert numbers_in(tmp_path) == [0]
    first.make_room(0)
    assert numbers_in(tmp_path) == [0]
    del first
    second.make_room(0)
    assert numbers_in(tmp_path) == []


WRITER = """
import sys
from pathlib import Path
import numpy as np
from ti_flax.data.latent_cache import LatentCache
keys, shape = [f"{n:02x}" + 62 * "0" for n in range(40)], (2, 2, 8)
for round in range(40):
    cache = LatentCache(Path(sys.argv[1]), int(sys.argv[2]))
    mine = np.random.default_rng(round + int(sys.argv[3])).permutation(40)[:20]
    cache.claim([keys[n] for n in mine])
    for n in mine:
        if cache.read(keys[n], shape) is None:
            cache.make_room(160)
            assert cache.write(keys[n], np.full(shape, n, np.float32))
    for n in mine:
        found = cache.read(keys[n], shape)
        assert found is not None and (found == n).all(), n
"""


def test_processes_that_write_read_and_evict_at_once_never_lose_what_they_use(tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path), str(10 * SIZE), str(seed)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for seed in (0, 1000, 2000)
    ]
    for process in running:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0 and "damaged" not in errors, errors
    LatentCache(tmp_path, 10 * SIZE).make_room(0)
    assert len(numbers_in(tmp_path)) == 10


def test_a_file_system_without_locks_is_used_all_the_same(tmp_path, monkeypatch, params, pixels):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    encode(params, pixels, folder=tmp_path, limit=0)
    encode(params, pixels, folder=tmp_path, progress=never)


def test_the_folders_of_a_team_stay_those_of_the_team(tmp_path):
    tmp_path.chmod(0o2775)
    kept(tmp_path, [3])
    assert {path.stat().st_mode & 0o7777 for path in (tmp_path / "latents", tmp_path / "latents" / "03")} == {
        0o2775
    }


def test_what_stays_in_files_is_read_where_it_is_asked_for(params, pixels, tmp_path):
    expected = encode(params, pixels)
    found = encode(params, pixels, folder=tmp_path, in_files=True)
    assert found.shape == expected.shape and len(found) == 3 and found.dtype == np.float32
    images, sides = np.array([2, 0, 2, 1]), np.array([1, 0, 0, 1])
    np.testing.assert_array_equal(found[images, sides], expected[images, sides])
    LatentCache(tmp_path, 0).make_room(0)
    assert len(entries(tmp_path)) == 6
    again = encode(params, pixels, folder=tmp_path, in_files=True, progress=never)
    for path in entries(tmp_path):
        path.unlink()
    with pytest.raises(DataError, match="gone or damaged.*resume_from_checkpoint auto"):
        again[images, sides]


def test_what_has_to_stay_in_files_and_cannot_is_an_error(params, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(latent_cache, "atomic_write", full)
    with pytest.raises(DataError, match=rf"^latents_cache_dir {tmp_path}: expected room for the encoded"):
        encode(params, pixels, folder=tmp_path, in_files=True)
