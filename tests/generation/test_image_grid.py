import numpy as np
import pytest

from ti_flax.generation.image_grid import contact_sheet, first_row_places, sheet_size


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
    sheet = contact_sheet([("a long label " * 50, images(1, 256, 200)), ("x" * 500, images(1, 256, 200))])
    shown = np.asarray(sheet)
    found = np.flatnonzero((shown[100] == 200).all(axis=-1))
    assert len(found) == 256 and found[-1] == found[0] + 255
    paper = shown[0, 0]
    assert (shown[:, found[0] - 12 : found[0]] == paper).all() and (shown[-12:] == paper).all()


@pytest.mark.parametrize("label", ["plain", "two\nlines", "日本語 <cat>"])
def test_a_label_of_any_text_is_drawn(label):
    sheet = np.asarray(contact_sheet([(label, images(2, 128, 90))]))
    assert (sheet[8:28, :150] > 128).any()


def test_heads_are_over_their_columns_once_and_leave_the_first_row_as_it_is():
    rows = [("training", images(5, 128, 200)), ("a", images(6, 128, 201)), ("b", images(6, 128, 202))]
    sheet = contact_sheet(rows, heads=[("before", 2), ("step 9", 4)], above=1)
    assert sheet.size == sheet_size((128, 128), 3, 6, [2, 4])
    shown = np.asarray(sheet)
    for left, top, right, bottom in first_row_places((128, 128), 5):
        assert (shown[top:bottom, left:right] == 200).all()
    columns = [np.flatnonzero((shown == value).all(axis=-1).any(axis=0)) for value in (201, 202)]
    np.testing.assert_array_equal(columns[0], columns[1])
    gaps = np.diff(columns[0])
    assert sorted(gaps[gaps > 1]) == [5, 5, 5, 5, 21] and gaps[2 * 128 - 1] == 21
    lines = [np.flatnonzero((shown == value).all(axis=-1).any(axis=1)) for value in (200, 201, 202)]
    between = shown[lines[0][-1] + 1 : lines[1][0]]
    second = columns[0][256]
    assert (between[:, :second] > 128).any() and (between[:, second:] > 128).any()
    assert not (shown[lines[1][-1] + 1 : lines[2][0]] > 128).any()
