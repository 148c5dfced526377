"""Tokenizers of models with two text encoders: one vocabulary, two pads, and both folders written again."""

import json
import shutil

import original_layout
import pytest
from clip_tokenizer import END, START, write_tokenizer

from ti_flax.errors import TokenError, WeightsError
from ti_flax.models import base_model
from ti_flax.models.base_model import base_tokenizer, base_tokenizers
from ti_flax.models.tokenizer import add_word, encode_prompts, load_tokenizer, save_tokenizers
from ti_flax.models.weights.model_source import ModelSource

WORDS = "cat dog toy"
ENCODERS = ("text_encoder", "text_encoder_2")


def write_tokenizers(folder, words=WORDS, second_words=WORDS):
    """Writes the tokenizers of an SDXL folder without anything else, and returns the vocabulary."""
    vocabulary = write_tokenizer(folder / "tokenizer", words=words)
    write_tokenizer(folder / "tokenizer_2", words=second_words, pad_token="!")
    return vocabulary


def test_an_sdxl_folder_has_one_vocabulary_and_two_pads(tmp_path):
    vocabulary = write_tokenizers(tmp_path)
    found = base_tokenizers(ModelSource(tmp_path))
    assert found.pad_token_ids == {"text_encoder": vocabulary[END], "text_encoder_2": vocabulary["!"]}
    assert found.pad_token_ids["text_encoder_2"] == 0
    assert found.eos_token_id == vocabulary[END] == found.tokenizer.eos_token_id
    assert found.tokenizer.get_vocab() == vocabulary
    assert list(found.pad_token_ids) == list(ENCODERS)
    ids = encode_prompts(found.tokenizer, ["a cat"])
    assert ids[0, 0] == vocabulary[START] and (ids[0, 3:] == vocabulary[END]).all()


@pytest.mark.parametrize("pad_token", [END, "!"])
def test_other_folders_have_one_pad(tmp_path, pad_token):
    vocabulary = write_tokenizer(tmp_path / "tokenizer", words=WORDS, pad_token=pad_token)
    found = base_tokenizers(ModelSource(tmp_path))
    assert found.pad_token_ids == {"text_encoder": vocabulary[pad_token]}
    assert base_tokenizer(ModelSource(tmp_path)).pad_token == pad_token


def test_vocabularies_that_differ_are_refused(tmp_path):
    write_tokenizers(tmp_path, second_words="cat dog toys")
    with pytest.raises(TokenError) as caught:
        base_tokenizers(ModelSource(tmp_path))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'tokenizer_2'}: expected the ")
    assert "tokens of the first text encoder's tokenizer, with the same ids, found" in line
    assert (
        "differ, such as " in line and line.endswith("a tokenizer_name from the same.") and "\n" not in line
    )


def test_two_words_that_changed_places_are_refused(tmp_path):
    vocabulary = write_tokenizers(tmp_path)
    swapped = vocabulary | {"cat</w>": vocabulary["dog</w>"], "dog</w>": vocabulary["cat</w>"]}
    (tmp_path / "tokenizer_2" / "vocab.json").write_text(json.dumps(swapped))
    with pytest.raises(
        TokenError, match=f"found {len(vocabulary)} tokens; 2 differ, such as 'cat</w>'. Take"
    ):
        base_tokenizers(ModelSource(tmp_path))


def test_ends_of_text_that_differ_are_refused(tmp_path):
    write_tokenizers(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = tmp_path / "tokenizer_2" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": START}))
    with pytest.raises(TokenError, match="0 differ, such as the end of the text"):
        base_tokenizers(ModelSource(tmp_path))


def test_a_second_tokenizer_that_is_missing_is_said(tmp_path):
    write_tokenizers(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps(dict.fromkeys((*ENCODERS, "unet", "vae"), ["a", "B"]))
    )
    shutil.rmtree(tmp_path / "tokenizer_2")
    with pytest.raises(TokenError, match="tokenizer_2: expected a CLIP tokenizer"):
        base_tokenizers(ModelSource(tmp_path))


def test_the_tokenizer_that_the_user_names_is_both_encoders(tmp_path):
    write_tokenizers(tmp_path / "model")
    vocabulary = write_tokenizer(tmp_path / "named", words=WORDS)
    found = base_tokenizers(ModelSource(tmp_path / "model"), str(tmp_path / "named"))
    assert found.tokenizer.name_or_path == str(tmp_path / "named")
    assert found.pad_token_ids == {"text_encoder": vocabulary[END], "text_encoder_2": 0}
    write_tokenizer(tmp_path / "other", words="cat")
    with pytest.raises(TokenError, match="tokenizer_2: expected the .* a tokenizer_name from the same"):
        base_tokenizers(ModelSource(tmp_path / "model"), str(tmp_path / "other"))


def test_models_of_other_kinds_are_refused_before_their_tokenizers_are_read(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(WeightsError, match="a FluxPipeline, a Flux model"):
        base_tokenizers(ModelSource(tmp_path))


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The source of an SDXL model in a single file, of a few tensors."""
    source = ModelSource(tmp_path / "model.safetensors")
    # Opened for real it would be refused for its missing tensors, which are not asked here.
    source.__dict__["file"] = type("File", (), {"second": False, "is_sdxl": True})
    monkeypatch.setattr(base_model, "STANDARD_TOKENIZER", str(tmp_path / "standard"))
    return source


def test_a_single_file_takes_the_standard_tokenizer_twice(file, tmp_path):
    vocabulary = write_tokenizer(tmp_path / "standard", words=WORDS)
    found = base_tokenizers(file)
    assert found.pad_token_ids == {"text_encoder": vocabulary[END], "text_encoder_2": vocabulary["!"]}
    assert found.tokenizer.pad_token == END


def test_a_single_file_takes_the_tokenizers_that_describe_it(file, tmp_path):
    vocabulary = write_tokenizers(tmp_path / "described", words="house", second_words="house")
    # Another pad than all SDXL models have shows whose it is.
    write_tokenizer(tmp_path / "described" / "tokenizer_2", words="house", pad_token=START)
    described = ModelSource(file.place, config_folder=tmp_path / "described")
    described.__dict__["file"] = file.file
    found = base_tokenizers(described)
    assert "house</w>" in found.tokenizer.get_vocab()
    assert found.pad_token_ids == {"text_encoder": vocabulary[END], "text_encoder_2": vocabulary[START]}


def test_both_tokenizers_are_written_with_their_pads(tmp_path):
    pytest.importorskip("torch")
    from transformers import CLIPTokenizer

    write_tokenizers(tmp_path / "model")
    found = base_tokenizers(ModelSource(tmp_path / "model"))
    concept = add_word(found.tokenizer, placeholder_token="<thing>", num_vectors=2)
    save_tokenizers(found.tokenizer, tmp_path / "out", found.pad_token_ids)
    assert found.tokenizer.pad_token == END
    again = base_tokenizers(ModelSource(tmp_path / "out"))
    assert again.pad_token_ids == found.pad_token_ids and again.eos_token_id == found.eos_token_id
    assert again.tokenizer.get_vocab() == found.tokenizer.get_vocab()
    for part, pad_token_id in (("tokenizer", found.eos_token_id), ("tokenizer_2", 0)):
        ids = CLIPTokenizer.from_pretrained(tmp_path / "out" / part)(
            f"a {concept.text} cat", padding="max_length", max_length=77
        )["input_ids"]
        ours = encode_prompts(found.tokenizer, [f"a {concept.text} cat"])[0].tolist()
        length = ours.index(found.eos_token_id) + 1
        assert ids == ours[:length] + [pad_token_id] * (77 - length)
        names = {path.name for path in (tmp_path / "out" / part).iterdir()}
        assert {"vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"} <= names


def test_one_tokenizer_is_written_as_before(tmp_path):
    write_tokenizer(tmp_path / "model" / "tokenizer", words=WORDS)
    found = base_tokenizers(ModelSource(tmp_path / "model"))
    save_tokenizers(found.tokenizer, tmp_path / "out", found.pad_token_ids)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer"]
    assert load_tokenizer(tmp_path / "out").pad_token_id == found.eos_token_id


def test_what_no_tokenizer_belongs_to_is_said(tmp_path):
    file = original_layout.save(tmp_path / "file.safetensors", {})
    with pytest.raises(WeightsError, match="expected a whole Stable Diffusion 1.x, 2.x or XL model"):
        base_tokenizers(ModelSource(file))
