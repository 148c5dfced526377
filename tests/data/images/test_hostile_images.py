"""Images, and folders of them, that are wrong or mean harm."""

import io
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from colour_profiles import DISPLAY_P3, gray_profile, rgb_profile
from hostile_cases import Case, check, place, train, written
from made_images import (
    PIXELS,
    deep_gray,
    encoded,
    frames,
    gif,
    history,
    icon_bomb,
    impossible_png,
    png,
    text_bomb,
    tiff_cycle,
    webp,
)
from PIL import Image, PngImagePlugin

from ti_flax.data.images.load import load_images
from ti_flax.data.images.masks import MaskRules
from ti_flax.errors import one_line
from ti_flax.files.written_files import only_run, record


def rows(name, content):
    """A run on a table of a folder beside an image that nobody named."""

    def run(folder):
        written(folder / "private.png", encoded("PNG"))
        content(written(folder / "data" / name, ""))
        return train(folder, train_data_dir=folder / "data" / name)

    return run


def class_images_alone(folder):
    written(folder / "data" / "class" / "a.png", encoded("PNG"))
    return train(folder, train_data_dir=folder / "data", class_data_dir=folder / "data" / "class")


def images_of_a_run(folder):
    written(folder / "data" / "run" / "contact_sheet.png", encoded("PNG"))
    with only_run(folder / "data" / "run"):
        record(folder / "data" / "run", "contact_sheet.png")
    return train(folder, train_data_dir=folder / "data")


def one(content, name="a.png"):
    """A run on a folder with one file, or with what a function gives."""

    def run(folder):
        made = content() if callable(content) else content
        return train(folder, train_data_dir=written(folder / "pictures" / name, made).parent)

    return run


def used(content, name="a.png"):
    """What is read from a folder with one file."""

    def run(folder):
        images = written(folder / "pictures" / name, content).parent
        return lambda: said(load_images(str(images), resolution=32))

    return run


def among(make, name):
    """What is read from a folder with three images and what a function makes."""

    def run(folder):
        images = folder / "pictures"
        images.mkdir()
        for image in (place() / "pictures").iterdir():
            (images / image.name).write_bytes(image.read_bytes())
        make(images / name)
        return lambda: said(load_images(str(images), resolution=32))

    return run


def alone(make, name="a.png"):
    """A run on what a function makes."""

    def run(folder):
        make(folder / name)
        return train(folder, train_data_dir=folder / name)

    return run


def in_folder(make, name="a.png"):
    """A run on a folder that holds what a function makes, and nothing else."""

    def run(folder):
        (folder / "pictures").mkdir()
        make(folder / "pictures" / name)
        return train(folder, train_data_dir=folder / "pictures")

    return run


def without(module, content, name):
    """A run on a folder with one file, where a package is not installed."""

    def run(folder):
        begin = one(content, name)(folder)

        def read():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Image, "OPEN", dict(Image.OPEN))
                Image.OPEN.pop({"pillow_heif": "HEIF", "pillow_jxl": "JXL"}[module], None)
                patch.setitem(sys.modules, module, None)
                return begin()

        return read

    return run


def said(images):
    """What a run would learn from."""
    assert sum(len(group.pixels) for group in images.groups) == len(images.names)
    assert all(group.pixels.dtype == np.uint8 for group in images.groups)
    over = f", {len(images.passed_over)} passed over" if images.passed_over else ""
    notes = "".join(f"; {note}" for note in images.notes)
    return one_line(f"read: {len(images.names)} of 32 x 32{over}{notes}")


def make_socket(path):
    there = os.getcwd()
    os.chdir(path.parent)  # a socket's whole path may have 108 letters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(there)


def many(path):
    """100,000 files, all of them names of one."""
    first = written(path / "00000.dat", b"no image")
    for number in range(1, 100_000):
        if number % 50_000 == 0:  # file systems limit the names of one file
            first = written(path / f"{number:05d}.dat", b"no image")
        else:
            os.link(first, path / f"{number:05d}.dat")
    written(path / "picture.png", encoded("PNG"))


def nested(folder):
    """An image in 1,100 folders within one another, which only go one by one."""

    def read():
        there = os.getcwd()
        os.chdir(folder)
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
        Path("a.png").write_bytes(encoded("PNG"))
        try:
            return said(load_images(str(folder / "d"), resolution=32))
        finally:
            Path("a.png").unlink()
            for _ in range(1100):
                os.chdir("..")
                os.rmdir("d")
            os.chdir(there)

    return read


def masked(make):
    def run(folder):
        (folder / "masks").mkdir()
        make(folder / "masks" / "0.png")
        masks = MaskRules(folder=folder / "masks")
        return lambda: said(load_images(str(place() / "pictures"), resolution=32, masks=masks))

    return run


def bytes_name(path):
    os.symlink(place() / "pictures" / "0.png", os.fsencode(path.parent) + b"/caf\xe9\n\x1b[2J.png")


def recycle_bin(path):
    written(path / "S-1-5-21" / "$R1.png", encoded("PNG"))


def parquet(path, image):
    import datasets

    datasets.Dataset.from_dict({"image": [image]}).to_parquet(path)


def readme(folder):
    """A run on a folder whose README.md names the data of another one."""
    (folder / "private").mkdir()
    parquet(folder / "private" / "a.parquet", "a.png")
    (folder / "data").mkdir()
    parquet(folder / "data" / "b.parquet", "b.png")
    configs = "---\nconfigs:\n- config_name: default\n  data_files: ../private/a.parquet\n---\n"
    written(folder / "data" / "README.md", configs)
    return train(folder, train_data_dir=folder / "data")


HEIC = b"\x00\x00\x00\x18ftypheic"
PROFILE = rgb_profile(DISPLAY_P3)
LARGE = r"\d{6,}(?= pixels)"
CASES = [
    Case("zero_bytes", "a PNG of zero bytes", one(b"")),
    Case("cut_png", "a PNG that is cut short", one(encoded("PNG")[:-2000]), loose=r"(?<=decoded \().*(?=\))"),
    Case(
        "cut_jpeg", "a JPEG that is cut short", one(encoded("JPEG")[:-400], "a.jpg"), loose=r"\d+(?= bytes)"
    ),
    Case("text", "text named .png", one("once upon a time")),
    Case("pointer", "a Git LFS pointer", one("version https://git-lfs.github.com/spec/v1\n", "a.jpg")),
    Case("html", "a web page named .jpg", one("<!doctype html><title>404</title>", "a.jpg")),
    Case("mislabelled", "a JPEG named .png", used(encoded("JPEG"))),
    Case("no_suffix", "a PNG without a suffix", used(encoded("PNG"), "picture")),
    Case("one_pixel", "an image of 1 x 1", used(encoded("PNG", Image.new("RGB", (1, 1))))),
    Case("strip", "an image of 30,000 x 20", used(png(30_000, 20))),
    Case("pole", "an image of 20 x 30,000", used(png(20, 30_000))),
    Case(
        "bomb", "a PNG of 2 MB that unfolds to 20,000 x 20,000", one(lambda: png(20_000, 20_000)), loose=LARGE
    ),
    Case(
        "bomb_header",
        "a PNG that says it has 2,000,000,000 x 2,000,000,000",
        one(impossible_png()),
        loose=r"(?<=decoded \().*(?=\))",
    ),
    Case("bomb_gif", "a GIF that says it has 65,535 x 65,535", one(gif(65535, 65535), "a.gif"), loose=LARGE),
    Case(
        "bomb_webp", "a WebP that says it has 16,383 x 16,383", one(webp(16383, 16383), "a.webp"), loose=LARGE
    ),
    Case(
        "bomb_icon",
        "an icon with an image of 20,000 x 20,000 in it",
        one(icon_bomb(), "a.ico"),
        loose=r"\d{6,}(?= pixels)|(?<=decoded \().*(?=\))",
    ),
    Case("bomb_text", "a PNG whose text unfolds to 8 MB", one(text_bomb), loose=r"(?<=decoded \().*(?=\))"),
    Case("animated_gif", "an animated GIF of 200 frames", used(frames("GIF"), "a.gif")),
    Case("animated_webp", "an animated WebP of 200 frames", used(frames("WEBP"), "a.webp")),
    Case("animated_png", "an animated PNG of 200 frames", used(frames("PNG"))),
    Case("tiff_cycle", "a TIFF whose directory follows itself", used(tiff_cycle(), "a.tif")),
    Case("not_a_number", "a TIFF of what are no numbers", one(deep_gray(), "a.tif")),
    Case("cmyk", "a JPEG in CMYK", used(encoded("JPEG", Image.fromarray(PIXELS).convert("CMYK")), "a.jpg")),
    Case("heic", "a HEIC without the package that reads it", without("pillow_heif", HEIC, "a.heic")),
    Case("heic_named_jpg", "the same named .jpg", without("pillow_heif", HEIC, "a.jpg")),
    Case("jxl", "a JPEG XL without its package", without("pillow_jxl", b"\xff\x0a\x00", "a.jxl")),
    Case("heic_empty", "a HEIC of zero bytes", one(b"", "a.heic")),
    Case(
        "profile_text", "a colour profile of other bytes", used(encoded("PNG", icc_profile=b"no profile" * 9))
    ),
    Case(
        "profile_head", "a colour profile that is cut short", used(encoded("PNG", icc_profile=PROFILE[:140]))
    ),
    Case(
        "profile_count",
        "a colour profile that says it has 4,000,000,000 parts",
        used(encoded("PNG", icc_profile=PROFILE[:128] + b"\xff" * 4 + PROFILE[132:])),
    ),
    Case(
        "profile_kind",
        "a colour profile of gray in an image in colour",
        used(encoded("PNG", icc_profile=gray_profile(1.8))),
    ),
    Case(
        "gray_bits",
        "gray of 12 bits in a file of 16",
        used(encoded("TIFF", Image.fromarray(PIXELS[..., 0] * np.uint16(16))), "a.tif"),
    ),
    Case(
        "origin",
        "a PNG that says it was cut from 9,999,999 x 9,999,999 pixels",
        used(encoded("PNG", exif=history("of 9999999x9999999 took 0,0,8,8 as 8x8"))),
    ),
    Case("svg", "an SVG", one("<svg/>", "a.svg")),
    Case("eps", "a program in PostScript", one("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.eps")),
    Case("nothing", "an empty folder", in_folder(lambda path: None)),
    Case("others", "a folder of other files", one("print()", "a.py")),
    Case("none", "a folder that is not there", lambda folder: train(folder, train_data_dir=folder / "no")),
    Case("pipe", "a pipe that nobody writes to, alone in a folder", in_folder(os.mkfifo)),
    Case("pipe_among", "the same among images", among(os.mkfifo, "z.png")),
    Case("pipe_itself", "the same as train_data_dir", alone(os.mkfifo)),
    Case("socket", "a socket among images", among(make_socket, "z.png")),
    Case("socket_itself", "a socket as train_data_dir", alone(make_socket, "s")),
    Case(
        "device",
        "a link to a device without an end",
        among(lambda path: path.symlink_to("/dev/zero"), "z.png"),
    ),
    Case(
        "device_itself", "such a device as train_data_dir", alone(lambda path: path.symlink_to("/dev/zero"))
    ),
    Case("loop", "a link to itself", among(lambda path: path.symlink_to(path), "z.png")),
    Case("loop_itself", "the same as train_data_dir", alone(lambda path: path.symlink_to(path))),
    Case("broken_link", "a link to nothing", in_folder(lambda path: path.symlink_to("nothing"))),
    Case("circle", "a folder with a link to itself", among(lambda path: path.symlink_to(path.parent), "z")),
    Case("folder_name", "a folder named z.png", among(lambda path: path.mkdir(), "z.png")),
    Case("bytes_name", "a name that is no UTF-8, with commands for the terminal", among(bytes_name, "z.png")),
    Case("long_name", "a name of 255 letters", used(encoded("PNG"), "n" * 251 + ".png")),
    Case(
        "system_folders",
        "thumbnails of a network drive among images",
        among(
            lambda path: written(path / "@eaDir" / "a.png" / "SYNOPHOTO_THUMB_M.jpg", encoded("JPEG")), "z"
        ),
    ),
    Case("system_alone", "a recycle bin alone in a folder", in_folder(recycle_bin, "$RECYCLE.BIN")),
    Case("nested", "1,100 folders within one another", nested),
    Case(
        "list_missing",
        "a list that names a file that is not there",
        alone(lambda path: written(path, "no.png\n"), "list.txt"),
    ),
    Case(
        "list_device",
        "a list that names a device",
        alone(lambda path: written(path, "/dev/zero\n"), "list.txt"),
    ),
    Case(
        "list_scheme",
        "a list that names a link of another kind",
        alone(lambda path: written(path, "file:///etc/passwd\n"), "list.txt"),
    ),
    *(
        Case(f"link_{name}", given, alone(lambda path, link=link: written(path, f"{link}\n"), "list.txt"))
        for name, given, link in (
            ("own", "a list with a link to this machine", "http://127.0.0.1:9/a.png"),
            ("number", "the same as one number", "http://2130706433:9/a.png"),
            ("hexadecimal", "the same in hexadecimal", "http://0x7f.1:9/a.png"),
            ("wrapped", "the same in IPv6", "http://[::ffff:127.0.0.1]:9/a.png"),
            (
                "metadata",
                "a link to the secrets of a machine in a cloud",
                "http://169.254.169.254/latest/a.png",
            ),
            ("network", "a link to a private network", "https://10.0.0.1/a.png"),
            ("brackets", "a link with a bracket that stays open", "http://[::1/a.png"),
            ("port", "a link with a port that is none", "http://127.0.0.1:x/a.png"),
        )
    ),
    Case(
        "row_above",
        "a metadata.jsonl that names a file above its folder",
        rows("metadata.jsonl", lambda path: written(path, '{"file_name": "../private.png"}\n')),
    ),
    Case(
        "row_absolute",
        "one with an absolute path",
        rows("a.csv", lambda path: written(path, f"file_name\n{path.parent.parent}/private.png\n")),
    ),
    Case(
        "row_linked",
        "one that names a link out of its folder",
        rows(
            "a.csv",
            lambda path: (
                written(path, "file_name\na.png\n"),
                (path.parent / "a.png").symlink_to("../private.png"),
            ),
        ),
    ),
    Case(
        "parquet_above",
        "a .parquet whose row names a file above its folder",
        rows("a.parquet", lambda path: parquet(path, "../private.png")),
    ),
    Case(
        "parquet_absolute",
        "one with an absolute path",
        rows("a.parquet", lambda path: parquet(path, f"{path.parent.parent}/private.png")),
    ),
    Case("parquet_elsewhere", "a folder whose README.md names another one's data", readme),
    Case(
        "linked",
        "an image that is a link out of its folder",
        among(lambda path: path.symlink_to(place() / "pictures" / "0.png"), "z.png"),
    ),
    Case(
        "list_binary",
        "a file of other bytes as train_data_dir",
        alone(lambda path: written(path, os.urandom(64) + b"\0\xff"), "a.bin"),
    ),
    Case(
        "list_home",
        "a list that names the home of nobody",
        alone(lambda path: written(path, "~nobody-here/a.png\n"), "list.txt"),
    ),
    Case(
        "parquet",
        "a damaged .parquet",
        alone(lambda path: written(path, b"PAR1 no PAR1"), "a.parquet"),
        loose=r"(?<=cannot be read \().*(?=\))",
    ),
    Case("mask_pipe", "a mask that is a pipe", masked(os.mkfifo)),
    Case("mask_empty", "a mask of zero bytes", masked(lambda path: written(path, b""))),
    Case(
        "mask_bomb",
        "a mask that unfolds to 20,000 x 20,000",
        masked(lambda path: written(path, png(20_000, 20_000))),
        loose=LARGE,
    ),
    Case(
        "class_same",
        "one folder as train_data_dir and class_data_dir",
        lambda folder: train(folder, class_data_dir=place() / "pictures"),
    ),
    Case("class_only", "a folder with no images but those of class_data_dir", class_images_alone),
    Case("run_only", "a folder with no images but those that a run wrote", images_of_a_run),
    Case("mask_strip", "a mask of another shape", masked(lambda path: written(path, png(30_000, 20)))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_images")


def test_the_text_that_unfolds_does(tmp_path):
    """The case `bomb_text` is no bomb if nothing in it would unfold."""
    assert len(text_bomb()) < 100_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 2**30)
        patch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2**30)
        with Image.open(io.BytesIO(text_bomb())) as image:
            image.load()
            assert len(image.info["note"]) == 2**23


def test_a_name_of_any_bytes_is_read(tmp_path):
    (tmp_path / "pictures").mkdir()
    bytes_name(tmp_path / "pictures" / "x")
    images = load_images(str(tmp_path / "pictures"), resolution=32)
    assert os.fsencode(images.names[0]) == b"caf\xe9\n\x1b[2J.png"
