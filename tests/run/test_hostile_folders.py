"""Output folders that hold what is the user's, or another run's."""

import os
import re

import pytest
from hostile_cases import Case, check, place, train, written

from ti_flax.files.written_files import only_run, record


def beside(*names, told=(), **changes):
    """A run in a folder that has these files of the user's, which are there afterwards."""

    def make(folder):
        for name in names:
            written(folder / "output" / name, f"the user's {name}")
        command = train(folder, *told, **changes)

        def run():
            code = command()
            assert all((folder / "output" / name).read_text() == f"the user's {name}" for name in names)
            return code

        return run

    return make


def at(path):
    return lambda folder: train(folder, "--overwrite_output_dir=false", output_dir=path)


def between_images(inside):
    def make(folder):
        written(folder / "images" / "1.png", b"")
        return train(
            folder, OVERWRITE, train_data_dir=folder / "images", output_dir=folder / "images" / inside
        )

    return make


def reading_its_own(option, name):
    """A run that reads what an earlier one left in its output folder, and that it would write over."""

    def make(folder):
        output = folder / "output"
        output.mkdir()
        with only_run(output):
            record(output, name)
        written(output / name, "learned before")
        start = {"initializer_token": None} if option == "init_embeds" else {}
        return train(folder, OVERWRITE, **{option: output / name}, **start)

    return make


def busy(folder):
    (folder / "output").mkdir()
    command = train(folder)

    def run():
        with only_run(folder / "output"):
            return command()

    return run


def under_a_file(folder):
    written(folder / "file", "mine")
    return train(folder, output_dir=folder / "file" / "output")


def dangling(folder):
    os.symlink(folder / "gone", folder / "output")
    return train(folder)


OVERWRITE = "--overwrite_output_dir"
HOME = os.path.expanduser("~")
CASES = [
    Case("project", "an output_dir with other files in it", beside("main.py", "notes.md")),
    Case("root", "`/`", at("/")),
    Case("home", "the home folder", at(HOME), loose=re.escape(HOME)),
    Case("here", "the folder that the program was started in", at(".")),
    Case("above", "the folder above it", at("..")),
    Case(
        "card", "a README.md of the user's, and overwrite_output_dir", beside("README.md", told=[OVERWRITE])
    ),
    Case(
        "friend",
        "an embedding of somebody else's by a name that a run writes",
        beside("learned_embeds.bin", "learned_embeds_from_friend.pt", told=[OVERWRITE]),
    ),
    Case(
        "preview",
        "an image of the user's among the previews",
        beside("validation/step-3.png", told=[OVERWRITE]),
    ),
    Case(
        "checkpoint",
        "a checkpoint of diffusers' script",
        beside("checkpoint-500/scheduler.bin", told=[OVERWRITE]),
    ),
    Case(
        "model",
        "the folder of somebody's model",
        beside("model_index.json", "unet/config.json", told=[OVERWRITE], only_save_embeds=False),
    ),
    Case("list", "a written_files.txt of another program", beside("written_files.txt", told=[OVERWRITE])),
    Case("images", "the folder of the images", between_images("")),
    Case("inside", "a folder between the images", between_images("results")),
    Case(
        "start", "a start that the run would write over", reading_its_own("init_embeds", "learned_embeds.bin")
    ),
    Case(
        "base",
        "a base model that the run would write over",
        reading_its_own("tokenizer_name", "tokenizer/vocab.json"),
    ),
    Case("busy", "a folder that another run writes to", busy, loose=r"process \d+ on \S+, [0-9: +-]+"),
    Case("under", "an output_dir below a file", under_a_file),
    Case("dangling", "a link to a folder that is gone", dangling),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    assert place()
    check(case, tmp_path, "test_hostile_folders")
