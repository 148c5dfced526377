"""Folders that appear whole or not at all, and that know when they no longer are."""

import shutil
import subprocess
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ti_flax.files.atomic_folders import (
    SUMS,
    atomic_files,
    atomic_folder,
    damage,
    remove_folder,
    tidy,
)

FILES = {"a.json": b'{"step": 5}', "state/d/part": bytes(range(200)), "state/empty": b""}


def fill(folder, files=FILES):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write(folder, files=FILES):
    with atomic_folder(folder) as unfinished:
        fill(unfinished, files)
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_it_has_its_name_only_when_it_is_whole_and_sha256sum_says_so(tmp_path):
    folder = tmp_path / "checkpoint-5"
    with atomic_folder(folder) as unfinished:
        fill(unfinished)
        assert not folder.exists()
    assert damage(folder) == "" and [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    checked = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout.count("OK") == len(FILES)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_goes_wrong_leaves_what_was_there(tmp_path, error):
    folder = write(tmp_path / "checkpoint-5")
    before = contents(folder)
    with pytest.raises(type(error)), atomic_folder(folder) as unfinished:
        fill(unfinished, {"a.json": b"new"})
        unfinished.with_name(f"{unfinished.name}.of-a-library").mkdir()
        raise error
    assert contents(folder) == before and [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_what_a_library_writes_late_is_removed_too(tmp_path):
    def late(folder):
        time.sleep(0.1)
        fill(folder)

    with pytest.raises(OSError), atomic_folder(tmp_path / "checkpoint-5") as unfinished:
        thread = threading.Thread(target=late, args=[unfinished.with_name(f"{unfinished.name}.library")])
        thread.start()
        raise OSError(28, "No space left on device")
    thread.join()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "gone" / "checkpoint-5")
    assert not (tmp_path / "gone").exists()


def test_another_of_the_same_name_takes_its_place(tmp_path):
    write(tmp_path / "checkpoint-5")
    write(tmp_path / "checkpoint-5", {"b.json": b"2"})
    assert contents(tmp_path / "checkpoint-5").keys() == {"b.json", SUMS}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


DAMAGES = {
    "cut": lambda folder: (folder / "state/d/part").write_bytes(bytes(range(100))),
    "emptied": lambda folder: (folder / "a.json").write_bytes(b""),
    "missing": lambda folder: (folder / "state/empty").unlink(),
    "added": lambda folder: (folder / "state/d/other").write_bytes(b"1"),
    "without sums": lambda folder: (folder / SUMS).unlink(),
    "sums emptied": lambda folder: (folder / SUMS).write_bytes(b""),
    "sums cut": lambda folder: (folder / SUMS).write_bytes((folder / SUMS).read_bytes()[:100]),
    "sums a line short": lambda folder: (folder / SUMS).write_text(
        "".join((folder / SUMS).read_text().splitlines(keepends=True)[:-1])
    ),
    "sums of bytes": lambda folder: (folder / SUMS).write_bytes(b"\xff\xfe"),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_every_damage_is_found(tmp_path, how):
    folder = write(tmp_path / "checkpoint-5")
    DAMAGES[how](folder)
    assert damage(folder)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.sampled_from(["a.json", "state/d/part", SUMS]), st.integers(0, 10**6), st.integers(0, 7))
def test_every_flipped_bit_is_found(tmp_path_factory, name, place, bit):
    folder = write(tmp_path_factory.mktemp("flip") / "checkpoint-5")
    content = bytearray((folder / name).read_bytes())
    content[place % len(content)] ^= 1 << bit
    (folder / name).write_bytes(content)
    assert damage(folder)


def test_files_of_other_programs_do_not_count(tmp_path):
    folder = write(tmp_path / "checkpoint-5")
    fill(folder, {".DS_Store": b"1", ".cache/huggingface/x.lock": b""})
    assert damage(folder) == ""


def test_what_a_kill_left_is_tidied_and_what_was_being_replaced_comes_back(tmp_path):
    write(tmp_path / "checkpoint-4").rename(tmp_path / ".replaced-checkpoint-4")
    write(tmp_path / "checkpoint-6")
    write(tmp_path / "checkpoint-5").rename(tmp_path / ".replaced-checkpoint-6")
    (tmp_path / ".removed-0123456789abcdef").mkdir()
    (tmp_path / ".unfinished-0123456789abcdef.orbax").mkdir()
    (tmp_path / ".unfinished-fedcba9876543210").write_bytes(b"1")
    others = {".other", ".removed-by-me", ".unfinished-novel"}
    for name in others:
        (tmp_path / name).write_bytes(b"1")
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-6", *others}
    assert damage(tmp_path / "checkpoint-4") == damage(tmp_path / "checkpoint-6") == ""


def test_files_that_came_into_a_folder_later_outlive_it(tmp_path):
    secret = tmp_path / "elsewhere.txt"
    secret.write_text("mine")
    folder = write(tmp_path / "checkpoint-5")
    (folder / "notes.txt").write_text("the one to keep")
    (folder / "state" / "d" / "link").symlink_to(secret)
    assert not remove_folder(folder)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    assert left == {"notes.txt", "state/d/link"} and secret.read_text() == "mine"
    assert not remove_folder(folder) and (folder / "notes.txt").exists()  # without digests it is nobody's


def test_a_folder_that_takes_a_place_leaves_what_was_added_there(tmp_path):
    folder = write(tmp_path / "checkpoint-5")
    (folder / "notes.txt").write_text("the one to keep")
    write(tmp_path / "checkpoint-5", {"b.json": b"2"})
    assert contents(folder).keys() == {"b.json", SUMS}
    (kept,) = tmp_path.glob("checkpoint-5-kept-*")
    assert contents(kept) == {"notes.txt": b"the one to keep"}


def test_a_hostile_list_of_digests_deletes_nothing_elsewhere(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "run").mkdir()
    folder = write(tmp_path / "run" / "checkpoint-5")
    (folder / "notes.txt").write_text("so that files are deleted one by one")
    with (folder / SUMS).open("a") as file:
        file.write(f"{'0' * 64}  ../../mine.txt\n{'0' * 64}  {mine}\n")
    remove_folder(folder)
    assert mine.read_text() == "mine"


def test_a_removed_folder_is_gone_even_when_removing_it_was_cut_short(tmp_path, monkeypatch):
    folder = write(tmp_path / "checkpoint-5")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        remove_folder(folder)
    assert not folder.exists()
    remove_folder(folder)  # is no error
    tidy(tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_written_together_change_nothing_until_all_are_there(tmp_path):
    earlier = {"index.json": b"old", "unet/weights": b"old", "unet/other": b"of others"}
    fill(tmp_path, earlier)
    with pytest.raises(OSError), atomic_files(tmp_path, last="index.json") as folder:
        fill(folder, {"unet/weights": b"new"})
        assert contents(tmp_path)["unet/weights"] == b"old"
        raise OSError(28, "No space left on device")
    assert contents(tmp_path) == earlier
    with atomic_files(tmp_path, last="index.json") as folder:
        fill(folder, {"index.json": b"new", "unet/weights": b"new", "vae/weights": b"new"})
    expected = {
        "index.json": b"new",
        "unet/weights": b"new",
        "unet/other": b"of others",
        "vae/weights": b"new",
    }
    assert contents(tmp_path) == expected


def test_the_file_that_tells_of_the_others_is_missing_while_they_move(tmp_path, monkeypatch):
    from pathlib import Path

    fill(tmp_path, {"index.json": b"old", "a": b"old", "b": b"old"})
    moved, replace = [], Path.replace

    def watched(path, target):
        moved.append(path.name)
        assert not (tmp_path / "index.json").exists()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    with atomic_files(tmp_path, last="index.json") as folder:
        fill(folder, {"index.json": b"new", "a": b"new", "z": b"new"})
    assert moved[-1] == "index.json" and len(moved) == 3
