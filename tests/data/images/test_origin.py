"""A prepared file tells SDXL of the image that it was cut from, and is believed where that can be true."""

import numpy as np
import pytest
from drawn_images import photograph, save
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from ti_flax.commands import prepare
from ti_flax.data.images.focal_crop import Box
from ti_flax.data.images.load import load_images
from ti_flax.data.images.masks import MaskRules
from ti_flax.data.images.origin import UNUSABLE, Origin, exif_of, read_origin

HISTORY, ORIENTATION = ExifTags.Base.ImageHistory, ExifTags.Base.Orientation
WHOLE = "ti_flax prepare: of 90x60 took 0,0,60,60 as 32x32"


@pytest.fixture
def originals(tmp_path):
    """A wide image, a high one that lies on its side in its file, and a small one."""
    folder = tmp_path / "originals"
    folder.mkdir()
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    save(folder, "a.png", photograph(100, 250))
    save(folder, "b.jpg", photograph(80, 200), exif=turned)
    save(folder, "c.png", photograph(24, 30))
    return folder


def prepared(source, *flags):
    """The folder of what is made of a folder, named by how."""
    output = source.parent / "-".join([source.name, *flags]).replace("--", "")
    given = ["--train_data_dir", str(source), "--output_dir", str(output), *flags]
    assert prepare.main(given) == 0
    return output


def told(folder, resolution=64, **options):
    """Micro-conditioning by the file's name without its suffix, for the image and its mirror image."""
    loaded = load_images(folder, resolution=resolution, **options)
    assert loaded.notes == ()
    [group] = loaded.groups
    return {name.rpartition(".")[0]: each for name, each in zip(loaded.names, group.time_ids.tolist())}


def origin_of(path):
    with Image.open(path) as image:
        return read_origin(image)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("resolution", [32, 64, 96])
def test_cut_before_a_run_or_by_it_sdxl_is_told_the_same(originals, suffix, resolution):
    cut = prepared(originals, "--size", "64", "--crop", "center", "--format", suffix)
    expected = told(originals, resolution, center_crop=True)
    assert expected["b"][0][:2] == [200, 80] and expected["c"][0][:2] == [24, 30]
    assert told(cut, resolution) == told(cut, resolution, center_crop=True) == expected


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_of_a_mirror_image_the_original_is_mirrored_too(originals, suffix):
    found = told(prepared(originals, "--size", "64", "--mirror", "--format", suffix))
    assert found["a"][0] != found["a"][1]
    for name in "abc":
        assert found[f"{name}-mirrored"] == found[name][::-1]


def test_the_part_that_is_told_is_the_one_that_the_file_shows(originals):
    folder = prepared(originals, "--size", "48x32", "--split")
    assert {path.stem for path in folder.iterdir()} == {"a", "c", *(f"b-{part}" for part in range(1, 6))}
    for path in folder.iterdir():
        origin, note = origin_of(path)
        assert note == ""
        with Image.open(originals / f"{path.stem[0]}.{'jpg' if path.stem[0] == 'b' else 'png'}") as image:
            whole = image.transpose(Image.Transpose.ROTATE_270) if path.stem[0] == "b" else image
            assert origin.size == whole.size
            again = whole.resize((48, 32), Image.Resampling.LANCZOS, box=origin.box.edges, reducing_gap=3.0)
        with Image.open(path) as shown:
            np.testing.assert_allclose(np.asarray(shown), np.asarray(again), atol=1)


def test_what_is_prepared_twice_tells_of_the_first_image(originals):
    once = prepared(originals, "--size", "80x64", "--crop", "center")
    twice = prepared(once, "--size", "32", "--crop", "center")
    assert {name: each[0] for name, each in told(twice, 32).items()} == {
        "a": [100, 250, 0, 24, 32, 32],
        "b": [200, 80, 34, 4, 32, 32],  # 80 x 64 of 80 x 200, of that 64 x 64, at half the size
        "c": [24, 30, 0, 4, 32, 32],
    }


def test_pixels_do_not_depend_on_it(originals, tmp_path):
    folder = prepared(originals, "--size", "32")
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert [*image.getexif()] == [HISTORY]
            save(plain, path.name, np.asarray(image))
    one, other = (load_images(each, resolution=32) for each in (folder, plain))
    assert one.content_hash() == other.content_hash()
    assert other.groups[0].time_ids[0].tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    assert (one.groups[0].time_ids != other.groups[0].time_ids).any()


SIDES = st.integers(8, 4096)


@given(width=SIDES, height=SIDES, data=st.data())
def test_what_is_written_is_read_again(width, height, data):
    size = data.draw(st.tuples(st.integers(8, 2048), st.integers(8, 2048)))
    scale = min(width / size[0], height / size[1]) * data.draw(st.floats(0.05, 1))
    wide, high = scale * size[0], scale * size[1]
    left, top = data.draw(st.floats(0, width - wide)), data.draw(st.floats(0, height - high))
    origin = Origin((width, height), Box(left, top, left + wide, top + high))
    image = Image.new("1", size)
    image.getexif()[HISTORY] = exif_of(origin, size)[HISTORY]
    found, note = read_origin(image)
    if found is None:  # a part of less than a few thousandths of a pixel has no proportions to speak of
        assert note == UNUSABLE and min(wide, high) < 0.1
    else:
        assert found.size == origin.size and note == ""
        np.testing.assert_allclose(found.box.edges, origin.box.edges, atol=1e-4)


def one_file(folder, history, *, suffix="png", side=32, **fields):
    exif = Image.Exif()
    exif[HISTORY] = history
    for name, value in fields.items():
        exif[ExifTags.Base[name]] = value
    save(folder, f"a.{suffix}", photograph(side, side), exif=exif)
    return load_images(folder, resolution=32)


@pytest.mark.parametrize("masks", [None, MaskRules(alpha=True)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_the_text_that_is_believed(tmp_path, suffix, masks):
    one_file(tmp_path, WHOLE, suffix=suffix)
    loaded = load_images(tmp_path, resolution=32, masks=masks)
    assert loaded.notes == ()
    assert loaded.groups[0].time_ids.tolist() == [[[60, 90, 0, 0, 32, 32], [60, 90, 0, 16, 32, 32]]]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(
    "history",
    [
        "ti_flax prepare",
        "ti_flax prepare: of axb took 0,0,60,60 as 32x32",
        "ti_flax prepare: of 90x60 took nan,0,60,60 as 32x32",
        "ti_flax prepare: of 90x60 took 0,0,1e3,60 as 32x32",
        "ti_flax prepare: of 90x60 took 0,0,60 as 32x32",
        "ti_flax prepare: of 90x60 took -5,0,55,60 as 32x32",
        "ti_flax prepare: of 90x60 took 31,0,91,60 as 32x32",  # beyond the right edge
        "ti_flax prepare: of 90x60 took 0,1,60,61 as 32x32",  # beyond the lower one
        "ti_flax prepare: of 90x60 took 60,60,0,0 as 32x32",
        "ti_flax prepare: of 90x60 took 5,5,5,5 as 32x32",
        "ti_flax prepare: of 90x60 took 5,5,5,9 as 32x32",
        "ti_flax prepare: of 90x60 took 0,0,90,60 as 32x32",  # of other proportions
        "ti_flax prepare: of 0x0 took 0,0,0,0 as 32x32",
        "ti_flax prepare: of 9999999x9999999 took 0,0,60,60 as 32x32",
        f"ti_flax prepare: of 90x60 took 0,0,60,60 as 32x32{'0' * 5000}",
        f"{WHOLE}; {WHOLE}",
    ],
)
def test_what_cannot_be_true_is_noted_and_the_files_own_size_told(tmp_path, history, suffix):
    loaded = one_file(tmp_path, history, suffix=suffix)
    assert loaded.notes == (f"{UNUSABLE}: a.{suffix}",)
    assert loaded.groups[0].time_ids.tolist() == [[[32, 32, 0, 0, 32, 32]] * 2]


@pytest.mark.parametrize("change", [{"side": 40}, {"Orientation": 3}])
def test_a_file_that_was_changed_since_counts_as_it_is(tmp_path, change):
    loaded = one_file(tmp_path, WHOLE, **change)
    side = change.get("side", 32)
    assert loaded.notes == (f"{UNUSABLE}: a.png",)
    assert loaded.groups[0].time_ids.tolist() == [[[side, side, 0, 0, 32, 32]] * 2]


@pytest.mark.parametrize("history", ["cropped by a camera", b"\xff\x00\x01", 7, ""])
def test_what_others_write_there_is_none_of_ours(tmp_path, history):
    loaded = one_file(tmp_path, history)
    assert loaded.notes == ()
    assert loaded.groups[0].time_ids.tolist() == [[[32, 32, 0, 0, 32, 32]] * 2]
