"""The tokenizer that the demo's model comes with is a real CLIP tokenizer."""

import json
from pathlib import Path

import pytest
from base_model import TOKENS
from captions import vocabulary
from clip_tokenizer import byte_alphabet, learn_merges, write_tokenizer

from ti_flax.data.prompts.templates import training_prompts

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.fixture(scope="module")
def demo_tokenizer():
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(ASSETS / "demo-model" / "tokenizer")


def test_tokenizer_files_are_those_the_script_makes(tmp_path):
    write_tokenizer(tmp_path, words=" ".join(vocabulary()), length=TOKENS)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (ASSETS / "demo-model" / "tokenizer").iterdir()}
    assert made == kept


def test_merges_by_hand():
    # "low" thrice and "lot" once: the pair seen four times first, ties in order of the alphabet.
    assert learn_merges("low low low lot") == ["l o", "lo w</w>", "lo t</w>"]
    # "aa" thrice; "aaaa" is then aa a a</w>, merged from the left, and every pair is seen once.
    assert learn_merges("aaaa aaa") == ["a a", "a a</w>", "aa a</w>", "aa aa</w>"]


def test_alphabet_is_that_of_byte_level_tokenizers():
    from tokenizers import pre_tokenizers

    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(byte_alphabet()) == 256
    assert (byte_alphabet()[0], byte_alphabet()[-1]) == ("!", "\u0143")


def test_common_words_are_one_token(demo_tokenizer):
    prompts = training_prompts("toy", "object") + training_prompts("toy", "style")
    for word in {*vocabulary(), *" ".join(prompts).replace("-", " ").split()}:
        assert demo_tokenizer.tokenize(word) == [f"{word}</w>"]
    assert len(demo_tokenizer.tokenize("xylograph")) > 1


@pytest.mark.parametrize("text", ["a photo of a cat", "A Close-Up photo, 42 DOGS!", "naïve café 🐱", "\t\n"])
def test_text_survives_as_bytes(demo_tokenizer, text):
    ids = demo_tokenizer(text, add_special_tokens=False).input_ids
    pieces = "".join(demo_tokenizer.convert_ids_to_tokens(ids)).replace("</w>", "")
    characters = byte_alphabet()
    printable = [byte for byte in range(256) if chr(byte) in characters]
    order = printable + [byte for byte in range(256) if byte not in printable]
    by_character = dict(zip(characters, order))
    assert bytes(by_character[c] for c in pieces).decode() == "".join(text.lower().split())


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_pad_token_and_words(tmp_path, pad):
    from transformers import CLIPTokenizer

    size = len(write_tokenizer(tmp_path / "tokenizer", words="cat table", pad_token=pad))
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    vocabulary = json.loads((tmp_path / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert len(tokenizer) == size == len(vocabulary)
    assert tokenizer.model_max_length == 77
    ids = tokenizer("a cat", padding="max_length", truncation=True).input_ids
    expected = [size - 2, vocabulary["a</w>"], vocabulary["cat</w>"], size - 1]
    assert ids == expected + [vocabulary[pad]] * 73
    assert tokenizer.tokenize("table tables") != ["table</w>", "tables</w>"]
