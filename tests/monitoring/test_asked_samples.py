"""Samples that somebody asks a run for: the file that asks, and what the run does with it."""

import json

import numpy as np
import pytest
from PIL import Image
from row_trees import only, tree

from ti_flax.errors import DataError
from ti_flax.monitoring.asked_samples import AskedSamples, asked_files
from ti_flax.monitoring.hooks import NonFatalHook
from ti_flax.monitoring.sample_request import FILE, SampleRequest, read_request
from ti_flax.run.many.turns import Fate, Guarded
from ti_flax.training.loop import Chunk, Hook, Seat

SIDE = 8


class Drawn:
    """Stands in for the sampler: red is the row's number, green the prompt, blue the seed."""

    def __init__(self):
        self.asked = []

    def __call__(self, request, rows, shown):
        self.asked.append((request.prompts, float(only(rows)[0, 0])))
        made = np.zeros((len(request.prompts), request.images, SIDE, SIDE, 3), np.uint8)
        made[..., 0] = round(float(only(rows)[0, 0]))
        made[..., 1] = np.arange(len(request.prompts))[:, None, None, None]
        made[..., 2] = np.arange(request.images)[:, None, None]
        shown.advance(len(request.prompts) * request.images)
        return made


def hook(folder, draw, **changes):
    given = {"draw": draw, "result": lambda step: tree(np.full((1, 4), step, np.float32))}
    return AskedSamples(folder, **given | changes)


def test_what_is_asked_for_is_drawn_once_at_the_end_of_a_chunk(tmp_path, capsys):
    draw = Drawn()
    made = hook(tmp_path, draw)
    made.on_metrics(None)
    assert not made.wants_state
    SampleRequest(("a {} hat", "two {}"), 3).write(tmp_path)
    made.on_metrics(None)
    assert made.wants_state and not (tmp_path / FILE).exists()
    made.on_step(40, 40)
    made.on_metrics(None)
    assert not made.wants_state and draw.asked == [(("a {} hat", "two {}"), 40.0)]
    with Image.open(tmp_path / "validation" / "asked-1.png") as image:
        texts, pixels = image.text, np.asarray(image)
    assert json.loads(texts["prompts"]) == ["a {} hat", "two {}"] and texts["step"] == "40"
    assert pixels.shape == (2 * SIDE, 3 * SIDE, 3)
    np.testing.assert_array_equal(pixels[SIDE, 2 * SIDE], [40, 1, 2])
    said = capsys.readouterr().err
    assert said.count("drawn as asked for, with the vectors of step 40: ") == 1


def test_updates_go_on_until_the_program_of_the_previews_is_there(tmp_path):
    draw, ready = Drawn(), []
    made = hook(tmp_path, draw, ready=lambda: bool(ready))
    SampleRequest(("a",)).write(tmp_path)
    made.on_metrics(None)
    assert not made.wants_state and not (tmp_path / FILE).exists()
    ready.append("compiled")
    made.on_metrics(None)
    assert made.wants_state


def test_samples_are_numbered_on_and_one_is_drawn_after_the_last_update(tmp_path):
    (tmp_path / "validation").mkdir()
    for name in ("asked-7.png", "asked-x.png", "step-9.png"):
        (tmp_path / "validation" / name).touch()
    SampleRequest(("a",), 1).write(tmp_path)
    hook(tmp_path, Drawn()).on_step(5, 5)
    assert [*asked_files(tmp_path)] == [7, 8]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[]", "no mapping"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "brackets within brackets"),
        ('{"prompts": "a cat"}', "prompts that are no list"),
        ('{"images": 2}', "no prompts"),
        ('{"prompts": []}', "prompts that are no list"),
        (json.dumps({"prompts": ["a"] * 9}), "prompts that are no list"),
        ('{"prompts": [" "]}', "a prompt that is no text"),
        (json.dumps({"prompts": ["a" * 5000]}), "a prompt that is no text"),
        ('{"prompts": [7]}', "a prompt that is no text"),
        ('{"prompts": ["a"], "images": 17}', "images 17"),
        ('{"prompts": ["a"], "images": true}', "images true"),
        ('{"prompts": ["a"], "steps": 17}', "the key 'steps'"),
        ("x" * 2**18 + "x", "more than 256 KiB"),
    ],
)
def test_what_is_no_request_is_answered_by_a_line_and_taken_away(tmp_path, capsys, content, found):
    (tmp_path / FILE).write_text(content)
    made = hook(tmp_path, Drawn())
    made.on_metrics(None)
    said = capsys.readouterr().err
    assert not made.wants_state and not (tmp_path / FILE).exists()
    assert said.startswith(f"warning: {tmp_path}/{FILE}: expected ") and found in said
    assert said.count("\n") == 1


def test_a_link_is_no_request_and_what_it_leads_to_stays(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text('{"prompts": ["a"]}')
    (tmp_path / FILE).symlink_to(other)
    hook(tmp_path, Drawn()).on_metrics(None)
    assert "found a link" in capsys.readouterr().err
    assert other.exists() and not (tmp_path / FILE).is_symlink()


def test_a_run_without_previews_says_that_it_cannot_draw(tmp_path, capsys):
    made = AskedSamples(tmp_path)
    SampleRequest(("a",)).write(tmp_path)
    made.on_metrics(None)
    made.on_step(1, 1)
    assert capsys.readouterr().err.count("a run without validation_prompt") == 1
    assert not (tmp_path / FILE).exists() and asked_files(tmp_path) == {}


def test_a_sample_that_cannot_be_drawn_ends_nothing_and_is_not_tried_again(tmp_path, capsys):
    def failing(*given):
        raise RuntimeError("no memory")

    made = NonFatalHook("the sample asked for", hook(tmp_path, failing))
    SampleRequest(("a",)).write(tmp_path)
    made.on_metrics(type("Chunk", (), {"last_step": 3}))
    assert made.wants_state
    made.on_step(3, 3)
    assert not made.wants_state and "the sample asked for failed, and training goes on" in (
        capsys.readouterr().err
    )


def test_a_request_that_no_run_would_draw_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="images 99"):
        SampleRequest(("a",), 99).write(tmp_path)
    assert not (tmp_path / FILE).exists()
    SampleRequest(("ü {}",), 2).write(tmp_path)
    assert read_request(tmp_path) == SampleRequest(("ü {}",), 2)
    (tmp_path / FILE).unlink()
    with pytest.raises(DataError, match="No such file"):
        read_request(tmp_path)


def test_hooks_that_guard_another_pass_on_that_it_wants_the_state(tmp_path):
    one = np.ones(1, np.float32)
    chunk = Chunk(1, one, one, one > 0, 0.1)
    for guarding in (
        NonFatalHook("it", hook(tmp_path, Drawn())),
        Guarded("cat", hook(tmp_path, Drawn()), Fate()),
    ):
        seat = Seat(9, lambda step: np.zeros(9, np.float32), [guarding, Hook()], step=3)
        guarding.on_metrics(chunk)
        assert seat.due == []
        SampleRequest(("a",)).write(tmp_path)
        guarding.on_metrics(chunk)
        assert seat.due == [guarding]
        guarding.on_step(3, 3)
        assert seat.due == []
