"""The notebook runs from its first cell to its last, and lies in the repository without output."""

import re
import sys
import types
from pathlib import Path

import nbformat
import pytest
import run_notebook
import yaml
from environment import xla_flags

from ti_flax.config.presets import PRESETS
from ti_flax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = nbformat.read(run_notebook.NOTEBOOK, as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def cell_of(notebook, title):
    """The code cell with this title."""
    return next(cell for cell in notebook.cells if cell.source.startswith(f"# @title {title}"))


@pytest.fixture(scope="module")
def executed(place, tmp_path_factory):
    output = tmp_path_factory.mktemp("executed") / "notebook.ipynb"
    fields = {"images": "folder", "folder": place / "pictures", "model": place / "model", "preset": None}
    fields |= {"placeholder_token": "<my-cat>", "initializer_token": "cat", "prompt_2": "''"}
    fields |= {"images_of_a_prompt": 1, "steps": 2, "steps_between_previews": 2, "resolution": 32}
    fields["more_options"] = {"eval_steps": 0, "report_to": "none", "mixed_precision": "no", "flip_p": 0}
    values = [f"{name}={value}" for name, value in fields.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", xla_flags(1))
        assert run_notebook.main([str(output), "--set", *values, "number_of_images=1"]) == 0
    return nbformat.read(output, as_version=4)


def outputs(notebook, title):
    return cell_of(notebook, title).outputs


def said(notebook, title):
    return "".join(each.get("text", "") for each in outputs(notebook, title))


def kinds(notebook, title):
    return {kind for each in outputs(notebook, title) for kind in each.get("data", {})}


def test_it_trains_and_shows_how_far_it_is(executed):
    assert "This was a dry run" in said(executed, "Dry run")
    assert "image/png" in kinds(executed, "Dry run")
    shown = [each.data.get("text/html", "") for each in outputs(executed, "Train") if "data" in each]
    assert any(re.search(r"step 2 of 2, loss \d\.\d{4}", text) for text in shown)
    assert "image/jpeg" in kinds(executed, "Train")
    assert "error" not in said(executed, "Train")


def test_it_draws_converts_and_keeps_what_it_learned(executed):
    assert "image/png" in kinds(executed, "Before and after")
    told = said(executed, "Download")
    assert "outputs/ruby/learned_embeds.safetensors\n" in told and "outputs/my-cat.pt\n" in told
    assert outputs(executed, "Share") == []


def test_the_copy_names_no_folder_of_this_machine(executed):
    text = nbformat.writes(executed)
    assert str(ROOT) not in text and "/tmp/tmp" not in text


def test_in_the_repository_it_has_no_output():
    assert 8 <= len(CODE) <= 10
    assert all(cell.outputs == [] and cell.execution_count is None for cell in CODE)


def test_each_cell_has_a_sentence_above_it():
    before = [NOTEBOOK.cells[NOTEBOOK.cells.index(cell) - 1] for cell in CODE]
    assert all(cell.cell_type == "markdown" and cell.source.startswith("## ") for cell in before)


def test_the_copy_in_the_documentation_is_of_this_notebook():
    path = ROOT / "docs" / "notebook.ipynb"
    shown = nbformat.read(path, as_version=4)
    assert [cell.source for cell in shown.cells] == [cell.source for cell in NOTEBOOK.cells]
    assert path.stat().st_size < 2**20 and {"image/png", "image/jpeg"} <= kinds(shown, "Train") | kinds(
        shown, "Before and after"
    )
    assert not re.search(r"/(work|tmp|root|home)/", path.read_text(encoding="utf-8"))


def test_a_field_that_is_not_there_is_said():
    with pytest.raises(ConfigError, match="--set stepz: expected a field of the notebook"):
        run_notebook.set_fields(NOTEBOOK, {"stepz": 1})


@pytest.mark.parametrize(
    ("text", "value"), [("a=1", 1), ("a='x'", "x"), ("a=x y", "x y"), ("a=<x>", "<x>"), ("a=", "")]
)
def test_a_value_is_python_or_a_text(text, value):
    assert run_notebook.assignment(text) == ("a", value)


class Colab(types.SimpleNamespace):
    """`google.colab` with an upload of one image, and notes of what is downloaded and mounted."""

    def __init__(self):
        super().__init__(downloaded=[], mounted=[])
        self.files = types.SimpleNamespace(
            upload=lambda: {"a.png": b"pixels"}, download=self.downloaded.append
        )
        self.drive = types.SimpleNamespace(mount=self.mounted.append)


def run_cell(title, names, **fields):
    notebook = nbformat.from_dict({**NOTEBOOK, "cells": [dict(cell_of(NOTEBOOK, title))]})
    run_notebook.set_fields(notebook, fields)
    exec(notebook.cells[0].source, names)
    return names


@pytest.fixture
def colab(monkeypatch, tmp_path):
    colab = Colab()
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.chdir(tmp_path)
    return colab


def test_on_colab_images_are_uploaded_into_a_folder(colab, tmp_path):
    import ti_flax

    names = run_cell("Images", {"ti_flax": ti_flax}, images="upload", use_google_drive=True)
    assert names["train_data_dir"] == "my-images" and colab.mounted == ["/content/drive"]
    assert (tmp_path / "my-images" / "a.png").read_bytes() == b"pixels"
    names = run_cell("Images", {"ti_flax": ti_flax}, images="links", links="https://a/1.png https://a/2.png")
    assert names["train_data_dir"] == ["https://a/1.png", "https://a/2.png"] and len(colab.mounted) == 1


def test_on_colab_the_result_is_downloaded(colab):
    package = types.SimpleNamespace(main=lambda arguments: 0)
    names = {"ti_flax": package, "files": colab.files, "result": Path("outputs/cat")}
    names |= {"learned": Path("outputs/cat/x"), "placeholder_token": "<my-cat>"}
    run_cell("Download", names)
    assert colab.downloaded == ["outputs/cat/x", "outputs/my-cat.pt", "outputs/cat/report.html"]


@pytest.mark.parametrize(
    ("model", "base", "resolution"),
    [
        ("demo", "assets/demo-model", 64),
        ("Stable Diffusion 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", 512),
        ("Stable Diffusion XL", "stabilityai/stable-diffusion-xl-base-1.0", 1024),
        ("owner/animeXL", "owner/animeXL", 1024),
        ("owner/model", "owner/model", 512),
    ],
)
def test_every_model_has_settings(model, base, resolution):
    import ti_flax

    names = {
        "ti_flax": ti_flax,
        "train_data_dir": "x",
        "placeholder_token": "<x>",
        "initializer_token": "cat",
    }
    config = run_cell("Settings", names | {"learnable_property": "style"}, model=model)["config"]
    assert str(config.model.pretrained_model_name_or_path).endswith(base)
    assert config.images.resolution == resolution and config.optimizer.optimizer == "directional"
    assert config.training.max_train_steps == PRESETS["balanced"]["max_train_steps"]
    assert config.concept.learnable_property == "style"


def test_any_option_can_be_given():
    import ti_flax

    names = {
        "ti_flax": ti_flax,
        "train_data_dir": "x",
        "placeholder_token": "<x>",
        "initializer_token": "cat",
    }
    names |= {"learnable_property": "object"}
    config = run_cell("Settings", names, more_options={"flip_p": 0.25, "validation_steps": 7})["config"]
    assert config.images.flip_p == 0.25 and config.monitoring.validation_steps == 7


def test_outputs_are_taken_out_before_a_commit():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    (hook,) = [hook for hook in hooks if "nbstripout" in hook["entry"]]
    assert re.search(hook["files"], "notebooks/textual_inversion.ipynb")
    assert not re.search(hook["files"], "docs/notebook.ipynb")
