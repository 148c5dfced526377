"""Prompts of text files, with kohya's options behind them."""

import pytest

from ti_flax.errors import DataError
from ti_flax.generation.prompt_file import PromptLine, parse_prompt, read_prompt_file


def test_every_option_is_understood():
    line = "a cat, sitting --n dogs, blurry --w 512 --h 768 --d 42 --s 30 --l 6.5 --ss ddim"
    assert parse_prompt(line, "x") == PromptLine(
        "a cat, sitting", "dogs, blurry", 512, 768, seed=42, steps=30, guidance_scale=6.5, sampler="ddim"
    )


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("a cat", PromptLine("a cat")),
        ("  a well-known cat -- in 4--5 parts  ", PromptLine("a well-known cat -- in 4--5 parts")),
        ("a cat --D 3", PromptLine("a cat", seed=3)),
        ("a cat --n", PromptLine("a cat", "")),
        ("a cat # not a comment", PromptLine("a cat # not a comment")),
    ],
)
def test_what_belongs_to_the_prompt(line, prompt):
    assert parse_prompt(line, "x") == prompt


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a cat --x 3", "expected an option out of --n, --w, --h, --d, --s, --l, --ss, found --x"),
        ("a cat --w wide", "x, --w: expected a whole number, found 'wide'"),
        ("a cat --d 1.5", "--d: expected a whole number"),
        ("a cat --l high", "--l: expected a number, found 'high'"),
        ("a cat --l nan", "--l: expected a number, found 'nan'"),
        ("a cat --d -1", "--d: expected a whole number, found '-1'"),
        ("--n dogs", "expected a prompt before its options, found '--n dogs'"),
    ],
)
def test_mistakes_name_the_place(line, words):
    with pytest.raises(DataError, match=words):
        parse_prompt(line, "x")


def test_a_file_has_a_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# first\r\n\r\na cat\r\n  # second\r\n猫 --s 5\r\n".encode("utf-8"))
    assert read_prompt_file(path) == [PromptLine("a cat"), PromptLine("猫", steps=5)]
    path.write_text("a cat\n# b\na dog --q 3\n")
    with pytest.raises(DataError, match="prompts.txt, line 3: expected an option out of"):
        read_prompt_file(path)
    path.write_text("# nothing\n\n")
    with pytest.raises(DataError, match="prompts.txt: expected a prompt a line, found none"):
        read_prompt_file(path)
    with pytest.raises(DataError, match="prompt_file .*none: expected a text file"):
        read_prompt_file(tmp_path / "none")
