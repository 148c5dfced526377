"""Captions from every place people keep them, and the line each mistake gives."""

import json
import re

import pytest

from ti_flax.data.prompts.captions import (
    CaptionedImage,
    captions_beside,
    captions_in_file,
    captions_in_names,
    captions_of_source,
)
from ti_flax.errors import DataError


def images(folder, *names):
    return [CaptionedImage(name.rpartition("/")[2], str(folder / name)) for name in names]


def error_of(read, *arguments):
    with pytest.raises(DataError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Beside the images


def test_text_files_beside_images(tmp_path):
    (tmp_path / "a.txt").write_text("one cat\n")
    (tmp_path / "b.caption").write_text("two cats")
    (tmp_path / "c.png.txt").write_text("")
    (tmp_path / "a.caption").write_text("not this one")
    found = captions_beside(images(tmp_path, "a.png", "b.jpg", "c.png"))
    assert found == ("one cat\n", "two cats", "")


def test_other_extensions_in_their_order(tmp_path):
    for extension in ("txt", "tags", "words"):
        (tmp_path / f"a.{extension}").write_text(extension)
    (tmp_path / "b.words").write_text("b's")
    found = captions_beside(images(tmp_path, "a.png", "b.png"), ["tags", ".words"])
    assert found == ("tags", "b's")


def test_missing_text_files_are_counted(tmp_path):
    (tmp_path / "b.txt").write_text("b")
    some = [*images(tmp_path, "a.png", "b.png", "c.png"), CaptionedImage("image 3")]
    message = error_of(captions_beside, some)
    assert message.startswith(
        "captions files: expected a .txt or .caption file beside each image, found none for 3 of 4, "
        "first a.png. Write the missing ones"
    )


def test_neither_a_folder_nor_the_image_is_a_caption(tmp_path):
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "a.png").write_text("pixels")
    assert "none for 1 of 1, first a.png" in error_of(captions_beside, images(tmp_path, "a.png"))
    assert "a .png file" in error_of(captions_beside, images(tmp_path, "a.png"), ["png"])


def test_another_encoding_names_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("naïve".encode("latin1"))
    message = error_of(captions_beside, images(tmp_path, "a.png"))
    assert message.startswith(f"caption {tmp_path / 'a.txt'}: expected text in UTF-8")
    assert "byte 0xEF at offset 2" in message


# In file names


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("01-cat sitting.png", "cat sitting"),
        ("cat_on_mat.webp", "cat on mat"),
        ("00012-0-a red car.png", "a red car"),
        ("3. cat.png", "cat"),
        ("x/2 cats, 3 dogs.png", "cats, 3 dogs"),
        ("a.cat.png", "a.cat"),
    ],
)
def test_file_names_without_number_and_underscores(name, caption):
    assert captions_in_names([CaptionedImage(name)]) == (caption,)


@pytest.mark.parametrize(
    ("pattern", "caption"),
    [
        (r"[a-z]+", "img cat mat"),
        (r"_(\w+?)_", "cat"),
        (r"(\d+)_(?P<words>.*)", "cat_mat"),
        (r"cat|mat", "cat mat"),
    ],
)
def test_file_names_by_a_regular_expression(pattern, caption):
    assert captions_in_names([CaptionedImage("img-07_cat_mat.png")], pattern) == (caption,)


def test_names_without_words_are_counted():
    message = error_of(captions_in_names, [CaptionedImage("cat.png"), CaptionedImage("0001.png")])
    assert "found none for 1 of 2, first 0001.png" in message
    message = error_of(captions_in_names, [CaptionedImage("cat.png")], "dog")
    assert message.startswith("captions filename: expected 'dog' in each file name")


# From the images' source


def test_captions_of_a_dataset():
    assert captions_of_source([CaptionedImage("0", None, "cat"), CaptionedImage("1", None, "")]) == (
        "cat",
        "",
    )
    message = error_of(
        captions_of_source, [CaptionedImage("0", None, "cat"), CaptionedImage("1"), CaptionedImage("2")]
    )
    assert "captions metadata: expected a text for each image" in message
    assert "found none for 2 of 3, first 1" in message


# One file for all

KINDS = {
    "lines": "a.png|a cat, on a mat\n\nb.jpg | two|dogs \n",
    "tabs": "a.png\ta cat, on a mat\nb\ttwo|dogs\n",
    "jsonl": '{"file_name": "a.png", "text": "a cat, on a mat"}\n\n{"file": "b.jpg", "tags": "two|dogs"}\n',
    "kohya's": '{"image_path": "a.png", "text": "a cat, on a mat"}\n{"image_path": "b", "text": "two|dogs"}',
    "object": '{"a": {"tags": "no", "caption": "a cat, on a mat"}, "b": "two|dogs"}',
    "csv": 'file_name,text\na.png,"a cat, on a mat"\nb.jpg,two|dogs\n',
    "semicolons": "Caption;x;File\na cat, on a mat;1;a.png\ntwo|dogs;2;b.jpg\n",
    "tsv": "image\tcaption\r\na.png\ta cat, on a mat\r\nb.jpg\ttwo|dogs\r\n",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_caption_file(tmp_path, kind):
    file = tmp_path / "captions"
    file.write_bytes(KINDS[kind].encode("utf-8-sig"))
    found = captions_in_file(images(tmp_path, "a.png", "b.jpg"), str(file))
    assert found == ("a cat, on a mat", "two|dogs")


def test_one_line_of_json(tmp_path):
    file = tmp_path / "captions"
    file.write_text('{"file_name": "a.png", "text": "cat"}')
    assert captions_in_file(images(tmp_path, "a.png"), str(file)) == ("cat",)


def test_as_much_of_the_path_counts_as_is_written(tmp_path):
    file = tmp_path / "captions"
    file.write_text(
        f"x/a.png|in x\n./y\\a.png|in y\na.png|elsewhere\n{tmp_path}/z/a.png|in z\n{tmp_path}/w/a|in w\n"
    )
    names = ("y/a.png", "x/a.png", "z/a.png", "q/a.png", "w/a.png")
    found = captions_in_file(images(tmp_path, *names), str(file))
    assert found == ("in y", "in x", "in z", "elsewhere", "in w")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png|cat\n", "expected a caption for each image, found none for 1 of 2, first b.jpg"),
        ("a.png|cat\na.png|dog\n", ":2: expected one caption .* found another one for a.png, first at .*:1"),
        ("a.png|cat\nb.jpg cat\n", ":2: expected `name|caption`, .* found 'b.jpg cat'"),
        ("", "expected captions, found an empty file"),
        ('{"file_name": "a.png"}\n{"x": 1}', r":2: expected an object with file_name .* the keys x|:1: "),
        ('{"file_name": "a.png", "text": "cat"}\n{"file_name"', ":2: expected an object such as"),
        ('{"file_name": "a.png", "text": 5}', "expected a text under text, caption, .*, found 5"),
        ('{"a.png": null}', "captions: a.png: expected a text"),
        ("file_name,text\na.png,a cat, sitting\n", ":2: expected 2 columns as in .* found 3. Put texts"),
    ],
)
def test_mistakes_in_a_caption_file(tmp_path, content, message):
    file = tmp_path / "captions"
    file.write_text(content)
    found = error_of(captions_in_file, images(tmp_path, "a.png", "b.jpg"), str(file))
    assert found.startswith(f"caption_file {file}")
    expression = message if ".*" in message or "\\" in message else re.escape(message)
    assert re.search(expression, found), found


def test_a_name_twice_with_the_same_caption_is_no_mistake(tmp_path):
    file = tmp_path / "captions"
    rows = [{"file_name": "a.png", "text": "cat"}] * 2
    file.write_text("\n".join(map(json.dumps, rows)))
    assert captions_in_file(images(tmp_path, "a.png"), str(file)) == ("cat",)
