"""The base model that a user names: options -> files and modules, and whole runs on a single file."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import original_layout
import pytest
from row_trees import tree
from tiny_folder import write_folder, write_images

from ti_flax.config import RunConfig
from ti_flax.config.options import ModelOptions
from ti_flax.errors import ConfigError, TokenError, WeightsError
from ti_flax.models import base_model
from ti_flax.models.base_model import MODEL_PARTS, base_tokenizer, find_base_model
from ti_flax.models.stable_diffusion import (
    load_stable_diffusion,
    random_stable_diffusion,
    save_stable_diffusion,
)
from ti_flax.models.tokenizer import encode_prompts
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.models.weights.parameters import torch_state
from ti_flax.run import inputs as inputs
from ti_flax.run.output_dir import export
from ti_flax.run.step_config import make_step_config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("base")
    model = load_stable_diffusion(write_folder(place / "model", least=False))
    original_layout.save(place / "model.safetensors", original_layout.original_state(model, second=False))
    other = random_stable_diffusion(model.configs, seed=8, components=("text_encoder", "unet", "vae"))
    save_stable_diffusion(other, place / "other")
    write_images(place / "pictures", 1)
    return place


def options(place, name="model", **changes):
    return ModelOptions(pretrained_model_name_or_path=str(place / name), **changes)


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("variant", "fp16", "variant"),
        ("clip_skip", 1, "clip_skip"),
        ("prediction_type", "v_prediction", "prediction_type"),
        ("rescale_betas_zero_snr", False, "rescale_betas_zero_snr"),
    ],
)
def test_an_option_changes_what_it_names_and_nothing_else(place, option, value, field):
    plain = find_base_model(options(place), ())
    assert plain == ModelSource(place / "model")
    changed = find_base_model(options(place, **{option: value}), ())
    assert changed == ModelSource(place / "model", **{field: value})


def with_variant(model, folder, *parts):
    """A model of which some parts are there in a variant alone."""
    folder = shutil.copytree(model, folder)
    for file in [file for part in parts for file in (folder / part).glob("*.safetensors")]:
        file.rename(file.with_suffix(".fp16.safetensors"))
    return folder


@pytest.mark.parametrize(
    ("parts", "plain"),
    [
        (("unet",), "text_encoder, vae"),
        (("vae",), "text_encoder, unet"),
        (("text_encoder", "unet"), "vae"),
        (("text_encoder", "unet", "vae"), ""),
    ],
)
def test_a_variant_of_some_parts_is_read_as_diffusers_reads_it(place, tmp_path, capsys, parts, plain):
    folder = with_variant(place / "model", tmp_path / "mixed", *parts)
    with pytest.raises(WeightsError, match="The variants here are fp16: set variant to one of them"):
        load_stable_diffusion(find_base_model(options(folder.parent, "mixed"), MODEL_PARTS))
    capsys.readouterr()
    found = load_stable_diffusion(
        find_base_model(options(folder.parent, "mixed", variant="fp16"), MODEL_PARTS)
    )
    said = f"note: there is no variant fp16 of {plain}: the plain files are read\n" if plain else ""
    assert capsys.readouterr().err == said
    expected = load_stable_diffusion(place / "model")
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(folder, variant="fp16")
    for part in ("text_encoder", "unet", "vae"):
        ours = {k.removeprefix("text_model."): v for k, v in torch_state(found.params[part], part).items()}
        state = {k.removeprefix("text_model."): v for k, v in getattr(theirs, part).state_dict().items()}
        same = ours.keys() & state.keys()
        assert len(same) > 20
        for name in same:
            np.testing.assert_array_equal(ours[name], state[name].numpy())


def test_a_variant_that_no_part_has_is_said_first(place):
    with pytest.raises(WeightsError) as caught:
        find_base_model(options(place, variant="fp16"), ("tokenizer",))
    assert str(caught.value) == (
        f"model {place / 'model'}: expected the variant fp16 of at least one part, found files without a "
        "variant. Leave variant out."
    )


def test_places_that_options_name(place):
    vae = str(place / "other")
    found = find_base_model(options(place, pretrained_vae_model_name_or_path=vae), ("vae",))
    assert found == ModelSource(place / "model", vae=place / "other")
    nowhere = options(place, pretrained_vae_model_name_or_path=str(place / "nowhere"))
    assert find_base_model(nowhere, ("tokenizer",)) == ModelSource(place / "model")
    described = find_base_model(options(place, "model.safetensors", config_name=str(place / "model")), ())
    assert described == ModelSource(place / "model.safetensors", config_folder=place / "model")
    with pytest.raises(ConfigError, match="config_name: expected a single file .* found a model folder"):
        find_base_model(options(place, config_name=str(place / "model")), ())


def test_the_tokenizer_of_a_single_file(place, monkeypatch):
    file = place / "model.safetensors"
    described = ModelSource(file, config_folder=place / "model")
    assert len(base_tokenizer(described)) == len(base_tokenizer(ModelSource(place / "model")))
    alone = ModelSource(file)
    # A file that is opened without a description would be refused for its sizes, which are not asked here.
    for second, padding in ((False, "<|endoftext|>"), (True, "!")):
        alone.__dict__["file"] = type("File", (), {"second": second, "is_sdxl": False})
        with pytest.raises(
            TokenError, match="openai/clip-vit-large-patch14: expected .* tokenizer_name"
        ) as caught:
            base_tokenizer(alone)
        assert "\n" not in str(caught.value)
        with monkeypatch.context() as patch:
            patch.setattr(base_model, "STANDARD_TOKENIZER", str(place / "model" / "tokenizer"))
            tokenizer = base_tokenizer(alone)
        assert tokenizer.pad_token == padding
        assert encode_prompts(tokenizer, ["cat"])[0, -1] == tokenizer.convert_tokens_to_ids(padding)
        assert base_tokenizer(alone, str(place / "model" / "tokenizer")).pad_token == "<|endoftext|>"


def configure(place, output, **changes):
    given = {
        "pretrained_model_name_or_path": str(place / "model"),
        "train_data_dir": str(place / "pictures"),
        "placeholder_token": "<thing>",
        "initializer_token": "toy",
        "resolution": 32,
        "train_batch_size": 1,
        "max_train_steps": 2,
        "learning_rate": 1e-2,
        "seed": 3,
        "report_to": "none",
        "output_dir": str(output),
        "latents_cache_dir": str(place / "cache"),
    }
    return RunConfig.from_dict(given | changes)


def gathered(config, output):
    """What a run learns from and the step it takes, and the files it would write with rows of zeros."""
    found = inputs.load_inputs(config)
    step_config, _ = make_step_config(
        config, found.model, found.concept.token_ids[0], added=found.added, devices=1, batches=1
    )
    output.mkdir()
    rows = tree(np.zeros((1, found.model.widths["text_encoder"]), np.float32))
    export(config, found, rows, output, samples=1, steps=1)
    return found, step_config


@pytest.fixture(scope="module")
def plain(place):
    return gathered(configure(place, place / "plain"), place / "plain")


def same_bits(found, expected):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(np.asarray(ours).tobytes() == np.asarray(theirs).tobytes() for ours, theirs in pairs)


def test_a_run_on_a_single_file_is_the_run_on_its_folder(place, plain, tmp_path):
    file, folder = place / "model.safetensors", tmp_path / "out"
    changes = {"pretrained_model_name_or_path": str(file), "config_name": str(place / "model")}
    found, _ = gathered(configure(place, folder, **changes), folder)
    assert found.fingerprint == plain[0].fingerprint
    assert same_bits(found.examples, plain[0].examples)
    written, expected = (
        {path.relative_to(base): path.read_bytes() for path in base.rglob("*") if path.is_file()}
        for base in (folder, place / "plain")
    )
    assert len(expected) > 15
    assert {path for path in expected if written[path] != expected[path]} == {Path("README.md")}
    card = written[Path("README.md")].decode()
    assert f'from_single_file("{file.name}")' in card and "clip_skip" not in card


def test_a_run_with_everything_changed(place, plain, tmp_path):
    changes = {
        "clip_skip": 1,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "pretrained_vae_model_name_or_path": str(place / "other"),
    }
    folder = tmp_path / "out"
    found, step_config = gathered(configure(place, folder, **changes), folder)
    assert step_config.model.text_encoder == plain[1].model.text_encoder.clone(clip_skip=1)
    assert (
        step_config.schedule.prediction_type == "v_prediction"
        and step_config.schedule.alphas_cumprod[-1] == 0
    )
    assert not same_bits(found.examples.buckets[0].posteriors, plain[0].examples.buckets[0].posteriors)
    exported, base, other = (load_stable_diffusion(place / name) for name in (folder, "plain", "other"))
    changed = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    changed |= {"_class_name": "FlaxDDIMScheduler"}
    assert exported.configs["scheduler"] == base.configs["scheduler"] | changed
    # The export has all layers: clip_skip is said where images are made.
    for component, model in (("text_encoder", base), ("unet", base), ("vae", other)):
        assert same_bits(exported.params[component], model.params[component])
    card = (folder / "README.md").read_text()
    assert 'pipe("a photo of a <thing>", clip_skip=1)' in card and '"Clip skip" 2' in card


def test_notes_on_a_single_file_are_said(place, tmp_path, monkeypatch, capsys):
    state = original_layout.original_state(load_stable_diffusion(place / "model"), second=False)
    file = original_layout.save(tmp_path / "m.safetensors", state | original_layout.averaged(state))
    monkeypatch.setattr(
        inputs, "read_images", lambda *a, **b: (_ for _ in ()).throw(ConfigError("far enough"))
    )
    changes = {"pretrained_model_name_or_path": str(file), "config_name": str(place / "model")}
    with pytest.raises(ConfigError, match="far enough"):
        inputs.load_inputs(configure(place, tmp_path, **changes))
    assert capsys.readouterr().err == (
        "note: m.safetensors also has averaged (EMA) weights of the UNet, which are not used\n"
    )


def test_the_converter_takes_a_single_file(place, tmp_path):
    from ti_flax.commands import convert_pipeline as convert_to_torch

    converted = {}
    for name, flags in (("model", []), ("model.safetensors", ["--config_name", str(place / "model")])):
        output = tmp_path / name.replace(".", "-")
        convert_to_torch.run(convert_to_torch.parse_arguments([str(place / name), str(output), *flags]))
        files = [path for path in output.rglob("*") if path.is_file()]
        converted[name] = {path.relative_to(output): path.read_bytes() for path in files}
    assert len(converted["model"]) > 10
    assert converted["model"] == converted["model.safetensors"]


def drawn_with(monkeypatch, place, name, *flags):
    """The model that scripts/generate.py draws with."""
    from ti_flax.commands import generate

    class EnoughError(Exception):
        pass

    def generator(model, **_):
        raise EnoughError(model)

    monkeypatch.setattr("ti_flax.generation.generate.ImageGenerator", generator)
    base = ["--pretrained_model_name_or_path", str(place / name), "--prompt", "a cat"]
    with pytest.raises(EnoughError) as caught:
        generate.run(generate.parse_arguments([*base, *flags]))
    return caught.value.args[0]


def test_images_are_drawn_from_a_single_file(place, monkeypatch):
    expected = load_stable_diffusion(place / "model")
    found = drawn_with(monkeypatch, place, "model.safetensors", "--config_name", str(place / "model"))
    assert same_bits(found.params, expected.params) and found.configs == expected.configs
    assert found.text_encoder == expected.text_encoder


def test_images_are_drawn_with_what_is_asked_for(place, monkeypatch):
    flags = ["--clip_skip", "1", "--prediction_type", "v_prediction", "--rescale_betas_zero_snr"]
    flags += ["--pretrained_vae_model_name_or_path", str(place / "other")]
    found = drawn_with(monkeypatch, place, "model", *flags)
    assert found.text_encoder.clip_skip == 1
    assert found.configs["scheduler"]["prediction_type"] == "v_prediction"
    assert found.configs["scheduler"]["rescale_betas_zero_snr"] is True
    assert same_bits(found.params["vae"], load_stable_diffusion(place / "other").params["vae"])


def test_the_epsilon_contradiction_has_both_names(place):
    with pytest.raises(
        ConfigError, match="rescale_betas_zero_snr and prediction_type epsilon exclude each other"
    ):
        configure(place, "out", prediction_type="epsilon", rescale_betas_zero_snr=True)
    assert json.loads(json.dumps(configure(place, "out", clip_skip=2).to_dict()))["clip_skip"] == 2
