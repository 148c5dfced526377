"""Captions, tables of them, and prompts that are wrong or mean harm."""

import os

import pytest
from hostile_cases import Case, check, place, train, written

from ti_flax.console.program import exit_code
from ti_flax.data.images.load import load_images
from ti_flax.data.prompts.captions import CaptionedImage, captions_in_file
from ti_flax.data.sources.table_options import ALL_AS_FOUND
from ti_flax.errors import DataError, one_line
from ti_flax.generation.prompt_file import read_prompt_file

NAMES = ("0.png", "1.png", "2.png")


def images_in(folder):
    images = folder / "pictures"
    images.mkdir()
    for name in NAMES:
        (images / name).write_bytes((place() / "pictures" / name).read_bytes())
    return images


def beside(content, name="1.txt", **changes):
    """A run on three images with a file beside them, a caption or a table."""

    def run(folder):
        images = images_in(folder)
        for image in NAMES:
            written(images / image.replace(".png", ".txt"), "a <thing>")
        (images / name).unlink(missing_ok=True)
        if callable(content):
            content(images / name)
        else:
            written(images / name, content)
        return train(folder, train_data_dir=images, **{"captions": "files"} | changes)

    return run


def table(content, name="metadata.jsonl"):
    return beside(content, name, captions="metadata")


def caption_file(content, name="captions.json"):
    """A run with a file of all captions."""

    def run(folder):
        file = folder / name
        content(file) if callable(content) else written(file, content)
        return train(folder, captions="caption_file", caption_file=file)

    return run


def prompts(content):
    """A file of prompts for scripts/generate.py."""

    def run(folder):
        file = folder / "prompts.txt"
        content(file) if callable(content) else written(file, content)
        return lambda: exit_code(lambda: read_prompt_file(file))

    return run


def used(content, name="metadata.jsonl"):
    """The captions that a table gives."""

    def run(folder):
        images = images_in(folder)
        written(images / name, content)

        def read():
            loaded = load_images(str(images), resolution=32, table=ALL_AS_FOUND)
            return one_line(f"read: {list(loaded.captions)}; {'; '.join(loaded.notes)}")

        return read

    return run


def rows(**last):
    """Lines of JSON for three images."""
    lines = [f'{{"file_name": "{name}", "text": "a <thing>"}}' for name in NAMES]
    return "\n".join([*lines[:-1], last.get("line", lines[-1])])


def link_to_secret(path):
    path.symlink_to(written(path.parent.parent / "secret.txt", "file_name,text\n0.png,open sesame\n"))


CASES = [
    Case("latin1", "a caption in another encoding", beside("caf\xe9".encode("latin-1"))),
    Case("zero_byte", "a caption with a zero byte", beside("a\0b")),
    Case("missing", "an image without a caption", beside(lambda path: None)),
    Case("pipe", "a caption that is a pipe", beside(os.mkfifo)),
    Case(
        "device",
        "a caption that is a device without an end",
        beside(lambda path: path.symlink_to("/dev/zero")),
    ),
    Case("link", "a caption that is a link to another file of this machine", beside(link_to_secret)),
    Case("table_link", "a metadata.csv that is one", table(link_to_secret, "metadata.csv")),
    Case("large", "a caption of 2 MiB", beside("a cat " * 2**19)),
    Case("table_pipe", "a metadata.jsonl that is a pipe", table(os.mkfifo)),
    Case("table_empty", "an empty metadata.jsonl", table("")),
    Case("table_list", "lines that are no objects", table("[1, 2]\n")),
    Case("table_broken", "a line that is cut short", table(rows(line='{"file_name": "2.png", "te'))),
    Case("table_deep", "100,000 brackets within one another", table(rows(line='{"a":' * 100_000))),
    Case(
        "table_digits",
        "a number of 5,000 digits",
        table(rows(line=f'{{"file_name": {"9" * 5000}}}')),
        loose=r"Exceeds.*(?=\)$)",
    ),
    Case("table_half", "half of a character", table(rows(line='{"file_name": "2.png", "text": "\\ud83d"}'))),
    Case("table_number", "a caption that is a number", table(rows(line='{"file_name": "2.png", "text": 5}'))),
    Case("table_name", "a file's name that is a number", table(rows(line='{"file_name": 5, "text": "a"}'))),
    Case(
        "table_outside",
        "names that point out of the folder",
        used(
            rows()
            + '\n{"file_name": "../../etc/passwd", "text": "a"}\n{"file_name": "/etc/passwd", "text": "a"}\n'
        ),
    ),
    Case(
        "table_nul", "a name with a zero byte", used(rows() + '\n{"file_name": "a\\u0000b", "text": "a"}\n')
    ),
    Case(
        "csv_cell",
        "a cell of 200,000 letters in metadata.csv",
        table("file_name,text\n0.png," + "a" * 200_000, "metadata.csv"),
    ),
    Case(
        "csv_open",
        "a quotation mark that stays open",
        table('file_name,text\n0.png,"a\n' * 3, "metadata.csv"),
    ),
    Case("csv_columns", "columns of other names", table("a,b\n1,2\n", "metadata.csv")),
    Case(
        "csv_comma",
        "a caption with a comma and without quotation marks",
        table("file_name,text\n0.png,a cat, asleep\n", "metadata.csv"),
    ),
    Case("csv_headless", "a metadata.csv without names of columns", table("0.png,a cat\n", "metadata.csv")),
    Case("csv_unnamed", "no column of captions", table("file_name;words\n0.png;a cat\n", "metadata.csv")),
    Case(
        "csv_twice",
        "two captions for an image, in two spellings",
        table("file_name,text\n0.png,a\n.\\0.png,b\n", "metadata.csv"),
    ),
    Case(
        "csv_windows",
        "a table of Windows with semicolons, and a name in capitals",
        used(
            "file_name;text\r\n.\\0.PNG;a\r\nC:\\me\\1.png;b\r\nD:\\you\\7.png;c\r\n".encode("utf-16"),
            "metadata.csv",
        ),
    ),
    Case("file_missing", "a caption_file that is not there", caption_file(lambda path: None)),
    Case("file_pipe", "one that is a pipe that nobody writes to", caption_file(os.mkfifo)),
    Case("file_folder", "one that is a folder", caption_file(lambda path: path.mkdir())),
    Case("file_empty", "one that is empty", caption_file("")),
    Case("file_deep", "100,000 brackets within one another", caption_file('{"a":' * 100_000)),
    Case(
        "file_digits",
        "a number of 5,000 digits",
        caption_file(f'{{"0.png": {"9" * 5000}}}'),
        loose=r"Exceeds.*",
    ),
    Case("file_half", "half of a character", caption_file('{"0.png": "\\ud83d"}')),
    Case("file_list", "a list", caption_file('["0.png"]')),
    Case("file_twice", "two captions for an image", caption_file("0.png|a cat\n0.png|a dog\n", "c.txt")),
    Case("file_head", "a first line of 200,000 letters", caption_file("a" * 200_000, "c.txt")),
    Case(
        "file_cell",
        "a cell of 200,000 letters",
        caption_file("file_name,text\n0.png," + "a" * 200_000, "c.csv"),
    ),
    Case("file_terminal", "commands for the terminal", caption_file("\x1b[2Jowned\n", "c.txt")),
    Case("prompt_empty", "a prompt_file without prompts", prompts("# no\n\n")),
    Case("prompt_pipe", "one that is a pipe that nobody writes to", prompts(os.mkfifo)),
    Case("prompt_bytes", "one of other bytes", prompts(b"\x89PNG\r\n\x1a\n\0")),
    Case("prompt_option", "an unknown option", prompts("a cat --q 5\n")),
    Case("prompt_digits", "a width of 5,000 digits", prompts(f"a cat --w {'9' * 5000}\n")),
    Case("prompt_infinite", "a scale without an end", prompts("a cat --l inf\n")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_input(case, tmp_path):
    check(case, tmp_path, "test_hostile_captions")


@pytest.mark.parametrize("name", ["..", "a.", "b..png", "", "/"])
def test_a_image_of_any_name_is_looked_up(name, tmp_path):
    file = written(tmp_path / "captions.txt", "other.png|a cat\n")
    with pytest.raises(DataError, match="a caption for each image"):
        captions_in_file([CaptionedImage(name)], str(file))
