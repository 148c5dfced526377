"""Embeddings of other trainers, as the benchmark of learning finds and reads them."""

import numpy as np
import pytest
from concepts import BY_NAME
from learned_files import find_embeds, placed
from PIL import Image

from ti_flax.embedding.formats import FORMS, Embedding, embedding_files
from ti_flax.embedding.learned_embeds import load_learned_embeds, save_learned_embeds
from ti_flax.errors import ConfigError, WeightsError

WIDTHS = {"text_encoder": 8}


def made(path):
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def folder(tmp_path):
    """With files of two concepts, a result of a third, and what is of none."""
    for name in ("seastar.pt", "ruby.safetensors", "ruby.txt", "ruby.preview.png", "orchid/notes.txt"):
        made(tmp_path / name)
    made(tmp_path / "goblet" / "learned_embeds.safetensors")
    made(tmp_path / "goblet" / "learned_embeds.bin")
    return tmp_path


def test_a_folder_stands_for_the_files_called_after_concepts(folder):
    everything = {name: folder / path for name, path in (("seastar", "seastar.pt"), ("goblet", "goblet"))}
    everything["ruby"] = folder / "ruby.safetensors"
    assert find_embeds([folder], None) == everything
    assert list(find_embeds([folder], ["ruby", "goblet"])) == ["ruby", "goblet"]


def test_files_and_results_are_named_one_by_one(folder):
    paths = [folder / "seastar.pt", folder / "goblet"]
    assert find_embeds(paths, None) == {"seastar": paths[0], "goblet": paths[1]}


def test_whatever_is_given_for_the_one_concept_asked_for_is_its_own(folder):
    for path in (made(folder / "step-200.pt"), folder / "goblet"):
        assert find_embeds([path], ["goblet"]) == {"goblet": path}


@pytest.mark.parametrize(
    ("paths", "asked", "said"),
    [
        (["no.pt"], None, "no.pt: expected a file or folder, found nothing"),
        (["ruby.txt.d"], None, "expected files called after concepts, found none. Call each file after"),
        (["other.pt"], None, "other.pt: expected a name of a concept, found none"),
        (["."], ["ruby", "posy", "daisy"], "expected a file of each concept, found none of posy, daisy"),
        (["seastar.pt"], ["ruby"], "expected a file of ruby, found that of seastar"),
        ([".", "again/ruby.pt"], None, "embeds of ruby: expected one file, found .*ruby.safetensors and "),
        (["again"], None, "embeds of ruby: expected one file, found .*ruby.pt and .*ruby.png"),
    ],
)
def test_what_is_no_set_of_embeddings_is_said(folder, paths, asked, said):
    for name in ("other.pt", "again/ruby.pt", "again/ruby.png", "ruby.txt.d/a.txt"):
        made(folder / name)
    with pytest.raises(ConfigError, match=said) as raised:
        find_embeds([folder / path for path in paths], asked)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(("form", "suffix"), [(form, suffix) for form in FORMS for suffix in FORMS[form]])
def test_files_of_every_trainer_are_put_under_the_word_of_the_concept(tmp_path, form, suffix):
    rows = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    theirs = Embedding("ring", "my ring", {"text_encoder": rows})
    path = tmp_path / f"ruby{suffix}"
    for place, content in embedding_files(theirs, form, path, image=Image.new("RGB", (64, 64))).items():
        place.write_bytes(content)
    (tmp_path / "own").mkdir()
    token, found = load_learned_embeds(placed(BY_NAME["ruby"], path, tmp_path / "own", WIDTHS))
    assert token == "<ruby>" and np.array_equal(found, rows)


def test_an_embedding_for_another_model_is_refused(tmp_path):
    save_learned_embeds(tmp_path / "ruby.safetensors", "<ruby>", np.ones((1, 768), np.float32))
    with pytest.raises(WeightsError, match=r"expected an embedding for .*8 wide.*found one for .*1\.x"):
        placed(BY_NAME["ruby"], tmp_path / "ruby.safetensors", tmp_path, WIDTHS)
