"""The table of prompts: exact where nothing is random, and drawn from the seed alone where something is."""

import collections

import numpy as np
import pytest
from clip_tokenizer import write_tokenizer
from tiny_folder import WORDS

from ti_flax.data.prompts.prompt_table import MOST_ROWS, CaptionRules, encode_table, prompt_table
from ti_flax.data.prompts.templates import OBJECT_TEMPLATES, Template, built_in_templates, training_prompts
from ti_flax.errors import DataError, TokenError
from ti_flax.models.tokenizer import add_word, encode_prompts, load_tokenizer, prompts_cut_off
from ti_flax.models.word_places import Concept

OBJECT = built_in_templates("object", captions=True)
CAPTION = built_in_templates("caption", captions=True)
TAGS = "<cat>, red, blue, a big house, car, dog"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder / "tokenizer", words=WORDS)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def concept(tokenizer):
    return Concept((add_word(tokenizer, placeholder_token="<cat>", num_vectors=2),))


WORD = "<cat> <cat>_1"


def table(concept, templates, captions, *, seed=0, **rules):
    names = [f"{index}.png" for index in range(len(captions))]
    return prompt_table(
        concept, templates, images=names, captions=captions, rules=CaptionRules(**rules), seed=seed
    )


def tags_of(prompt):
    return prompt.split(", ")


# Without captions


def test_without_captions_every_image_has_the_templates_once(tokenizer, concept):
    for name in ("object", "style"):
        templates = built_in_templates(name, captions=False)
        made = prompt_table(concept, templates, images=("a", "b", "c"), seed=5)
        assert made.prompts == (tuple(training_prompts(WORD, name)),)
        assert made.groups == (0, 0, 0)
        expected = encode_prompts(tokenizer, training_prompts(WORD, name), concept=concept)
        np.testing.assert_array_equal(encode_table(tokenizer, made, concept), expected[None])
    assert made.description == "19 templates"


# Exact products


def test_captions_without_the_word_follow_every_template(concept):
    made = table(concept, OBJECT, ["red", "blue", "red"])
    assert made.groups == (0, 1, 0)
    assert made.prompts == tuple(
        tuple(f"{text.format(WORD)}, {caption}" for text in OBJECT_TEMPLATES) for caption in ("red", "blue")
    )
    assert made.description == "2 different captions x 27 templates: 27 variants of each"
    assert made.origins["a photo of a <cat> <cat>_1, blue"] == "1.png"
    assert made.origins["a photo of a <cat> <cat>_1, red"] == "0.png"  # the first of two


def test_captions_of_a_style_stand_before_its_manner(concept):
    made = table(concept, built_in_templates("style", captions=True), ["a dog", ""])
    assert made.prompts[0][0] == f"a painting of a dog in the style of {WORD}"
    assert made.prompts[1] == tuple(training_prompts(WORD, "style"))


@pytest.mark.parametrize(
    "caption",
    ["a <cat> on a table", "a <CAT> on a table", f"a {WORD} on a table", f"a {WORD.upper()} on a table"],
)
def test_a_caption_that_names_the_word_is_the_prompt(concept, caption):
    made = table(concept, OBJECT, [caption])
    assert made.prompts == ((f"a {WORD} on a table",),)
    assert made.description == "1 caption that names the word: 1 variant of each"


@pytest.mark.parametrize("caption", ["ein cafe\u0301, red", "ein CAFÉ, red", "ein café, red"])
@pytest.mark.parametrize("vectors", [1, 2])
def test_a_caption_names_the_word_as_the_tokenizer_reads_it(tmp_path, caption, vectors):
    write_tokenizer(tmp_path / "tokenizer", words=WORDS)
    word = Concept((add_word(load_tokenizer(tmp_path), placeholder_token="café", num_vectors=vectors),))
    assert table(word, OBJECT, [caption]).prompts == ((f"ein {word.text}, red",),)
    (row,) = table(word, CAPTION, [caption], tag_dropout=1).prompts
    assert set(row) == {f"ein {word.text}"}


def test_a_longer_token_in_a_caption_is_not_the_word(concept):
    made = table(concept, OBJECT[:1], ["a <cat>_12"])
    assert made.prompts == ((f"a photo of a {WORD}, a <cat>_12",),)


def test_mixed_captions_keep_their_templates(concept):
    made = table(concept, OBJECT, ["my <cat>", "red", ""])
    assert set(made.prompts[0]) == {f"my {WORD}"} and len(made.prompts[0]) == 27
    assert made.prompts[1][0] == f"a photo of a {WORD}, red"
    assert made.prompts[2] == tuple(training_prompts(WORD, "object"))


def test_prefix_and_suffix_enter_the_caption(concept):
    made = table(concept, CAPTION, ["red,  blue\n", ""], prefix="a <cat>,", suffix="dog")
    assert made.prompts == ((f"a {WORD}, red, blue dog",), (WORD,))


def test_places_in_a_caption_are_plain_text(concept):
    assert table(concept, OBJECT[:1], ["{} [name]"]).prompts == ((f"a photo of a {WORD}, {{}} [name]",),)


def test_a_caption_without_the_word_is_refused_where_the_template_leaves_it_out(concept):
    with pytest.raises(DataError) as caught:
        table(concept, CAPTION, ["a <cat>", "a dog", "a car"])
    assert str(caught.value) == (
        "caption of 1.png: expected <cat> in it, as templates caption has no [name], found 'a dog', and 1 "
        "more. Nothing would be learned from it: write <cat> into the caption, put it before all captions "
        "with caption_prefix, or use templates with [name]."
    )
    own = (*OBJECT[:1], Template("[filewords] drawn", "[name]", "template_file t.txt:2"))
    with pytest.raises(DataError, match="as template_file t.txt:2 has no .name., found 'a dog'"):
        table(concept, own, ["a dog"])


# Drawn


def test_shuffles_are_permutations_behind_the_kept_tags(concept):
    made = table(concept, CAPTION, [TAGS], shuffle=True, keep_tokens=2)
    (row,) = made.prompts
    expected = tags_of(TAGS.replace("<cat>", WORD))
    assert all(tags_of(prompt)[:2] == expected[:2] for prompt in row)
    assert all(sorted(tags_of(prompt)) == sorted(expected) for prompt in row)
    counts = collections.Counter(row)
    assert len(counts) == 24 and len(row) == 1000  # 4! orders
    assert max(counts.values()) < 75 and min(counts.values()) > 20  # 42 on average


def test_tags_are_left_out_as_often_as_asked_but_never_the_word(concept):
    made = table(concept, CAPTION, [TAGS], tag_dropout=0.3, keep_tokens=0)
    (row,) = made.prompts
    original = tags_of(TAGS.replace("<cat>", WORD))
    counts = collections.Counter(tag for prompt in row for tag in tags_of(prompt))
    assert counts[WORD] == 1000
    assert all(650 < counts[tag] < 750 for tag in original[1:])
    positions = [[original.index(tag) for tag in tags_of(prompt)] for prompt in row]
    assert all(order == sorted(order) for order in positions)


def test_kept_tags_are_never_left_out(concept):
    made = table(concept, OBJECT, ["red, blue, dog"], tag_dropout=1, keep_tokens=1)
    assert set(made.prompts[0]) == {f"{text.format(WORD)}, red" for text in OBJECT_TEMPLATES}


@pytest.mark.parametrize("captions", [["red"] * 3, ["red", "blue"]])
def test_captions_are_left_out_as_often_as_asked_and_the_word_stays(concept, captions):
    made = table(concept, OBJECT, captions, dropout=0.25)
    assert len(made.prompts[0]) == 999  # 37 x 27
    for row in made.prompts:
        assert all(WORD in prompt for prompt in row)
        left_out = sum("," not in prompt for prompt in row)
        assert 0.2 * 999 < left_out < 0.3 * 999
        cores = collections.Counter(prompt.partition(",")[0] for prompt in row)
        assert len(cores) == 27 and set(cores.values()) == {37}


def test_a_prompt_that_was_a_caption_becomes_a_template_or_the_word(concept):
    of_templates = table(concept, OBJECT, [TAGS], dropout=0.5).prompts[0]
    assert set(of_templates) - {TAGS.replace("<cat>", WORD)} == set(training_prompts(WORD, "object"))
    of_captions = table(concept, CAPTION, [TAGS], dropout=0.5).prompts[0]
    assert set(of_captions) == {TAGS.replace("<cat>", WORD), WORD}


def test_wildcards_choose_lines_and_alternatives(concept):
    made = table(concept, CAPTION, ["a {red|blue} <cat>\nthe <cat>, {car}"], wildcards=True)
    counts = collections.Counter(made.prompts[0])
    assert set(counts) == {f"a red {WORD}", f"a blue {WORD}", f"the {WORD}, {{car}}"}
    assert 420 < counts[f"the {WORD}, {{car}}"] < 580
    plain = table(concept, CAPTION, ["a {red|blue} <cat>\nthe car"])
    assert plain.prompts == ((f"a {{red|blue}} {WORD} the car",),)


def test_another_separator(concept):
    made = table(concept, CAPTION, ["<cat>; red, blue; dog"], shuffle=True, separator=";", keep_tokens=1)
    assert set(made.prompts[0]) == {f"{WORD}; red, blue; dog", f"{WORD}; dog; red, blue"}


def test_draws_depend_on_the_seed_alone(concept):
    first, again, other = (
        table(concept, OBJECT, [TAGS, "red, car"], shuffle=True, seed=s) for s in (1, 1, 2)
    )
    assert first.prompts == again.prompts != other.prompts
    assert first.prompts[0] != first.prompts[1]


def test_options_without_anything_to_draw_leave_the_product_as_it_is(concept):
    plain = table(concept, OBJECT, ["red car", "a dog"])
    made = table(concept, OBJECT, ["red car", "a dog"], shuffle=True)
    assert made.prompts == plain.prompts
    assert "no two tags apart by ','" in made.description


def test_the_table_is_bounded(concept):
    captions = [f"red {index}, car" for index in range(3000)]
    made = table(concept, OBJECT, captions)
    assert {len(row) for row in made.prompts} == {MOST_ROWS // 3000}
    counts = collections.Counter(prompt.partition(",")[0] for row in made.prompts for prompt in row)
    assert len(counts) == 27 and max(counts.values()) < 1.1 * min(counts.values())
    assert len(table(concept, OBJECT, captions[:5], shuffle=True).prompts[0]) == 999


# Token ids


def test_token_ids_are_those_of_the_prompts(tokenizer, concept):
    made = table(concept, OBJECT, [TAGS, "red, car"], shuffle=True, tag_dropout=0.2)
    token_ids = encode_table(tokenizer, made, concept)
    assert token_ids.shape == (2, 999, 77) and token_ids.dtype == np.int32
    for group, variant in [(0, 0), (0, 500), (1, 998)]:
        expected = encode_prompts(tokenizer, [made.prompts[group][variant]])[0]
        np.testing.assert_array_equal(token_ids[group, variant], expected)


def test_only_a_word_that_is_cut_off_is_an_error(tokenizer, concept):
    long = ", ".join(["red"] * 60)
    made = table(concept, OBJECT, [long])
    token_ids = encode_table(tokenizer, made, concept)
    assert prompts_cut_off(tokenizer, made.prompts[0], token_ids[0]) == list(made.prompts[0])
    with pytest.raises(TokenError) as caught:
        encode_table(tokenizer, table(concept, CAPTION, [f"{long}, <cat>"]), concept)
    message = str(caught.value)
    assert (
        message.startswith("prompt 'red, red, red") and "of 0.png: expected all 2 tokens of <cat>" in message
    )
    assert "within 77 tokens, found 0 of them" in message and "\n" not in message


def test_a_prompt_of_exactly_the_length_is_not_cut_off(tokenizer):
    prompts = [" ".join(["red"] * count) for count in (74, 75, 76)]
    token_ids = encode_prompts(tokenizer, prompts)
    assert prompts_cut_off(tokenizer, prompts, token_ids) == prompts[2:]
