import numpy as np
import pytest

from ti_flax.errors import TokenError
from ti_flax.models.tokenizer import (
    add_word,
    check_names_apart,
    encode_prompts,
    expand_known,
    load_tokenizer,
    save_tokenizer,
    split_text,
)
from ti_flax.models.word_places import Concept


def add(tokenizer, placeholder="<cat-toy>", vectors=1):
    return add_word(tokenizer, placeholder_token=placeholder, num_vectors=vectors)


@pytest.mark.parametrize("placeholder", ["<cat-toy>", "<猫>", "mycat2000"])
def test_tokens_are_named_as_diffusers_names_them_and_found_again(tokenizer, placeholder):
    known = len(tokenizer)
    concept = add(tokenizer, placeholder, vectors=3)
    assert concept.tokens == (placeholder, f"{placeholder}_1", f"{placeholder}_2")
    assert concept.token_ids == (known, known + 1, known + 2)
    token_ids = encode_prompts(tokenizer, [f"a photo of a {concept.text}, nice"], concept=Concept((concept,)))
    assert token_ids.shape == (1, 77) and token_ids.dtype == np.int32
    assert [i for i in token_ids[0] if i >= known] == list(concept.token_ids)
    assert token_ids[0, 0] == tokenizer.bos_token_id and token_ids[0, -1] == tokenizer.pad_token_id


def test_a_prompt_expands_to_all_vectors_once(tokenizer):
    concept = add(tokenizer, vectors=2)
    written_out = "a <cat-toy> <cat-toy>_1 on a beach"
    assert concept.expand("a <cat-toy> on a beach") == written_out
    assert concept.expand(written_out) == written_out
    assert expand_known(tokenizer, "a <cat-toy> on a beach") == written_out


@pytest.mark.parametrize(
    "placeholder, message",
    [
        ("cat", r"placeholder_token 'cat'.*knows, as \['cat</w>'\].*<cat-concept>"),
        ("", "placeholder_token ''.*empty"),
        (" <x>", "padded"),
    ],
)
def test_mistakes_show_how_the_text_was_split(tokenizer, placeholder, message):
    known = len(tokenizer)
    with pytest.raises(TokenError, match=message):
        add(tokenizer, placeholder)
    assert len(tokenizer) == known


def test_a_placeholder_cannot_be_added_twice(tokenizer):
    add(tokenizer)
    with pytest.raises(TokenError, match="new word"):
        add(tokenizer)


@pytest.mark.parametrize(
    ("new", "found"),
    [("my<CAT-toy>", "'<cat-toy>'"), ("<cat-toy>_1", "'<cat-toy>'"), ("at-To", "'<cat-toy>'")]
    + [("a<|endoftext|>", r"'<\|endoftext\|>'")],
)
def test_a_word_that_shares_letters_with_an_added_one_is_refused(tokenizer, new, found):
    add(tokenizer)
    with pytest.raises(TokenError, match=f"expected a word that neither contains .* found {found} beside it"):
        add(tokenizer, new)


@pytest.mark.parametrize("other", ["<CAT-toy>", "a <Cat-Toy>", "at-t", "<cafe\u0301><cat-toy>"])
def test_words_are_told_apart_as_the_tokenizer_reads_them(other):
    with pytest.raises(TokenError, match="found '<cat-toy>' beside it"):
        check_names_apart(["<cat-toy>", other])
    check_names_apart(["<cat-toy>", "<café>", "<dog>"])


def test_a_concept_that_does_not_fit_into_the_prompt_is_said(tokenizer):
    concept = add(tokenizer, vectors=76)
    with pytest.raises(TokenError, match="all 76 tokens of <cat-toy> within 77 tokens"):
        encode_prompts(tokenizer, [f"a photo of {concept.text}"], concept=Concept((concept,)))


def test_a_saved_tokenizer_has_the_concept(tokenizer, tmp_path):
    concept = add(tokenizer, vectors=2)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path)
    assert split_text(again, concept.text) == split_text(tokenizer, concept.text)
    names = {path.name for path in (tmp_path / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"} <= names


def test_a_folder_without_tokenizer_is_said(tmp_path):
    with pytest.raises(TokenError, match="a CLIP tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_files_is_said(tmp_path):
    """transformers gives an empty one instead, without a word."""
    with pytest.raises(TokenError, match="nobody/nothing: expected a CLIP tokenizer with a vocabulary"):
        load_tokenizer(tmp_path, "nobody/nothing")


def test_the_padding_can_be_another(tokenizer_folder, tokenizer):
    other = load_tokenizer(tokenizer_folder, pad_token="toy</w>")
    row, plain = (encode_prompts(loaded, ["cat"])[0] for loaded in (other, tokenizer))
    assert row[-1] == other.convert_tokens_to_ids("toy</w>") != plain[-1]
    assert list(row[:3]) == list(plain[:3])
