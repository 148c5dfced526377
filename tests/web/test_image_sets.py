"""What browsers send is looked at before it is kept, and captions are files beside the images."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from web_pages import ASSETS

from ti_flax.errors import DataError
from ti_flax.web import image_sets
from ti_flax.web.image_sets import captioned, captions_of, images_of, take_files, write_captions

HTML = '<img src=x onerror="alert(1)"> & "<b>"'


def sent(work, name, content):
    """A file as Gradio keeps one that a browser sent."""
    folder = work.temporary / f"{len(list(work.temporary.iterdir()))}"
    folder.mkdir()
    (folder / name).write_bytes(content)
    return str(folder / name)


def encoded(form, mode="RGB", **options):
    content = io.BytesIO()
    Image.new(mode, (40, 30), 90).save(content, form, **options)
    return content.getvalue()


def test_images_are_kept_byte_for_byte_under_names_of_ours(work):
    png, jpeg, gif = encoded("PNG"), encoded("JPEG", exif=b""), encoded("GIF", "L")
    files = [
        sent(work, "..evil<b>.png", png),
        sent(work, "no suffix", jpeg),
        sent(work, "moves.gif", gif),
        sent(work, "no suffix.txt", f" {HTML}\n".encode()),
    ]
    taken = take_files(work, files)
    assert taken.faults == () and taken.folder == work.images / "set-2"
    assert captions_of(taken.folder) == [["001.png", ""], ["002.jpg", HTML], ["003.png", ""]]
    assert (taken.folder / "001.png").read_bytes() == png
    assert (taken.folder / "002.jpg").read_bytes() == jpeg
    with Image.open(taken.folder / "003.png") as image:  # of other formats, the pixels
        np.testing.assert_array_equal(np.asarray(image), np.full((30, 40, 3), 90))


def test_what_is_no_image_is_refused_by_name_and_the_others_stay(work, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    files = [
        sent(work, "page.png", b"<html>"),
        sent(work, "bomb.png", encoded("PNG")),
        "/etc/passwd",
        str(work.images / "set" / images_of(work.images / "set")[0].name),
        str(work.temporary / "none.png"),
        sent(work, "small.bmp", _small()),
    ]
    taken = take_files(work, files)
    assert [path.name for path in images_of(taken.folder)] == ["001.bmp"]
    for name, found in zip(
        ("page.png", "bomb.png", "passwd", "", "none.png"),
        ("cannot be decoded", "a larger image", "another one", "another one", "No such file"),
        strict=True,
    ):
        assert any(name in fault and found in fault for fault in taken.faults)
    assert len(taken.faults) == 5


def _small():
    content = io.BytesIO()
    Image.new("RGB", (20, 20)).save(content, "BMP")
    return content.getvalue()


def test_too_many_files_and_too_large_ones_are_refused(work, monkeypatch):
    monkeypatch.setattr(image_sets, "LARGEST_FILE", 50)
    taken = take_files(work, [sent(work, "a.png", encoded("PNG"))])
    assert taken.folder is None and "more than 0 KiB" in taken.faults[0]
    taken = take_files(work, ["x"] * 201)
    assert taken.faults == ("images: expected at most 200 files at once, found 201",)
    assert work.image_sets() == ["images/set"]


def test_a_link_that_was_sent_is_not_followed(work, tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded("PNG"))
    (work.temporary / "link.png").symlink_to(tmp_path / "secret.png")
    taken = take_files(work, [str(work.temporary / "link.png")])
    assert taken.folder is None and "found another one" in taken.faults[0]


def test_captions_are_what_the_trainer_reads(work):
    folder = work.images / "set"
    first, second = (path.name for path in images_of(folder)[:2])
    write_captions(work, folder, [[first, f"  {HTML}\n more "], [second, None]])
    assert dict(captions_of(folder))[first] == f"{HTML} more" and captioned(captions_of(folder)) == (
        1,
        len(images_of(folder)),
    )
    assert (folder / first).with_suffix(".txt").read_text() == f"{HTML} more\n"
    write_captions(work, folder, [[first, ""]])
    assert captioned(captions_of(folder))[0] == 0 and not (folder / first).with_suffix(".txt").exists()


@pytest.mark.parametrize("name", ["../../x.png", "none.png", "/etc/passwd", "set"])
def test_only_images_of_the_folder_get_captions(work, name):
    with pytest.raises(DataError, match="expected the name of an image of this folder"):
        write_captions(work, work.images / "set", [[name, "x"]])


def test_captions_of_other_folders_stay_and_links_are_not_read(work, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(ASSETS / "demo-images", other)
    with pytest.raises(DataError, match="expected images that were dropped here"):
        write_captions(work, other, [])
    (tmp_path / "secret").write_text("secret")
    image = images_of(work.images / "set")[0]
    image.with_suffix(".txt").symlink_to(tmp_path / "secret")
    assert dict(captions_of(work.images / "set"))[image.name] == ""
    write_captions(work, work.images / "set", [[image.name, "mine"]])
    assert (tmp_path / "secret").read_text() == "secret"
    with pytest.raises(DataError, match="expected at most 4096 letters"):
        write_captions(work, work.images / "set", [[image.name, "x" * 5000]])
