"""What a concept starts from, and embeddings beside it."""

import hashlib

import jax
import numpy as np
import pytest
from sdxl_rows import FIRST, SECOND, sdxl_rows, write_safetensors

from ti_flax.config.options import ConceptOptions
from ti_flax.embedding.initialization import (
    add_frozen_embeddings,
    read_frozen_embeddings,
    resolve_initialization,
)
from ti_flax.embedding.learned_embeds import save_learned_embeds
from ti_flax.errors import TokenError, WeightsError
from ti_flax.models.tokenizer import add_concept, encode_prompts, expand_known

TABLE = np.random.default_rng(0).normal(size=(700, 8)).astype(np.float32)
KEY = jax.random.key(0)


def start(tokenizer, **options):
    return resolve_initialization(ConceptOptions(placeholder_token="<x>", **options), tokenizer)


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
        found.rows(TABLE, KEY)


def test_what_onetrainer_has_behind_the_text_encoders_is_told(tokenizer, tmp_path, capsys):
    rows = sdxl_rows()
    both = {"clip_l": rows[FIRST], "clip_g": rows[SECOND]}
    behind = {f"{key}_out": values for key, values in both.items()}
    path = write_safetensors(tmp_path / "xl.safetensors", **both, **behind)
    (found,) = read_frozen_embeddings([str(path)])
    assert (found.token, found.file.vectors) == ("xl", 3)
    said = "".join(capsys.readouterr())
    assert f"note: {path} also has clip_g_out and clip_l_out, added behind the text encoder" in said
    (concept,) = add_frozen_embeddings(tokenizer, [found], None)
    assert concept.tokens == ("xl", "xl_1", "xl_2")


def test_words_are_spread_over_the_vectors(tokenizer):
    red, car = TABLE[ids(tokenizer, "red", "car")]
    for count, expected in [(2, [red, car]), (3, [red, red, car]), (None, [red, car])]:
        found = start(tokenizer, initializer_token="red car", num_vectors=count)
        assert (found.origin, found.num_vectors) == ("red car", len(expected))
        np.testing.assert_array_equal(found.rows(TABLE, KEY), expected)


def test_words_are_averaged(tokenizer):
    words = TABLE[ids(tokenizer, "red", "car")]
    found = start(tokenizer, initializer_token="red car", initializer_mode="mean")
    assert (found.origin, found.num_vectors) == ("red car (mean)", 1)
    np.testing.assert_allclose(found.rows(TABLE, KEY), words.mean(axis=0)[None], rtol=1e-6)


def test_random_rows_need_no_word(tokenizer):
    found = start(tokenizer, initializer_mode="random", num_vectors=2)
    rows = found.rows(TABLE, KEY)
    assert (found.origin, rows.shape) == ("random rows", (2, 8))
    assert (
        rows.tobytes() == found.rows(TABLE, KEY).tobytes() != found.rows(TABLE, jax.random.key(1)).tobytes()
    )


def test_an_embedding_is_gone_on_from(tokenizer, tmp_path):
    path = embeds(tmp_path / "old.bin")
    found = start(tokenizer, init_embeds=path, num_vectors=None)
    assert found.num_vectors == 3 and found.origin.startswith("an embedding ")
    np.testing.assert_array_equal(found.rows(TABLE, KEY), TABLE[:3])
    more = start(tokenizer, init_embeds=path, num_vectors=4)
    np.testing.assert_array_equal(more.rows(TABLE, KEY), TABLE[[0, 0, 1, 2]])
    other = start(tokenizer, init_embeds=embeds(tmp_path / "other.bin", TABLE[1:4]), num_vectors=3)
    assert other.origin != found.origin
    with pytest.raises(
        WeightsError, match=r"this model \(9 wide\), found one for an unknown base \(8 wide\)"
    ):
        found.rows(np.zeros((5, 9), np.float32), KEY)


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


def test_extra_embeddings_stand_behind_the_concept_and_prompts_may_name_them(tokenizer, tmp_path):
    entries = (embeds(tmp_path / "a.bin"), f"<new> = {embeds(tmp_path / 'b.bin', TABLE[:1])}")
    extras = read_frozen_embeddings(entries)
    concept = add_concept(tokenizer, placeholder_token="<x>", num_vectors=2)
    beside = add_frozen_embeddings(tokenizer, extras, concept)
    assert [each.text for each in beside] == ["<old> <old>_1 <old>_2", "<new>"]
    first = concept.token_ids[0]
    assert [each.token_ids for each in beside] == [(first + 2, first + 3, first + 4), (first + 5,)]
    prompt = f"a {concept.text} on a <old> with <new>"
    encoded = encode_prompts(tokenizer, [prompt], concept=concept)[0]
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
    concept = add_concept(tokenizer, placeholder_token="<x>")
    with pytest.raises(TokenError, match=message):
        add_frozen_embeddings(tokenizer, extras, concept)


def test_an_extra_that_is_no_embedding_is_one_line(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"<html>")
    for entry in (str(tmp_path / "a.pt"), f"<c>={tmp_path / 'a.pt'}", str(tmp_path / "none.pt")):
        with pytest.raises(WeightsError, match="extra_embeds .*: expected an embedding"):
            read_frozen_embeddings((entry,))
    with pytest.raises(WeightsError, match="init_embeds .*: expected an embedding"):
        start(None, init_embeds=str(tmp_path / "a.pt"))
