"""A real small disk that is full, read-only or gone: what was there before stays.

Each test runs in a process of its own that mounts a small tmpfs where nobody else sees it.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALONE = ["unshare", "--map-root-user", "--mount"]


def on_a_small_disk(name, *arguments):
    """Runs a function of this file with a folder, for it to mount a disk on, and more arguments."""
    probe = subprocess.run([*ALONE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no disk can be mounted here: {probe.stderr.strip()}")
    code = f"import test_full_disk as t; t.{name}(*{[str(argument) for argument in arguments]!r})"
    paths = [
        ROOT / "tests/run",
        ROOT / "tests/support",
        ROOT,
        ROOT / "demo",
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [*ALONE, sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def mount(place, size):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)


def fill(place, leave=0):
    """Fills a disk but for so many bytes; returns the file that does it."""
    filler = Path(place) / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return filler


def sums(folder, leave_out=()):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name not in leave_out
    }


def refused(error, action):
    with pytest.raises(error) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def checkpoints(disk):
    from made_checkpoint import make_checkpoint

    from ti_flax.errors import CheckpointError
    from ti_flax.training.checkpoint import load_newest, save_checkpoint

    disk = Path(disk)
    mount(disk, "1m")
    save_checkpoint(disk, make_checkpoint(1))
    before = sums(disk)
    for leave in (0, 4096, 8192, 12288):
        filler = fill(disk, leave)
        said = refused(CheckpointError, lambda: save_checkpoint(disk, make_checkpoint(2)))
        assert "found no space left on device" in said and "earlier checkpoints are untouched" in said
        same_step = refused(CheckpointError, lambda: save_checkpoint(disk, make_checkpoint(1)))
        assert "no space left" in same_step
        filler.unlink()
        assert sums(disk) == before, (leave, sorted(sums(disk).keys() ^ before.keys()))
        assert not list(disk.glob(".*"))
    assert load_newest(disk)[0].step == 1
    save_checkpoint(disk, make_checkpoint(2))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    said = refused(CheckpointError, lambda: save_checkpoint(disk, make_checkpoint(3)))
    assert "Read-only file system" in said
    assert load_newest(disk)[0].step == 2


def exports(disk, model):
    import numpy as np
    from exported import export

    from ti_flax.embedding.learned_embeds import save_learned_embeds
    from ti_flax.errors import OutputError

    disk, model = Path(disk), Path(model)
    mount(disk, "64m")
    export(model, disk, vectors=1)
    for suffix in (".safetensors", ".bin"):
        save_learned_embeds(disk / f"learned_embeds{suffix}", "<old>", np.ones((1, 8), np.float32))
    before = sums(disk)
    for leave in (0, 50_000, 400_000):
        filler = fill(disk, leave)
        said = refused(OutputError, lambda: export(model, disk, vectors=2))
        assert "expected room for the whole pipeline" in said and "No space left on device" in said
        filler.unlink()
        assert sums(disk) == before, (leave, sorted(sums(disk).keys() ^ before.keys()))
    filler = fill(disk)
    for suffix in (".safetensors", ".bin"):
        path = disk / f"learned_embeds{suffix}"
        rows = np.zeros((1, 8), np.float32)
        said = refused(OutputError, lambda path=path, rows=rows: save_learned_embeds(path, "<new>", rows))
        assert "No space left on device" in said
    filler.unlink()
    assert sums(disk) == before
    export(model, disk, vectors=2)
    assert sums(disk) != before


def training(disk, place):
    from shared_programs import share_programs
    from tiny_run import configure, learned

    from ti_flax.errors import CheckpointError, OutputError
    from ti_flax.run import train as run
    from ti_flax.training.checkpoint import load_newest
    from ti_flax.training.loop import Hook

    share_programs()  # as in the process of the other tests
    disk, place = Path(disk), Path(place)
    mount(disk, "64m")
    whole = learned(run.train(configure(place, place / "whole")))
    config = configure(place, disk / "run", resume_from_checkpoint="auto")

    class FillTheDisk(Hook):
        def __init__(self, every):
            self.every = every

        def on_step(self, step, state):
            fill(disk)

    said = refused(CheckpointError, lambda: run.train(config, hooks=[FillTheDisk(3)]))
    assert "checkpoint-4: " in said and "no space left on device" in said
    (disk / "filler").unlink()
    assert load_newest(disk / "run")[0].step == 2
    # After the last checkpoint, so that there is no room for the result.
    said = refused(OutputError, lambda: run.train(config, hooks=[FillTheDisk(6)]))
    assert "no space left on device" in said.lower()
    (disk / "filler").unlink()
    assert load_newest(disk / "run")[0].step == 6
    assert learned(run.train(config)).tobytes() == whole.tobytes()


def test_a_full_or_read_only_disk_leaves_the_checkpoints_before_as_they_were(tmp_path):
    on_a_small_disk("checkpoints", tmp_path)


def test_a_full_disk_leaves_an_earlier_export_as_it_was(tmp_path, place):
    on_a_small_disk("exports", tmp_path, place / "model")


def test_a_run_whose_disk_was_full_ends_with_the_same_bits_when_there_is_room_again(tmp_path, place):
    on_a_small_disk("training", tmp_path, place)
