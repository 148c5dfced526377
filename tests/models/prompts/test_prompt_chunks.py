"""Where the borders of chunks are put, and what stands in the chunks."""

import numpy as np
import pytest

from ti_flax.errors import TokenError
from ti_flax.models.prompts.chunks import ChunkRules
from ti_flax.models.tokenizer import add_word, encode_prompts, prompts_cut_off
from ti_flax.models.word_places import Concept

LENGTH, ROOM = 77, 75


def sizes(tokenizer, row):
    """How many tokens of the prompt each chunk of a row holds, after what is around them has been checked."""
    found = []
    for chunk in np.asarray(row).reshape(-1, LENGTH).tolist():
        end = chunk.index(tokenizer.eos_token_id)
        assert chunk[0] == tokenizer.bos_token_id
        assert chunk[end + 1 :] == [tokenizer.pad_token_id] * (LENGTH - 1 - end)
        found.append(end - 1)
    return found


def encode(tokenizer, prompt, chunks):
    return encode_prompts(tokenizer, [prompt], chunks=chunks)[0]


@pytest.mark.parametrize("words", [0, 1, 75])
def test_a_prompt_that_fits_is_followed_by_empty_chunks(tokenizer, words):
    prompt = "red " * words
    found = encode(tokenizer, prompt, 3)
    np.testing.assert_array_equal(found[:LENGTH], encode(tokenizer, prompt, 1))
    np.testing.assert_array_equal(found[LENGTH:], np.tile(encode(tokenizer, "", 1), 2))
    assert found.dtype == np.int32


def test_tokens_go_on_in_the_next_chunk(tokenizer):
    prompt = "red " * 74 + "cat dog " + "blue " * 73
    found = encode(tokenizer, prompt, 2)
    assert sizes(tokenizer, found) == [75, 74]
    whole = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert found[1:76].tolist() == whole[:75] and found[78:152].tolist() == whole[75:]
    assert prompts_cut_off(tokenizer, [prompt], found[None]) == []


@pytest.mark.parametrize(
    ("place", "expected"), [(54, [75, 5]), (55, [56, 24]), (60, [61, 19]), (74, [75, 5])]
)
def test_a_comma_shortly_before_the_border_becomes_the_border(tokenizer, place, expected):
    prompt = "red " * place + ", " + "blue " * (79 - place)
    assert sizes(tokenizer, encode(tokenizer, prompt, 2)) == expected


def test_of_several_commas_the_last_counts_and_one_at_the_border_does_not(tokenizer):
    prompt = "red " * 57 + ", " + "dog " * 9 + ", " + "blue " * 12
    assert sizes(tokenizer, encode(tokenizer, prompt, 2)) == [68, 12]
    assert sizes(tokenizer, encode(tokenizer, "red " * 75 + ", cat", 2)) == [75, 2]
    prompt = "red " * 60 + ", " + "blue " * 14 + ", cat"
    assert sizes(tokenizer, encode(tokenizer, prompt, 2)) == [75, 2]


@pytest.mark.parametrize(("before", "expected"), [(70, [75, 1]), (71, [71, 6]), (74, [74, 6]), (75, [75, 6])])
def test_the_vectors_of_a_word_stay_together(tokenizer, before, expected):
    word = add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=5)
    prompt = "red " * before + "<My-Cat> dog"
    found = encode_prompts(tokenizer, [prompt], concept=Concept((word,)), chunks=2)
    assert sizes(tokenizer, found) == expected
    places = [int(place) for place in np.flatnonzero(found[0] >= word.token_ids[0])]
    assert places == list(range(places[0], places[0] + 5)) and len({place // LENGTH for place in places}) == 1
    assert prompts_cut_off(tokenizer, [prompt], found) == []


def test_what_a_comma_moves_may_make_room_for_no_word(tokenizer):
    add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=60)
    prompt = "red " * 56 + ", " + "blue " * 18 + "<my-cat> dog"
    assert sizes(tokenizer, encode(tokenizer, prompt, 3)) == [57, 18, 61]
    # In two chunks there is room without the comma alone.
    assert sizes(tokenizer, encode(tokenizer, prompt, 2)) == [75, 61]


def test_what_no_chunk_has_room_for_is_cut_off_and_told(tokenizer):
    fits, longer = "red " * 60 + ", " + "blue " * 89, "red " * 60 + ", " + "blue " * 90
    rows = encode_prompts(tokenizer, [fits, longer, "cat"], chunks=2)
    assert [sizes(tokenizer, row) for row in rows] == [[75, 75], [75, 75], [1, 0]]
    assert prompts_cut_off(tokenizer, [fits, longer, "cat"], rows) == [longer]


def test_a_word_that_is_cut_off_is_refused_unless_there_is_another_chunk(tokenizer):
    word = add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=5)
    prompt = "red " * 148 + "<my-cat>"
    message = r"expected all 5 tokens of <my-cat> within 154 tokens, found 0 of them"
    with pytest.raises(TokenError, match=message):
        encode_prompts(tokenizer, [prompt], concept=Concept((word,)), chunks=2)
    found = encode_prompts(tokenizer, [prompt], concept=Concept((word,)), chunks=3)
    assert sizes(tokenizer, found) == [75, 73, 5]


def test_any_number_of_chunks_holds_all_and_a_word_of_more_vectors_than_one_does(tokenizer):
    add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=100)
    rules = ChunkRules.of(tokenizer)
    tokens = tuple(tokenizer.convert_tokens_to_ids(["<my-cat>", *(f"<my-cat>_{i}" for i in range(1, 100))]))
    chunks = rules.chunks(rules.pieces([5] * 300 + [*tokens]), None)
    assert sizes(tokenizer, rules.token_ids(chunks, len(chunks))) == [75, 75, 75, 75, 75, 25]
    assert rules.chunks([], None) == [[]]
