import numpy as np
import pytest

from ti_flax.generation.image_grid import contact_sheet


def images(count, side, value):
    return np.full((count, side, side, 3), value, np.uint8)


def test_every_image_is_whole_and_in_its_row():
    red, blue = (200, 0, 0), (0, 0, 200)
    sheet = np.asarray(contact_sheet([("a", images(2, 64, red)), ("b", images(3, 64, blue))]))
    found = [(sheet == colour).all(axis=-1) for colour in (red, blue)]
    assert [int(mask.sum()) for mask in found] == [2 * 128 * 128, 3 * 128 * 128]
    lines = [np.flatnonzero(mask.any(axis=1)) for mask in found]
    assert lines[0].max() < lines[1].min()


def test_large_images_keep_their_size_and_labels_stay_inside():
    sheet = contact_sheet([("a long label " * 50, images(1, 256, 90))])
    assert sheet.size[0] == 256 + 16
    background = np.asarray(sheet)[:, -8:]
    assert (background == 255).all()


@pytest.mark.parametrize("label", ["plain", "two\nlines", "日本語 <cat>"])
def test_a_label_of_any_text_is_drawn(label):
    sheet = np.asarray(contact_sheet([(label, images(2, 128, 90))]))
    assert (sheet[8:28] < 128).any()
