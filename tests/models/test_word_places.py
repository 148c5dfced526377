"""Where the tokenizer sees a word: whatever a person's spelling, all vectors, once, as for diffusers."""

import numpy as np
import pytest
from tiny_folder import write_folder

from ti_flax.config.words import spelled_plainly
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.errors import TokenError
from ti_flax.models.tokenizer import (
    add_word,
    encode_prompts,
    expand_known,
    load_tokenizer,
    prompts_cut_off,
)
from ti_flax.models.word_places import word_places

ALL = "<my-cat> <my-cat>_1 <my-cat>_2"


def added_ids(tokenizer, concept, prompt):
    first = concept.token_ids[0]
    return [int(i) - first for i in encode_prompts(tokenizer, [prompt])[0] if i >= first]


@pytest.mark.parametrize(
    ("prompt", "written_out"),
    [
        ("a <my-cat> on a table", f"a {ALL} on a table"),
        ("a <My-Cat> on a table", f"a {ALL} on a table"),
        ("<MY-CAT>, red", f"{ALL}, red"),
        ("(<My-Cat>)", f"({ALL})"),
        ("red<My-Cat>blue", f"red{ALL}blue"),
        ("a <my-cat> and a <My-Cat>", f"a {ALL} and a {ALL}"),
        (f"a {ALL} and a <my-cat>", f"a {ALL} and a {ALL}"),
        (f"a {ALL.upper()}", f"a {ALL}"),
        (f"a {ALL.replace(' ', '  ')}.", f"a {ALL}."),
        ("a <my-cat> <my-cat>_1", f"a {ALL}"),
        ("café <My-Cat>", f"café {ALL}"),
        ("a <my-cat>\u0301", f"a {ALL}\u0301"),
        ("cafe\u0301 \u0130 <My-Cat> \ufb01", f"cafe\u0301 \u0130 {ALL} \ufb01"),
        ("my cat, <my -cat>", "my cat, <my -cat>"),
        ("", ""),
    ],
)
def test_every_spelling_the_tokenizer_sees_becomes_all_vectors_once(tokenizer, prompt, written_out):
    concept = add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=3)
    assert expand_known(tokenizer, prompt) == concept.expand(prompt) == written_out
    assert concept.expand(written_out) == written_out
    assert concept.named_in(prompt) == (ALL in written_out)
    assert added_ids(tokenizer, concept, prompt) == [0, 1, 2] * written_out.count(ALL)


@pytest.mark.parametrize(
    ("word", "prompt"),
    [
        ("<café>", "a <cafe\u0301>"),
        ("<cafe\u0301>", "a <CAFÉ>"),
        ("my blue  cat", "my   Blue\u00a0cat"),
        ("zörp", "ZO\u0308RPs"),
        ("<σας>", "<ΣΑς>"),
        ("<Ǆ>", "<ǆ>"),
    ],
)
def test_letters_and_blanks_are_compared_as_the_tokenizer_does(tokenizer, word, prompt):
    concept = add_word(tokenizer, placeholder_token=word, num_vectors=2)
    assert concept.named_in(prompt) and added_ids(tokenizer, concept, prompt) == [0, 1]


def test_a_longer_token_is_not_the_word(tokenizer):
    concept = add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=3)
    assert concept.expand("a <my-cat>_12") == "a <my-cat>_12" and not concept.named_in("<my-cat>_12")
    assert word_places(tokenizer, "a <My-Cat> <my-cat>_1 x", concept.token_ids) == [(2, 21)]


def test_a_single_vector_keeps_its_spelling_and_is_seen_in_any(tokenizer):
    concept = add_word(tokenizer, placeholder_token="<My-Cat>")
    assert concept.tokens == ("<My-Cat>",) and concept.named_in("a <MY-cat>, red")
    assert added_ids(tokenizer, concept, "<my-cat> <My-Cat>") == [0, 0]


def test_a_word_is_spelled_as_the_tokenizer_spells_it(tokenizer):
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    letters = "".join(map(chr, [*range(0x21, 0x530), *range(0x10A0, 0x1100), *range(0x1E00, 0x2200), 0xFB01]))
    for word in [*letters, letters, "ΣΑΣ", "a \u00a0\u2003 b", "a\u0301 O\u0308", "\u0130x"]:
        assert spelled_plainly(word) == normalize(word)


@pytest.mark.parametrize("word", ["<My-Cat>", "<cafe\u0301>", "Zorp", "my  cat"])
@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_finds_all_vectors_of_the_stored_word(tmp_path, capsys, word, vectors):
    pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    base = write_folder(tmp_path / "base")
    tokenizer = load_tokenizer(base)
    first = len(tokenizer)
    concept = add_word(tokenizer, placeholder_token=word, num_vectors=vectors)
    stored = concept.placeholder_token
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    rows = np.random.default_rng(0).normal(size=(vectors, 32)).astype(np.float32)

    def ids_in_diffusers(token):
        save_learned_embeds(tmp_path / "word.safetensors", token, rows)
        pipeline = StableDiffusionPipeline.from_pretrained(base)
        pipeline.load_textual_inversion(str(tmp_path / "word.safetensors"))
        prompt = pipeline.maybe_convert_prompt(f"a {token} on a table", pipeline.tokenizer)
        return [i - first for i in pipeline.tokenizer(prompt)["input_ids"] if i >= first]

    assert ids_in_diffusers(stored) == list(range(vectors))
    if vectors == 1:
        assert stored == word and said == []
    else:
        assert ids_in_diffusers(word) == [0]  # why the word is not stored as it was written
        assert stored == spelled_plainly(word) and said == [
            f"note: placeholder_token {word!r} is stored as {stored!r}, as the tokenizer reads both: under "
            "the first name diffusers would use only one of its 3 vectors"
        ]


def test_a_prompt_is_as_long_as_its_vectors_are(tokenizer):
    add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=30)
    prompts = ["<My-Cat>, " + "red " * n for n in (43, 45, 60)]
    assert prompts_cut_off(tokenizer, prompts, encode_prompts(tokenizer, prompts)) == prompts[1:]


def test_bytes_that_are_no_text_are_said(tokenizer):
    concept = add_word(tokenizer, placeholder_token="<my-cat>", num_vectors=2)
    for look in (concept.named_in, concept.expand):
        with pytest.raises(TokenError, match="expected letters, found bytes that are no UTF-8"):
            look("a <my-cat> \udce9")
