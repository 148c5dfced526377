"""What a value of train_data_dir names: folders, lists, metadata files, and mistakes in them."""

import json
import os
import sys

import pytest
from PIL import Image

from ti_flax.data.images.load import load_images
from ti_flax.data.sources.find import find_images
from ti_flax.data.sources.table_options import TableOptions
from ti_flax.errors import DataError

PLAIN = TableOptions()


def put(path, shade=0):
    """Write an image of one shade, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 100, 100)).save(path, format="PNG")
    return path


def names(source, table=PLAIN):
    return [image.name for image in find_images(str(source), table).images]


def captions(source, **options):
    found = find_images(str(source), TableOptions(**options))
    return {image.name: image.caption for image in found.images}


def mistake(source, **options):
    with pytest.raises(DataError) as caught:
        find_images(str(source), TableOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


def test_sub_folders_are_read_in_order_and_hidden_ones_skipped(tmp_path):
    for name in ("b.png", "z/a.png", "a/b.png", "a/a.png", "a/c/1.png", ".git/x.png", "a/.thumbnails/y.png"):
        put(tmp_path / name)
    (tmp_path / "a" / "notes.md").write_text("# cats")
    found = find_images(str(tmp_path), PLAIN)
    assert [image.name for image in found.images] == [
        "b.png",
        "a/a.png",
        "a/b.png",
        "a/c/1.png",
        "z/a.png",
    ]
    assert found.passed_over == ("a/notes.md",)
    assert found.images[3].path == found.images[3].where == str(tmp_path / "a" / "c" / "1.png")


def test_symbolic_links_lead_nowhere_twice(tmp_path):
    put(tmp_path / "pictures" / "real" / "a.png")
    put(tmp_path / "elsewhere" / "b.png")
    images = tmp_path / "pictures"
    (images / "real" / "up").symlink_to(images, target_is_directory=True)
    (images / "again").symlink_to(images / "real", target_is_directory=True)
    (images / "other").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (images / "round").symlink_to(images / "round")
    (images / "linked.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert names(images) == ["linked.png", "real/a.png", "other/b.png"]


def test_a_pipe_is_not_waited_for(tmp_path):
    put(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert names(tmp_path) == ["a.png"]


def test_a_image_is_a_source(tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / "no_suffix")
    (found,) = find_images(str(tmp_path / "a.png"), PLAIN).images
    assert (found.name, found.path) == ("a.png", str(tmp_path / "a.png"))
    assert names(tmp_path / "no_suffix") == ["no_suffix"]


# Lists


def test_a_list_names_images_relative_to_itself(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("lists/a b.png", "b.png", "home/c.png"):
        put(tmp_path / name)
    text = f"\ufeff# my cats\n\n  a b.png  \r\n../b.png\n#b.png\n~/c.png\n{tmp_path}/b.png\n"
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "lists" / "cats.txt").write_text(text.lstrip("\ufeff"), encoding=encoding)
        assert names(tmp_path / "lists" / "cats.txt") == ["a b.png", "b.png", "c.png", "b.png"]
    (tmp_path / "lists" / "cats.txt").write_text(text, encoding="utf-8")
    assert names(tmp_path / "lists" / "cats.txt") == ["a b.png", "b.png", "c.png", "b.png"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("none.png", "cats.txt:2: none.png: expected an image, found no such file. Paths are relative"),
        ("sub", "cats.txt:2: sub: expected an image, found a folder"),
        ("file:///etc/passwd", "expected a link with http or https, found file. A file is named by its path"),
        ("FTP://host/a.png", "expected a link with http or https, found ftp"),
        ("https:///a.png", "expected a link with a host, found none"),
    ],
)
def test_a_line_that_names_no_image(tmp_path, line, words):
    put(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "cats.txt").write_text(f"a.png\n{line}\n")
    said = mistake(tmp_path / "cats.txt")
    assert words in said and f"cats.txt:2: {line}" in said


@pytest.mark.parametrize("scheme", ["file", "ftp", "hf", "data"])
def test_other_schemes_are_refused(scheme):
    assert f"train_data_dir {scheme}://x/a.png: expected a link with http or https" in mistake(
        f"{scheme}://x/a.png"
    )


def test_a_link_with_a_password_is_refused_without_showing_it():
    said = mistake("https://me:secret@host/a.png")
    assert "expected a link without user name and password" in said and "secret" not in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "expected a path or a link a line, found none"),
        (b"# nothing\n", "expected a path or a link a line, found none"),
        (b"PK\3\4\0\0", "a list of images in UTF-8 text, or a dataset, found a file of another kind"),
        ("\u00e9.png\n".encode("latin-1"), "found a file of another kind"),
    ],
)
def test_a_file_that_is_no_list(tmp_path, content, words):
    (tmp_path / "cats.txt").write_bytes(content)
    assert words in mistake(tmp_path / "cats.txt")


# Metadata files


@pytest.fixture
def captioned(tmp_path):
    for name in ("a.png", "b.png", "sub/c.png"):
        put(tmp_path / name)
    return tmp_path


def write_jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_captions_from_metadata_without_the_library(captioned, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    rows = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "sub/c.png", "text": ["first", "second"]}]
    write_jsonl(captioned / "metadata.jsonl", *rows)
    assert captions(captioned) == {"a.png": "a cat", "b.png": None, "sub/c.png": "first"}
    (captioned / "metadata.jsonl").unlink()
    (captioned / "metadata.csv").write_text('file_name,caption\nb.png,"a dog, brown"\n')
    (captioned / "sub" / "metadata.csv").write_text("file_name,text\n./c.png,three\n")
    assert captions(captioned) == {"a.png": None, "b.png": "a dog, brown", "sub/c.png": "three"}
    loaded = load_images(f"{captioned}/../{captioned.name}", resolution=8)
    assert loaded.captions == (None, "a dog, brown", "three")


def test_columns_by_name(captioned):
    row = {"file_name": "a.png", "text": "t", "long": "l"}
    write_jsonl(captioned / "metadata.jsonl", row, {"file_name": "b.png"})
    assert captions(captioned, caption_column="long")["a.png"] == "l"
    assert captions(captioned, image_column="image")["a.png"] == "t"
    said = mistake(captioned, caption_column="tags")
    assert said.endswith(
        "expected the column tags, found columns file_name, text, long. Set caption_column to one of them."
    )
    assert "Set image_column" in mistake(captioned, image_column="picture")


def test_rows_without_a_image_are_noted(captioned):
    write_jsonl(captioned / "metadata.jsonl", {"file_name": "gone.png", "text": "t"}, {"file_name": "a.png"})
    (note,) = find_images(str(captioned), PLAIN).notes
    assert note.endswith("metadata.jsonl: 1 rows name no image of the folder, such as gone.png")


def test_a_table_of_images_is_a_source(captioned):
    path = write_jsonl(
        captioned / "cats.jsonl", {"image": "sub/c.png", "text": "x"}, {"image": "a.png", "text": ""}
    )
    assert captions(path) == {"c.png": "x", "a.png": None}
    write_jsonl(path, {"url": "gone.png", "text": "x"})
    assert "cats.jsonl:1: gone.png: expected an image, found no such file" in mistake(
        path, image_column="url"
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "metadata.jsonl",
            b'{"file_name": "a.png"}\n{"file_name"\n',
            "metadata.jsonl:2: expected an object such as",
        ),
        ("metadata.jsonl", b"[1]\n", "on each line, found list"),
        ("metadata.jsonl", b"", "expected lines that name images, found none"),
        (
            "metadata.jsonl",
            b'{"file_name": 3}\n',
            "metadata.jsonl:1: expected a file's name in column file_name, found 3",
        ),
        (
            "metadata.jsonl",
            b'{"file_name": "a.png", "text": 5}',
            "metadata.jsonl:1: text: expected a caption, found int",
        ),
        ("metadata.csv", b"name,text\na.png,x\n", "expected the column file_name, found columns name, text"),
        (
            "metadata.csv",
            "file_name,text\na.png,h\u00e9\n".encode("latin-1"),
            "found byte 0xE9 at offset 22, which is not utf-8",
        ),
    ],
)
def test_metadata_that_cannot_be_read(captioned, name, content, words):
    (captioned / name).write_bytes(content)
    assert words in mistake(captioned)
