"""What a notebook shows below the cell that trains: how far it is, and the newest contact sheet."""

import io
import sys

import IPython.display
import numpy as np
import pytest
from PIL import Image

import ti_flax
from ti_flax.monitoring.previews import SHEET
from ti_flax.training.loop import Chunk


class Cell:
    """The output of a cell: what stands in each place, and everything that ever did."""

    def __init__(self):
        self.places, self.shown = [], []

    def display(self, what, display_id):
        assert display_id is True
        self.places.append(what)
        self.shown.append(what)
        return Handle(self, len(self.places) - 1)

    @property
    def pictures(self):
        return [each for each in self.shown if isinstance(each, IPython.display.Image)]


class Handle:
    def __init__(self, cell, place):
        self.cell, self.place = cell, place

    def update(self, what):
        self.cell.places[self.place] = what
        self.cell.shown.append(what)


@pytest.fixture
def cell(monkeypatch):
    cell = Cell()
    monkeypatch.setattr(IPython.display, "display", cell.display)
    return cell


def chunk(first, steps):
    ones = np.ones(steps, np.float32)
    return Chunk(first, ones / 8, ones, ones > 0, 1.0)


def draw(folder, colour, size=(40, 30)):
    Image.new("RGB", size, colour).save(folder / SHEET)


def colour_of(picture):
    with Image.open(io.BytesIO(picture.data)) as image:
        return image.size, max(range(3), key=image.resize((1, 1)).getpixel((0, 0)).__getitem__)


def test_each_place_shows_what_is_new(cell, tmp_path):
    hook = ti_flax.ShowInNotebook(tmp_path, 20)
    hook.on_start(0, None)
    hook.on_metrics(chunk(1, 5))
    (progress,) = cell.places
    assert progress.data == '<progress value="5" max="20"></progress> step 5 of 20, loss 0.1250'
    draw(tmp_path, "red")
    hook.on_metrics(chunk(6, 5))
    assert len(cell.places) == 2 and colour_of(cell.places[1]) == ((40, 30), 0)
    hook.on_metrics(chunk(11, 5))
    assert len(cell.pictures) == 1  # which is not sent again
    draw(tmp_path, "blue")
    hook.on_step(20, None)
    assert len(cell.places) == 2 and colour_of(cell.places[1]) == ((40, 30), 2)


def test_what_an_interrupted_run_drew_last_is_shown_at_its_end(cell, tmp_path):
    hook = ti_flax.ShowInNotebook(tmp_path)
    hook.on_metrics(chunk(1, 1))
    assert cell.places[0].data == "<progress></progress> step 1, loss 0.1250"
    draw(tmp_path, "lime", size=(4000, 100))
    hook.close(finished=False)
    assert colour_of(cell.places[1]) == ((1200, 30), 1)


def test_a_sheet_of_before_is_shown_where_the_run_goes_on(cell, tmp_path):
    draw(tmp_path, "red")
    ti_flax.ShowInNotebook(tmp_path).on_start(0, None)
    assert cell.pictures == []  # another run's
    ti_flax.ShowInNotebook(tmp_path).on_start(10, None)
    assert len(cell.pictures) == 1


def test_a_sheet_that_cannot_be_read_ends_nothing(cell, tmp_path):
    (tmp_path / SHEET).write_bytes(b"PNG")
    ti_flax.ShowInNotebook(tmp_path).close(finished=True)
    assert cell.places == []


def test_outside_of_notebooks_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ti_flax.TiFlaxError, match="expected a notebook, found a Python without IPython"):
        ti_flax.ShowInNotebook(tmp_path)
