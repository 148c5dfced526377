"""Notes on a new word that some tools cannot use, given before anything is read."""

import pytest

from ti_flax.config import parse_config
from ti_flax.config.words import better_word, notes_on_word

REQUIRED = ("pretrained_model_name_or_path", "train_data_dir", "initializer_token")


@pytest.mark.parametrize("word", ["<cat-toy>", "<ruby>", "sks_cat", "<my.cat+2>", "<猫>", "*", "S*"])
def test_a_word_that_all_can_use_has_no_note(word):
    assert notes_on_word(word) == []


@pytest.mark.parametrize(
    ("word", "told", "better"),
    [
        ("my cat", "the blank as the end of the word (ComfyUI, and scripts", "<my-cat>"),
        ("<my cat toy>", "the blank as the end", "<my-cat-toy>"),
        ("(cat)", "( ) as more or less weight (the Web UI, ", "<cat>"),
        ("[cat]", "[ ] as more or less weight (the Web UI, ", "<cat>"),
        ("<cat:1.2>", ": as a weight or a command (", "<cat-1.2>"),
        ("{cat|dog}", "{ | } as alternatives (", "<cat-dog>"),
        ("cat\\toy", "\\ as no sign of its own (", "<cat-toy>"),
        ("cat, toy", ", as the end of a tag (captions made of tags)", "<cat-toy>"),
        ("a=b", "= as the end of the word (TOKEN=FILE", "<a-b>"),
        ("$(cat)", "$ as quotes or a command (shells)", "<cat>"),
        ("../cat", "/ as a folder (", "<cat>"),
        ("--cat", "- at its beginning as an option (", "<cat>"),
        ("((()))", "( ) as more or less weight", "<my-concept>"),
    ],
)
def test_what_tools_read_as_something_else_is_noted_in_one_line(word, told, better):
    (line,) = notes_on_word(word)
    assert line.startswith(f"placeholder_token {word!r}: some tools read ") and told in line
    assert line.endswith(f". {better} avoids that")
    assert notes_on_word(better) == []


def test_a_note_is_short_and_can_be_printed():
    (line,) = notes_on_word("my \x1b[2J cat" * 10_000)
    assert len(line) < 700 and line.isprintable()


def test_a_run_says_so_before_it_reads_anything(capsys):
    flags = [f"--{name}=nowhere" for name in REQUIRED]
    parse_config([*flags, "--placeholder_token=my cat"])
    assert capsys.readouterr().err == (
        "note: placeholder_token 'my cat': some tools read the blank as the end of the word (ComfyUI, and "
        "scripts that split prompts at blanks). <my-cat> avoids that\n"
    )
    parse_config([*flags, "--placeholder_token=my cat", "--quiet"])
    assert capsys.readouterr().err == ""


def test_a_better_word_of_a_long_one_is_short():
    assert len(better_word("cat " * 10_000)) < 100
