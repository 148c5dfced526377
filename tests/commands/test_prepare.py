"""The sheet comes first, nothing is replaced unasked, and the written images are what the sheet shows."""

import numpy as np
import pytest
from full_disk import save_half
from PIL import Image, ImageDraw

from ti_flax.commands import prepare as prepare_images
from ti_flax.data.images.load import load_images
from ti_flax.errors import ConfigError, DataError, OutputError

RED = (255, 0, 0)


@pytest.fixture
def place(tmp_path):
    """A wide image with a red disc on the left, and a square one in a sub-folder with a caption."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    image = Image.new("RGB", (300, 100), "gray")
    ImageDraw.Draw(image).ellipse((10, 20, 70, 80), fill=RED)
    image.save(tmp_path / "in" / "wide.png")
    Image.new("RGB", (200, 200), (10, 20, 200)).save(tmp_path / "in" / "sub" / "square.jpg")
    (tmp_path / "in" / "sub" / "square.txt").write_text("a blue square\n")
    return tmp_path


def run(place, *flags):
    common = ["--train_data_dir", str(place / "in"), "--output_dir", str(place / "out"), "--size", "64"]
    prepare_images.run(prepare_images.parse_arguments([*common, *flags]))


def written(place):
    return {str(path.relative_to(place / "out")) for path in (place / "out").rglob("*") if path.is_file()}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def reds(array):
    return int((np.abs(array.astype(int) - RED).max(axis=-1) < 40).sum())


def test_a_dry_run_writes_the_sheet_alone(place, capsys):
    run(place, "--dry_run")
    assert not (place / "out").exists()
    sheet = pixels(place / "out-sheet.png")
    assert reds(sheet) > 1000  # the disc, and the outline of a box
    assert "2 cuts of 2 images, 0 of them enlarged" in capsys.readouterr().out


def test_crops_by_what_stands_out_and_keeps_captions(place):
    run(place)
    assert written(place) == {"wide.png", "sub/square.png", "sub/square.txt"}
    found = pixels(place / "out" / "wide.png")
    assert found.shape == (64, 64, 3)
    disc = 3.1416 * (30 * 0.64) ** 2
    assert reds(found) == pytest.approx(disc, rel=0.1)
    assert (place / "out" / "sub" / "square.txt").read_text() == "a blue square\n"
    run(place, "--crop", "center", "--overwrite")
    assert reds(pixels(place / "out" / "wide.png")) == 0


def test_what_is_written_can_be_trained_on_as_it_is(place):
    run(place)
    loaded = load_images(place / "out", resolution=64)
    assert loaded.names == ("wide.png", "sub/square.png") and loaded.notes == ()
    np.testing.assert_array_equal(loaded.pixels[0], pixels(place / "out" / "wide.png"))


def test_split_parts_overlap_and_cover(place):
    run(place, "--split", "--overlap_ratio", "0")
    assert {"wide-1.png", "wide-2.png", "wide-3.png", "sub/square.png"} <= written(place)
    shares = [reds(pixels(place / "out" / f"wide-{n}.png")) for n in (1, 2, 3)]
    assert shares[0] > 500 and shares[1:] == [0, 0]
    run(place, "--split", "--split_threshold", "0.2", "--overwrite")
    assert "wide.png" in written(place)


def test_oversized_images_are_split_in_both_directions(place):
    run(place, "--split", "--split_scale", "2", "--size", "32", "--overlap_ratio", "0")
    assert sum(name.startswith("sub/square-") and name.endswith("png") for name in written(place)) == 16
    assert pixels(place / "out" / "wide-1.png").shape == (32, 32, 3)


def test_mirror_images(place):
    run(place, "--mirror", "--caption", "a disc")
    plain, mirrored = (pixels(place / "out" / f"wide{end}.png") for end in ("", "-mirrored"))
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])
    assert (place / "out" / "wide-mirrored.txt").read_text() == "a disc\n"
    assert (place / "out" / "sub" / "square-mirrored.txt").read_text() == "a blue square\n"


def test_size_and_format(place):
    run(place, "--size", "96x48", "--format", "jpg")
    assert pixels(place / "out" / "wide.jpg").shape == (48, 96, 3)
    assert reds(pixels(place / "out" / "wide.jpg")) > 100


def test_nothing_is_replaced_unless_told(place):
    (place / "out").mkdir()
    (place / "out" / "wide.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"wide\.png: expected new files, found 1 that are there already"):
        run(place)
    assert written(place) == {"wide.png"} and (place / "out" / "wide.png").read_bytes() == b"mine"
    assert not (place / "out-sheet.png").exists()
    run(place, "--overwrite")
    assert pixels(place / "out" / "wide.png").shape == (64, 64, 3)


def test_a_sheet_replaces_a_sheet_and_nothing_else(place):
    run(place, "--dry_run")
    run(place, "--dry_run")
    mine = place / "mine.png"
    Image.new("RGB", (8, 8)).save(mine)
    with pytest.raises(OutputError, match=r"--sheet .*mine\.png: expected a new file"):
        run(place, "--dry_run", "--sheet", str(mine))
    assert pixels(mine).shape == (8, 8, 3)


def test_images_of_one_stem_get_names_of_their_own(place):
    Image.new("RGB", (64, 64)).save(place / "in" / "wide.bmp")
    Image.new("RGB", (64, 64), "white").save(place / "in" / "WIDE.JPG")
    run(place)
    assert {"WIDE.png", "wide_2.png", "wide_3.png"} <= written(place)


def test_the_images_are_not_written_among_themselves(place):
    with pytest.raises(OutputError, match="expected a folder without the images that are read"):
        prepare_images.run(
            prepare_images.parse_arguments(
                ["--train_data_dir", str(place / "in"), "--output_dir", str(place)]
            )
        )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "big"], "--size: expected a number such as 512, or two such as 768x512, found big"),
        (["--size", "4"], "--size: expected"),
        (["--overlap_ratio", "0.95"], "--overlap_ratio: expected a number 0 to 0.9, found 0.95"),
        (["--split_threshold", "nan"], "--split_threshold: expected a number 0 to 1, found nan"),
        (["--split", "--split_scale", "0.5"], "--split_scale: expected a number at least 1, found 0.5"),
        (["--split_scale", "2"], "--split_scale: expected to be given with --split"),
        (["--caption", " "], "--caption: expected text, found empty text"),
    ],
)
def test_mistakes(place, flags, message):
    with pytest.raises(ConfigError) as caught:
        run(place, *flags)
    assert str(caught.value).startswith(message)


def test_a_caption_in_another_encoding(place):
    (place / "in" / "wide.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"wide\.txt: expected text in UTF-8"):
        run(place)


def test_a_full_disk_leaves_the_images_that_were_to_be_replaced(place, monkeypatch):
    run(place)
    before = {name: (place / "out" / name).read_bytes() for name in written(place)}
    sheet = (place / "out-sheet.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", save_half)
    with pytest.raises(OutputError, match="No space left"):
        run(place, "--overwrite")
    monkeypatch.setattr(prepare_images, "_write_sheet", lambda *arguments: None)
    with pytest.raises(OutputError, match="No space left"):
        run(place, "--overwrite")
    assert before == {name: (place / "out" / name).read_bytes() for name in written(place)}
    assert (place / "out-sheet.png").read_bytes() == sheet
