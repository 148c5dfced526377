"""What images say about themselves, and the names they get."""

import re

import pytest
from full_disk import save_half
from PIL import Image

from ti_flax.errors import OutputError
from ti_flax.generation.png_metadata import (
    ImageSpec,
    Provenance,
    grid_path,
    image_file_name,
    image_texts,
    next_number,
    save_png,
    web_ui_text,
)

SPEC = ImageSpec("a cat", "", 3, (64, 128), 25, "ddim", 7.0)


def test_the_web_uis_text():
    text = web_ui_text(SPEC, Provenance("model"))
    assert re.fullmatch(
        r"a cat\nSteps: 25, Sampler: DDIM, CFG scale: 7, Seed: 3, Size: 128x64, Model: model, "
        r"Version: ti_flax [\d.]+",
        text,
    )


def test_embeddings_and_what_else_the_web_ui_is_told():
    maker = Provenance("v1,5", 1, [("<a>", "a.bin", "0" * 64), ("b", "b.pt", "1" * 64)])
    text = web_ui_text(SPEC, maker)
    assert 'Model: "v1,5", Clip skip: 2, TI hashes: "<a>: 000000000000, b: 111111111111", ' in text
    without = ImageSpec(**(vars(SPEC) | {"learned": False, "negative_prompt": "dog"}))
    assert "TI hashes" not in web_ui_text(without, maker)
    assert web_ui_text(without, maker).splitlines()[1] == "Negative prompt: dog"
    assert image_texts(without, maker)["learned_embeds"] == "[]"


def test_names(tmp_path):
    assert image_file_name(7, SPEC) == "00007-3.png"
    assert image_file_name(123456, ImageSpec(**(vars(SPEC) | {"learned": False}))) == "123456-3-without.png"
    assert next_number(tmp_path / "none") == next_number(tmp_path) == 1
    for name in ("00002-1.png", "00010-9-without.png", "grid.png", "00099.txt", "x00050-1.png"):
        (tmp_path / name).touch()
    assert next_number(tmp_path) == 11


def test_where_the_grid_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        path = grid_path(None, None, overwrite=False)
        save_png(Image.new("RGB", (4, 4)), path, {"a": "b"})
        names.append(path.name)
    assert names == ["pictures.png", "pictures-2.png", "pictures-3.png"]
    assert grid_path(None, None, overwrite=True).name == "pictures.png"
    assert str(grid_path(None, tmp_path / "new", overwrite=False)).endswith("new/grid.png")
    with pytest.raises(OutputError, match="pictures.png: expected a new file"):
        grid_path(tmp_path / "pictures.png", None, overwrite=False)


def test_a_image_is_not_replaced(tmp_path):
    path = tmp_path / "new" / "a.png"
    save_png(Image.new("RGB", (4, 4), "red"), path, {"note": "日本", "plain": "é"})
    with Image.open(path) as image:
        assert image.text == {"note": "日本", "plain": "é"}
    with pytest.raises(OutputError, match="a.png: expected a new file"):
        save_png(Image.new("RGB", (4, 4), "blue"), path, {})
    with Image.open(path) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)
    save_png(Image.new("RGB", (4, 4), "blue"), path, {}, overwrite=True)
    with pytest.raises(OutputError, match="a file that can be written"):
        save_png(Image.new("RGB", (4, 4)), path / "b.png", {})


def test_a_full_disk_leaves_the_image_that_was_to_be_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (4, 4), "red"), path, {})
    before = path.read_bytes()
    monkeypatch.setattr(Image.Image, "save", save_half)
    for target in (path, tmp_path / "new.png"):
        with pytest.raises(OutputError, match="No space left"):
            save_png(Image.new("RGB", (4, 4)), target, {}, overwrite=True)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["a.png"]
