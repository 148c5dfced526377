"""The list of what runs wrote, what is deleted by it, and the lock on it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ti_flax.errors import OutputError
from ti_flax.files.written_files import (
    LIST,
    can_be_written,
    delete_written,
    is_list,
    only_run,
    record,
    written,
)

ROOT = Path(__file__).resolve().parents[2]
OTHERS = (
    "holiday_images/1.jpeg",
    "cat_images/2.png",
    "learned_embeds_from_friend.pt",
    "learned_embeds_3.safetensors",
    "validation/step-by-step.png",
)


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {LIST}


def test_only_what_is_listed_is_deleted_and_folders_that_are_empty_then(tmp_path):
    ours = ("metrics.csv", "validation/step-0.png", "unet/config.json", "concept_images/0.jpeg")
    unlisted = ("learned_embeds.bin", "concept_images/1.jpeg", "unet/config.yaml")
    with only_run(tmp_path):
        record(tmp_path, *ours)
        fill(tmp_path, *ours, *unlisted, *OTHERS)
        delete_written(tmp_path)
        assert files(tmp_path) == {*unlisted, *OTHERS}
        assert written(tmp_path) == set() and is_list(tmp_path)
        (tmp_path / "unet/config.yaml").unlink()
        record(tmp_path, "unet/a/b.json")
        fill(tmp_path, "unet/a/b.json")
        delete_written(tmp_path)
    assert not (tmp_path / "unet").exists() and files(tmp_path) == {*unlisted[:2], *OTHERS}


@pytest.mark.parametrize("word", ["my-cat.safetensors", "Katze_2.safetensors"])
def test_the_file_named_by_a_word_is_a_runs_where_it_is_listed(tmp_path, word):
    """Nothing of that name is in the way of a run with another word."""
    names = (
        "learned_embeds_2.bin",
        "learned_embeds_2-best.safetensors",
        "learned_embeds_2-steps-5.safetensors",
    )
    assert all(map(can_be_written, names)) and not can_be_written(word)
    assert can_be_written(word, word_file=word) and not can_be_written(word, word_file="cat.safetensors")
    with only_run(tmp_path):
        record(tmp_path, *names, word)
        fill(tmp_path, *names, word, "other-cat.safetensors")
        delete_written(tmp_path)
    assert files(tmp_path) == {"other-cat.safetensors"}


@pytest.mark.parametrize("name", ["text_encoder_2/config.json", "tokenizer_2/vocab.json"])
def test_parts_of_an_sdxl_pipeline_are_a_runs(tmp_path, name):
    with only_run(tmp_path):
        record(tmp_path, name)
        fill(tmp_path, name)
        assert can_be_written(name) and not can_be_written(name, pipeline=False)
        delete_written(tmp_path)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", [*OTHERS, "main.py", ".bashrc", "checkpoint-5/notes.txt", "unet", LIST])
def test_a_list_that_names_what_no_run_writes_deletes_nothing(tmp_path, name):
    with only_run(tmp_path):
        record(tmp_path, name)
    if name not in ("unet", LIST):
        fill(tmp_path, name)
    assert not can_be_written(name) and written(tmp_path) == set()


@pytest.mark.parametrize(
    "name", ["unet/../../mine.txt", "{absolute}", "unet/../mine.txt", "vae/a/../../../mine.txt"]
)
def test_a_hostile_list_deletes_nothing_elsewhere(tmp_path, name):
    fill(tmp_path, "mine.txt", "run/unet/config.json", "run/mine.txt", "run/vae/a/b")
    folder = tmp_path / "run"
    with only_run(folder):
        record(folder, name.format(absolute=tmp_path / "mine.txt"))
        delete_written(folder)
    assert {"mine.txt", "run/mine.txt"} <= files(tmp_path)


def test_what_lies_behind_a_link_is_not_deleted_and_a_link_is_deleted_as_one(tmp_path):
    fill(tmp_path, "elsewhere/config.json", "secret.txt")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "unet").symlink_to(tmp_path / "elsewhere")
    (folder / "metrics.csv").symlink_to(tmp_path / "secret.txt")
    with only_run(folder):
        record(folder, "unet/config.json", "metrics.csv")
        delete_written(folder)
    assert files(tmp_path) >= {"elsewhere/config.json", "secret.txt"}
    assert not os.path.lexists(folder / "metrics.csv") and (folder / "unet").is_symlink()


def test_without_a_list_nothing_is_recorded(tmp_path):
    record(tmp_path, "metrics.csv")
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from ti_flax.files.written_files import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_gone_however_it_ended(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError) as caught, only_run(tmp_path):
            pass
        holder.kill()
    expected = (
        rf"no other run at work in it, found process {holder.pid} on \S+, \d{{4}}-\d\d-\d\d \S+. Wait until"
    )
    assert re.search(expected, str(caught.value))
    with only_run(tmp_path):
        pass
    text = (tmp_path / LIST).read_text()
    assert text.count("# run of process") == 2 and text.startswith("# Files that ti_flax wrote")


def test_a_list_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LIST).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError), only_run(folder):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_list_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with only_run(tmp_path):
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="a folder that can be written, found no space left on device"):
            record(tmp_path, "metrics.csv")


def test_where_files_cannot_be_locked_the_user_is_told(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_run(tmp_path) as note:
        record(tmp_path, "metrics.csv")
    assert "cannot be locked (Operation not supported)" in note
    assert Path(tmp_path / LIST).read_text().endswith(f"{'-' * 64}  metrics.csv\n")
