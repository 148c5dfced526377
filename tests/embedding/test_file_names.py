"""Names of the files of an embedding for SDXL."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ti_flax.embedding.file_names import first_half, second_half, word_stem


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("learned_embeds.safetensors", "learned_embeds_2.safetensors"),
        ("learned_embeds.bin", "learned_embeds_2.bin"),
        ("learned_embeds-steps-500.safetensors", "learned_embeds_2-steps-500.safetensors"),
        ("learned_embeds-best.safetensors", "learned_embeds_2-best.safetensors"),
        ("my-cat.safetensors", "my-cat_2.safetensors"),
        ("-steps-5.bin", "-steps-5_2.bin"),
    ],
)
def test_halves_name_one_another(first, second):
    folder = Path("/somewhere")
    assert second_half(folder / first) == folder / second
    assert first_half(folder / second) == folder / first


@pytest.mark.parametrize("name", ["learned_embeds.bin", "cat2.bin", "_2.bin", "cat_2x.bin", "cat_2-x.bin"])
def test_other_names_are_no_second_half(name):
    assert first_half(Path(name)) is None


@pytest.mark.parametrize(
    ("token", "stem"),
    [
        ("<my-cat>", "my-cat"),
        ("<My Cat>: $(x)", "My-Cat-x"),
        ("Katze_ä", "Katze_ä"),
        ("../../etc/passwd", "etc-passwd"),
        ("<>", "concept"),
        ("", "concept"),
        ("nul", "word-nul"),
        ("<COM1>", "word-COM1"),
        ("console", "console"),
        ("<learned_embeds>", "word-learned_embeds"),
        ("Learned_Embeds_2", "word-Learned_Embeds_2"),
    ],
)
def test_a_word_as_the_name_of_a_file(token, stem):
    assert word_stem(token) == stem


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=300))
def test_every_word_is_a_name_on_every_system(token):
    stem = word_stem(token)
    assert re.fullmatch(r"[\w-]+", stem) and len(stem.encode()) <= 130 and not stem.startswith("-")
    assert word_stem(stem) == stem
