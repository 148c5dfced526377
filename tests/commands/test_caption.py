"""Captions of a tiny random captioner: what is written, what is kept, and what is said."""

import builtins
import sys

import pytest
from tiny_folder import write_images

from ti_flax.commands import caption as caption_images
from ti_flax.console.program import exit_code
from ti_flax.data.prompts.captions import CaptionedImage, captions_beside
from ti_flax.errors import ConfigError, DataError, WeightsError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "on", "the", "table", "red"]
SIDE = 16


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    """A BLIP of two random layers whose words are a dozen."""
    import torch
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("captioner")
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64}
    config = BlipConfig(
        text_config=layers | text | ids,
        vision_config=layers | {"image_size": SIDE, "patch_size": 8},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)})
    images = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return str(folder)


def run(folder, captioner, *flags):
    arguments = [str(folder), "--pretrained_model_name_or_path", captioner, "--max_length", "8", *flags]
    caption_images.run(caption_images.parse_arguments(arguments))


def texts(folder):
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def test_a_caption_is_written_beside_every_image(tmp_path, captioner, capsys):
    folder = write_images(tmp_path / "pictures")
    run(folder, captioner, "--batch_size", "2", "--prefix", "photo of", "--suffix", ", sharp")
    written = texts(folder)
    assert sorted(written) == ["0.txt", "1.txt", "2.txt"]
    for text in written.values():
        words = text.split()
        assert words[:2] == ["photo", "of"] and words[-2:] == [",", "sharp"]
        assert 0 < len(words[2:-2]) <= 8 and set(words[2:-2]) <= set(WORDS)
    assert f"0.png: {written['0.txt'].strip()}" in capsys.readouterr().out
    images = [CaptionedImage(f"{index}.png", str(folder / f"{index}.png")) for index in range(3)]
    assert captions_beside(images)[1] == written["1.txt"]


def test_a_dry_run_prints_and_writes_nothing(tmp_path, captioner, capsys):
    folder = write_images(tmp_path / "pictures")
    run(folder, captioner, "--dry_run")
    assert texts(folder) == {} and len(capsys.readouterr().out.splitlines()) == 3


def test_what_is_there_is_kept_unless_told_otherwise(tmp_path, captioner, capsys):
    folder = write_images(tmp_path / "pictures")
    (folder / "1.txt").write_text("mine")
    run(folder, captioner)
    assert texts(folder)["1.txt"] == "mine" and len(texts(folder)) == 3
    assert "1 images have a caption already" in capsys.readouterr().out
    run(folder, captioner, "--overwrite")
    assert texts(folder)["1.txt"] != "mine"


def test_whole_words_are_replaced_and_misses_are_said(tmp_path, monkeypatch, capsys):
    folder = write_images(tmp_path / "pictures")
    said = ["A cat on the table", "a category", "the dog"]
    monkeypatch.setattr(caption_images, "load_captioner", lambda *_, **__: lambda images: said)
    run(folder, "any", "--replace", "a cat=<my-cat>", "--replace", r"dog=\1", "--extension", "caption")
    found = [(folder / f"{index}.caption").read_text().strip() for index in range(3)]
    assert found == ["<my-cat> on the table", "a category", r"the \1"]
    assert "note: 'a cat' is in 1 of 3 captions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--replace", "cat"], "--replace: expected OLD=NEW, found 'cat'"),
        (["--batch_size", "0"], "--batch_size: expected 1 or more, found 0"),
        (["--extension", "png"], "--extension: expected that of a text file, found .png of 0.png"),
    ],
)
def test_mistakes_in_flags(tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        run(write_images(tmp_path / "pictures"), "any", *flags)


def test_a_missing_folder_or_model_is_one_line(tmp_path, capsys):
    with pytest.raises(DataError, match="expected a folder with images, found no such folder"):
        run(tmp_path / "none", "any")
    folder = write_images(tmp_path / "pictures")
    with pytest.raises(WeightsError, match="expected a captioning model of transformers"):
        run(folder, str(tmp_path / "no-model"))
    assert exit_code(lambda: run(folder, str(tmp_path / "no-model"))) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_without_torch_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_torch(name, *arguments, **named):
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *arguments, **named)

    folder = write_images(tmp_path / "pictures")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(ConfigError, match="found No module named 'torch'. Run `pip install torch transf"):
        run(folder, "any")
