"""What a concept starts from, and embeddings beside it."""

import hashlib

import jax
import numpy as np
import pytest
from row_trees import ENCODER, SECOND_ENCODER, only, tree
from sdxl_rows import FIRST, SECOND, sdxl_rows, write_safetensors

from ti_flax.config.options import ConceptOptions
from ti_flax.embedding.initialization import (
    add_frozen_embeddings,
    read_frozen_embeddings,
    resolve_initialization,
)
from ti_flax.embedding.learned_embeds import save_in_one_file, save_learned_embeds
from ti_flax.embedding.rows import random_rows
from ti_flax.errors import TokenError, WeightsError
from ti_flax.models.tokenizer import add_word, encode_prompts, expand_known
from ti_flax.models.word_places import Concept

TABLE = np.random.default_rng(0).normal(size=(700, 8)).astype(np.float32)
KEY = jax.random.key(0)


def start(tokenizer, **options):
    return resolve_initialization(ConceptOptions(placeholder_token="<x>", **options).each[0], tokenizer)


def made(found, table=TABLE, key=KEY):
    """The rows that a start makes for a single text encoder."""
    return only(found.rows(tree(table), key))


def ids(tokenizer, *words):
    return tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words])


def embeds(path, rows=TABLE[:3], token="<old>"):
    save_learned_embeds(path, token, rows)
    return str(path)


def test_a_checkpoint_of_an_embedding_goes_on_belonging_to_it(tokenizer, tmp_path):
    """Its origin is the digest of the rows, of two text encoders one after the other."""
    path = embeds(tmp_path / "one.bin")
    digest = hashlib.sha256(TABLE[:3].tobytes()).hexdigest()[:16]
    assert start(tokenizer, init_embeds=path, num_vectors=None).origin == f"an embedding {digest}"
    rows = sdxl_rows()
    path = embeds(tmp_path / "learned_embeds.bin", rows)
    digest = hashlib.sha256(rows[FIRST].tobytes() + rows[SECOND].tobytes()).hexdigest()[:16]
    found = start(tokenizer, init_embeds=path, num_vectors=None)
    assert (found.origin, found.num_vectors) == (f"an embedding {digest}", 3)
    with pytest.raises(
        WeightsError, match=r"this model \(8 wide\), found one for SDXL \(768 and 1280 wide\)"
    ):
        found.rows({FIRST: TABLE}, KEY)


def test_what_onetrainer_has_behind_the_text_encoders_is_no_start(tokenizer, tmp_path, capsys):
    rows = sdxl_rows()
    both = {"clip_l": rows[FIRST], "clip_g": rows[SECOND]}
    behind = {f"{key}_out": values for key, values in both.items()}
    path = write_safetensors(tmp_path / "xl.safetensors", **both, **behind)
    start(tokenizer, init_embeds=str(path), num_vectors=None)
    said = "".join(capsys.readouterr())
    assert f"note: {path} also has vectors that go behind the text encoder: they are no start" in said
    alone = write_safetensors(tmp_path / "alone.safetensors", **behind)
    with pytest.raises(
        WeightsError, match="found an output embedding of OneTrainer, whose vectors all go beh"
    ):
        start(tokenizer, init_embeds=str(alone), num_vectors=None)
    (found,) = read_frozen_embeddings([str(path)])
    assert (found.token, found.file.vectors) == ("xl", 3)
    assert not "".join(capsys.readouterr())
    (concept,) = add_frozen_embeddings(tokenizer, [found], None)
    assert concept.tokens == ("xl", "xl_1", "xl_2")


def test_words_are_spread_over_the_vectors(tokenizer):
    red, car = TABLE[ids(tokenizer, "red", "car")]
    for count, expected in [(2, [red, car]), (3, [red, red, car]), (None, [red, car])]:
        found = start(tokenizer, initializer_token="red car", num_vectors=count)
        assert (found.origin, found.num_vectors) == ("red car", len(expected))
        np.testing.assert_array_equal(made(found), expected)


def test_words_are_averaged(tokenizer):
    words = TABLE[ids(tokenizer, "red", "car")]
    found = start(tokenizer, initializer_token="red car", initializer_mode="mean")
    assert (found.origin, found.num_vectors) == ("red car (mean)", 1)
    np.testing.assert_allclose(made(found), words.mean(axis=0)[None], rtol=1e-6)


def test_random_rows_need_no_word(tokenizer):
    found = start(tokenizer, initializer_mode="random", num_vectors=2)
    rows = made(found)
    assert (found.origin, rows.shape) == ("random rows", (2, 8))
    assert rows.tobytes() == made(found).tobytes() != made(found, key=jax.random.key(1)).tobytes()


def test_an_embedding_is_gone_on_from(tokenizer, tmp_path):
    path = embeds(tmp_path / "old.bin")
    found = start(tokenizer, init_embeds=path, num_vectors=None)
    assert found.num_vectors == 3 and found.origin.startswith("an embedding ")
    np.testing.assert_array_equal(made(found), TABLE[:3])
    more = start(tokenizer, init_embeds=path, num_vectors=4)
    np.testing.assert_array_equal(made(more), TABLE[[0, 0, 1, 2]])
    other = start(tokenizer, init_embeds=embeds(tmp_path / "other.bin", TABLE[1:4]), num_vectors=3)
    assert other.origin != found.origin
    with pytest.raises(
        WeightsError, match=r"this model \(9 wide\), found one for an unknown base \(8 wide\)"
    ):
        made(found, np.zeros((5, 9), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"initializer_token": "qzxj"},
            r"initializer_token 'qzxj'.*a single token, found 4 tokens, split as",
        ),
        (
            {"initializer_token": "red cat"},
            r"split as \['red</w>', 'cat</w>'\]. Raise num_vectors to 2 \(null",
        ),
        ({"initializer_token": "a red cat", "num_vectors": 2}, r"at most num_vectors \(2\), found 3 tokens"),
        ({"initializer_token": "\u200b"}, "initializer_token.*(no token|reads as unknown|tokens)"),
        ({"init_embeds": "old.bin"}, "init_embeds .*old.bin: expected a single vector, found 3 vectors"),
    ],
)
def test_starts_that_do_not_fit(tokenizer, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    embeds(tmp_path / "old.bin")
    with pytest.raises(TokenError, match=message):
        start(tokenizer, **options)


@pytest.fixture
def two_tables():
    """Token tables of two text encoders, of which the second is wider."""
    return {
        ENCODER: TABLE,
        SECOND_ENCODER: np.random.default_rng(1).normal(size=(700, 12)).astype(np.float32),
    }


@pytest.mark.parametrize("mode", ["spread", "mean"])
def test_a_word_is_the_same_in_both_tables(tokenizer, two_tables, mode):
    found = start(tokenizer, initializer_token="red car", initializer_mode=mode, num_vectors=2)
    rows, words = found.rows(two_tables, KEY), ids(tokenizer, "red", "car")
    assert list(rows) == [ENCODER, SECOND_ENCODER]
    for encoder, table in two_tables.items():
        expected = table[words] if mode == "spread" else [table[words].mean(axis=0)] * 2
        np.testing.assert_allclose(rows[encoder], expected, rtol=1e-6)
        assert rows[encoder].dtype == np.float32


def test_random_rows_of_two_encoders_are_drawn_apart_and_the_first_are_what_they_are_alone(tokenizer):
    # Of tables that are alike, so that the same draw would give the same rows.
    found = start(tokenizer, initializer_mode="random", num_vectors=3)
    rows = found.rows({ENCODER: TABLE, SECOND_ENCODER: TABLE}, KEY)
    assert rows[ENCODER].tobytes() == made(found).tobytes()
    assert rows[SECOND_ENCODER].shape == (3, 8) and rows[SECOND_ENCODER].dtype == np.float32
    drawn = [(each - TABLE.mean(axis=0)) / TABLE.std(axis=0) for each in rows.values()]
    assert abs(np.corrcoef(np.ravel(drawn[0]), np.ravel(drawn[1]))[0, 1]) < 0.6
    # The bits of runs of one text encoder from before there were two.
    expected = random_rows(TABLE, 3, jax.random.fold_in(KEY, 0x57A27))
    assert rows[ENCODER].tobytes() == expected.tobytes()


def test_an_embedding_of_two_encoders_is_gone_on_from(tokenizer, two_tables, tmp_path):
    path = tmp_path / "old.safetensors"
    old = {ENCODER: TABLE[:2], SECOND_ENCODER: two_tables[SECOND_ENCODER][5:7]}
    save_in_one_file(path, {"<old>": old}, details={})
    rows = start(tokenizer, init_embeds=str(path), num_vectors=3).rows(two_tables, KEY)
    for encoder, each in old.items():
        np.testing.assert_array_equal(rows[encoder], each[[0, 0, 1]])
    one = start(tokenizer, init_embeds=str(path), num_vectors=2)
    with pytest.raises(WeightsError, match=r"this model \(8 wide\), found one for SDXL \(8 and 12 wide\)"):
        made(one)


def test_extra_embeddings_stand_behind_the_concept_and_prompts_may_name_them(tokenizer, tmp_path):
    entries = (embeds(tmp_path / "a.bin"), f"<new> = {embeds(tmp_path / 'b.bin', TABLE[:1])}")
    extras = read_frozen_embeddings(entries)
    concept = add_word(tokenizer, placeholder_token="<x>", num_vectors=2)
    beside = add_frozen_embeddings(tokenizer, extras, Concept((concept,)))
    assert [each.text for each in beside] == ["<old> <old>_1 <old>_2", "<new>"]
    first = concept.token_ids[0]
    assert [each.token_ids for each in beside] == [(first + 2, first + 3, first + 4), (first + 5,)]
    prompt = f"a {concept.text} on a <old> with <new>"
    encoded = encode_prompts(tokenizer, [prompt], concept=Concept((concept,)))[0]
    assert [i - first for i in encoded if i >= first] == [0, 1, 2, 3, 4, 5]
    assert expand_known(tokenizer, "<old>") == beside[0].text


def test_a_file_without_its_token_goes_by_its_name(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "my=cat.safetensors"
    save_file({"emb_params": TABLE[:1]}, path)
    assert [extra.token for extra in read_frozen_embeddings((str(path),))] == ["my=cat"]
    for entry in (f"<c>={path}", f"{path}=<c>", f" <c> = {path}"):
        (extra,) = read_frozen_embeddings((entry,))
        assert (extra.token, extra.path) == ("<c>", path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("cat={}", "extra_embeds 'cat': expected a new word, found one that the tokenizer knows"),
        ("<x>={}", "extra_embeds '<x>': expected a word that nothing else goes by, found it twice"),
        ("my<x>={}", "extra_embeds 'my<x>'.*found '<x>' beside it. Give one of them another name"),
    ],
)
def test_tokens_of_embeddings_that_do_not_fit(tokenizer, tmp_path, entry, message):
    extras = read_frozen_embeddings((entry.format(embeds(tmp_path / "a.bin")),))
    concept = add_word(tokenizer, placeholder_token="<x>")
    with pytest.raises(TokenError, match=message):
        add_frozen_embeddings(tokenizer, extras, Concept((concept,)))


def test_an_extra_that_is_no_embedding_is_one_line(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"<html>")
    for entry in (str(tmp_path / "a.pt"), f"<c>={tmp_path / 'a.pt'}", str(tmp_path / "none.pt")):
        with pytest.raises(WeightsError, match="extra_embeds .*: expected an embedding"):
            read_frozen_embeddings((entry,))
    with pytest.raises(WeightsError, match="init_embeds .*: expected an embedding"):
        start(None, init_embeds=str(tmp_path / "a.pt"))
