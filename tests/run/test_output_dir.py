"""Whole runs in folders that hold other things: nobody's files are deleted or replaced."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_run import configure, learned

from ti_flax.errors import DataError, OutputError
from ti_flax.files.written_files import LIST, only_run, written
from ti_flax.monitoring.sample_request import SampleRequest
from ti_flax.run import train as run
from ti_flax.training.checkpoint import checkpoint_steps
from ti_flax.training.loop import Hook

OTHERS = (
    "cat_images/1.jpeg",
    "holiday_images/1.jpeg",
    "learned_embeds_from_friend.pt",
    "validation/step-by-step-guide.png",
    "concept_images/mine.jpeg",
    "checkpoint-notes.txt",
    ".writable",
)


def fill(folder):
    for name in OTHERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def others_of(folder):
    return {name: (folder / name).read_text() for name in OTHERS if (folder / name).is_file()}


def test_a_run_lists_every_file_that_it_writes_and_starts_again_beside_others(place, tmp_path):
    """With everything on: previews, samples on request, evaluations, saves, the pipeline and the card."""

    class Ask(Hook):
        every = 1

        def on_step(self, step, state):
            if step == 1:
                SampleRequest(("a {} on a beach", "two {}"), 2).write(tmp_path / "out")

    changes = {
        "max_train_steps": 2,
        "only_save_embeds": False,
        "eval_steps": 1,
        "save_steps": 1,
        "validation_prompt": "a <thing>",
        "validation_steps": 1,
        "num_validation_images": 1,
    }
    folder = run.train(configure(place, tmp_path / "out", steps_per_call=1, **changes), hooks=[Ask()])
    with Image.open(folder / "validation" / "asked-1.png") as asked:
        assert json.loads(asked.text["prompts"]) == ["a {} on a beach", "two {}"]
        assert asked.text["step"] == "2" and asked.size[0] == asked.size[1]
    unasked = run.train(configure(place, tmp_path / "unasked", max_train_steps=2))
    np.testing.assert_array_equal(learned(folder), learned(unasked))
    visible = {name for name in contents(folder) if not name.startswith("checkpoint-")} - {LIST}
    assert written(folder) == visible and "unet/diffusion_flax_model.msgpack" in visible
    first = contents(folder)
    fill(folder)
    (folder / "checkpoint-2" / "notes.txt").write_text("the one to keep")
    run.train(configure(place, folder, max_train_steps=1, overwrite_output_dir=True, seed=8))
    assert others_of(folder) == {name: name for name in OTHERS}
    assert (folder / "checkpoint-2" / "notes.txt").read_text() == "the one to keep"
    assert not (folder / "unet").exists() and not list(folder.glob("validation/*-?.png"))
    assert contents(folder)["learned_embeds.bin"] != first["learned_embeds.bin"]
    assert checkpoint_steps(folder)[0] == 1


def test_a_card_that_somebody_has_edited_stays(place, tmp_path, capsys):
    class Edit(Hook):
        def on_step(self, step, state):
            (tmp_path / "README.md").write_text("written by hand")

    run.train(configure(place, tmp_path, max_train_steps=1), hooks=[Edit()])
    assert (tmp_path / "README.md").read_text() == "written by hand"
    assert "README.md has been edited, so it stays as it is" in capsys.readouterr().err


def test_no_other_run_can_be_in_a_runs_folder_and_it_leaves_none_behind_that_was_refused(place, tmp_path):
    busy = []

    class Second(Hook):
        def on_start(self, step, state):
            with pytest.raises(OutputError) as caught, only_run(tmp_path / "out"):
                pass
            busy.append(str(caught.value))

    run.train(configure(place, tmp_path / "out", max_train_steps=1), hooks=[Second()])
    assert "expected no other run at work in it, found process" in busy[0]
    with only_run(tmp_path / "out"), pytest.raises(OutputError, match="no other run at work"):
        run.train(configure(place, tmp_path / "out", overwrite_output_dir=True))
    with pytest.raises(DataError):
        run.train(configure(place, tmp_path / "new" / "deep", train_data_dir=str(place / "model" / "vae")))
    assert not (tmp_path / "new" / "deep").exists()


def test_a_run_between_its_own_images_is_refused_before_anything_is_written(place):
    before = contents(place / "pictures")
    for output in (place / "pictures", place / "pictures" / "out"):
        with pytest.raises(OutputError, match="Results would become training images"):
            run.train(configure(place, output, overwrite_output_dir=True))
    assert contents(place / "pictures") == before and not (place / "pictures" / "out").exists()
