"""Previews and the contact sheet: which images are drawn, kept and shown."""

import numpy as np
import pytest
from PIL import Image
from row_trees import only, tree

from ti_flax.monitoring import previews
from ti_flax.monitoring.previews import Preview, evenly, sheet_of, training_places

START, SIDE = tree(np.zeros((1, 4), np.float32)), 8
TRAINING = np.full((6, SIDE, SIDE, 3), 200, np.uint8)


class Drawn:
    """Stands in for the sampler: an image's red is 10 x row, its green the prompt, its blue the seed."""

    def __init__(self, prompts=2, images=3, side=SIDE):
        self.asked, self._shape = [], (prompts, images, side)

    def __call__(self, rows, shown):
        red = float(only(rows)[0, 0])
        self.asked.append(red)
        prompts, images, side = self._shape
        made = np.zeros((prompts, images, side, side, 3), np.uint8)
        made[..., 0] = round(10 * red)
        made[..., 1] = np.arange(prompts)[:, None, None, None]
        made[..., 2] = np.arange(images)[:, None, None]
        shown.advance(prompts * images)
        return made


class Shown:
    """A tracker that keeps the images it is shown."""

    def __init__(self):
        self.images = {}

    def image(self, name, pixels, step):
        self.images[name, step] = pixels


@pytest.fixture
def sheets(monkeypatch):
    """The names of rows and of columns, and the images, of every sheet that is made."""
    made, make = [], previews.contact_sheet

    def kept(rows, *, heads, above):
        made.append(([name for name, _ in rows], heads, [images for _, images in rows]))
        return make(rows, heads=heads, above=above)

    monkeypatch.setattr(previews, "contact_sheet", kept)
    return made


def hook(folder, draw, **changes):
    given = {
        "every": 5,
        "draw": draw,
        "prompts": ["a toy", "a blue toy"],
        "images": 3,
        "training": TRAINING,
        "start_rows": START,
        "result": lambda step: tree(only(START) + step),
    }
    return Preview(folder, **given | changes)


def test_before_every_so_often_and_after(tmp_path, sheets):
    draw, tracker = Drawn(), Shown()
    made = hook(tmp_path, draw, trackers=[tracker])
    made.on_start(0, None)
    for step in (5, 10, 15):
        made.on_step(step, step)
    assert draw.asked == [0, 5, 10, 15] and made.every == 5
    names = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert names == ["step-0.png", "step-10.png", "step-15.png", "step-5.png"]
    with Image.open(tmp_path / "validation" / "step-10.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (2 * SIDE, 3 * SIDE, 3)
    np.testing.assert_array_equal(pixels[SIDE, 2 * SIDE], [100, 1, 2])
    np.testing.assert_array_equal(tracker.images["validation", 10], pixels)
    assert all(names == ["training images", "a toy", "a blue toy"] for names, _, _ in sheets)
    assert [heads for _, heads, _ in sheets] == [
        [("before", 3)],
        [("before", 3), ("step 5", 3)],
        [("before", 2), ("step 5", 2), ("step 10", 2)],
        [("before", 1), ("step 5", 1), ("step 10", 1), ("step 15", 1)],
    ]
    training, _, blue = sheets[3][2]
    np.testing.assert_array_equal(blue[:, 0, 0], [[0, 1, 0], [50, 1, 0], [100, 1, 0], [150, 1, 0]])
    _, _, blue = sheets[2][2]
    seeds = [[0, 1, 0], [0, 1, 1], [50, 1, 0], [50, 1, 1], [100, 1, 0], [100, 1, 1]]
    np.testing.assert_array_equal(blue[:, 0, 0], seeds)
    assert training.shape[0] == 5 and (tmp_path / "contact_sheet.png").is_file()


def test_the_first_previews_wait_for_no_compilation_and_come_before_all_others(tmp_path):
    draw, ready = Drawn(), []
    made = hook(tmp_path, draw, ready=lambda: bool(ready))
    made.on_start(0, None)
    made.on_metrics(None)
    assert draw.asked == []
    made.on_step(5, 5)
    assert draw.asked == [0, 5]
    again = hook(tmp_path / "again", draw, ready=lambda: bool(ready))
    again.on_start(0, None)
    ready.append("compiled")
    again.on_metrics(None)
    again.on_metrics(None)
    assert draw.asked == [0, 5, 0]


def test_a_resumed_run_shows_what_an_earlier_one_drew_before_its_step(tmp_path, sheets):
    first = hook(tmp_path, Drawn())
    first.on_start(0, None)
    for step in (5, 10, 15):
        first.on_step(step, step)
    draw = Drawn()
    again = hook(tmp_path, draw)
    again.on_start(5, None)
    assert draw.asked == []
    again.on_step(10, 11)
    assert [name for name, _ in sheets[-1][1]] == ["before", "step 5", "step 10"]
    (tmp_path / "validation" / "step-0.png").unlink()
    again.on_start(5, None)
    again.settle()
    assert draw.asked == [11, 0]


def test_images_of_another_run_are_passed_over(tmp_path, sheets):
    folder = tmp_path / "validation"
    folder.mkdir()
    for name, size in (("step-0.png", (24, 24)), ("step-1.png", (48, 32)), ("step-x.png", (24, 16))):
        Image.new("RGB", size).save(folder / name)
    (folder / "step-2.png").write_bytes(b"\x89PNG\r\n")
    hook(tmp_path, Drawn()).on_step(5, 5)
    assert sheets[0][1] == [("step 5", 3)]


def test_a_preview_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    (tmp_path / "validation").write_text("in the way")
    tracker = Shown()
    hook(tmp_path, Drawn(), trackers=[tracker]).on_step(5, 5)
    said = capsys.readouterr().err
    assert said.startswith("warning: the preview of step 5 is not written: ") and said.count("\n") == 1
    assert ("validation", 5) in tracker.images


@pytest.mark.parametrize("steps", [[7], [0, 7], [0, 7, 9], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("images", [1, 4, 7])
@pytest.mark.parametrize("count", [2, 6])
def test_the_training_images_are_found_on_the_sheet(steps, images, count):
    training = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, SIDE, SIDE, 3), np.uint8)
    shown = {step: np.full((2, images, SIDE, SIDE, 3), 99, np.uint8) for step in steps}
    sheet = sheet_of(["a toy", "a blue toy"], training, shown)
    places = training_places(sheet.size, (SIDE, SIDE), prompts=2, images=images, training=count)
    assert len(places) == min(count, 5)
    found = [np.asarray(sheet.crop(place)) for place in places]
    assert [set(each.ravel().tolist()) for each in found] == [{number} for number in range(len(places))]
    assert {each.shape for each in found} == {(112, 112, 3)}
    assert training_places(sheet.size, (SIDE, SIDE), prompts=3, images=images, training=count) == []


@pytest.mark.parametrize(
    ("count", "expected"),
    [(5, [0, 10, 20, 30, 40]), (3, [0, 20, 40]), (2, [0, 40]), (1, [0]), (9, [0, 10, 20, 30, 40])],
)
def test_the_first_and_the_last_are_among_the_chosen(count, expected):
    assert evenly([0, 10, 20, 30, 40], count) == expected
    assert evenly([], count) == []


def test_images_need_not_be_squares(tmp_path, sheets):
    drawn = np.arange(2 * 3 * 24 * 16 * 3, dtype=np.uint8).reshape(2, 3, 24, 16, 3)
    training = np.full((6, 24, 16, 3), 200, np.uint8)
    made = hook(tmp_path, lambda rows, shown: drawn, training=training)
    made.on_start(0, None)
    made.settle()
    made.on_step(5, 1)
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        places = training_places(sheet.size, (24, 16), prompts=2, images=3, training=6)
        assert len(places) == 5 and all(
            (np.asarray(sheet.crop(place)) == 200).all()
            and place[3] - place[1] == 1.5 * (place[2] - place[0])
            for place in places
        )
    names, heads, images = sheets[-1]
    assert [name for name, _ in heads] == ["before", "step 5"]
    np.testing.assert_array_equal(images[2], np.concatenate([drawn[1]] * 2))
