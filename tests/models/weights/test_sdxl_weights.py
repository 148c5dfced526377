"""SDXL in folders and single files: the same bits in every tensor, and the configs that shapes tell."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import original_layout
import pytest
from original_layout import assert_same_tensors

torch = pytest.importorskip("torch")

from sdxl_folder import PARTS, understood, write_sdxl_folder  # noqa: E402

from ti_flax.config.options import ModelOptions  # noqa: E402
from ti_flax.errors import ConfigError, WeightsError  # noqa: E402
from ti_flax.models.base_model import MODEL_PARTS, find_base_model  # noqa: E402
from ti_flax.models.stable_diffusion import parameter_shapes  # noqa: E402
from ti_flax.models.text_encoder import CLIPTextConfig, FlaxCLIPTextModel  # noqa: E402
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL  # noqa: E402
from ti_flax.models.weights.model_source import ModelSource  # noqa: E402
from ti_flax.models.weights.single_file import index_file, open_single_file, open_vae_file  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder, `folder`, and the same model in one file, `model.safetensors`."""
    place = tmp_path_factory.mktemp("sdxl")
    configs, states = write_sdxl_folder(place / "folder")
    state = original_layout.original_sdxl_state(states, configs)
    original_layout.save(place / "model.safetensors", state)
    return place


@pytest.fixture(scope="module")
def state(place):
    import safetensors.numpy

    return safetensors.numpy.load_file(place / "model.safetensors")


@pytest.fixture(scope="module")
def expected(place):
    """The folder's tensors by component, under the names that they are read by."""
    import safetensors.numpy

    found = {}
    for part in PARTS:
        (file,) = (place / "folder" / part).glob("*.safetensors")
        prefix = "text_model." if part == "text_encoder" else ""
        found[part] = {f"{prefix}{name}": v for name, v in safetensors.numpy.load_file(file).items()}
    return found


def written(place, state, name="changed.safetensors", **changes):
    """Writes a file with other tensors; those of None are left out."""
    kept = {key: value for key, value in (state | changes).items() if value is not None}
    return original_layout.save(place / name, kept)


@pytest.mark.parametrize("described", [False, True])
def test_a_single_file_is_the_folder_bit_for_bit(place, expected, described):
    folder = place / "folder"
    found = open_single_file(place / "model.safetensors", folder if described else None)
    assert found.is_sdxl and not found.second and found.notes == ()
    assert found.tensors.keys() == set(PARTS)
    for part in PARTS:
        assert_same_tensors(found.tensors[part], expected[part])
    assert found.configs.keys() == {*PARTS, "scheduler"}
    for part, config in ModelSource(folder).configs().items():
        assert understood(part, found.configs[part]) == understood(part, config), part


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_of_a_training_program_gives_the_same(place, state, expected, old, tmp_path):
    tensors = {name: torch.from_numpy(values) for name, values in state.items()}
    file = tmp_path / "model.ckpt"
    torch.save({"epoch": 3, "state_dict": tensors}, file, _use_new_zipfile_serialization=not old)
    found = open_single_file(file).tensors
    for part in PARTS:
        assert_same_tensors(found[part], expected[part])


def test_diffusers_reads_the_same_file_alike(place):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    file = place / "model.safetensors"
    found = open_single_file(file)
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        options = {"config": str(place / "folder"), "subfolder": part, "local_files_only": True}
        theirs = kind.from_single_file(str(file), **options).state_dict()
        assert_same_tensors(found.tensors[part], {name: tensor.numpy() for name, tensor in theirs.items()})


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.skipif(
    "TI_FLAX_DIFFUSERS_CHECKOUT" not in os.environ,
    reason="TI_FLAX_DIFFUSERS_CHECKOUT names a checkout of diffusers, for its conversion script",
)
def test_the_model_as_diffusers_converts_it(place, state, expected, ending, tmp_path):
    script = (
        Path(os.environ["TI_FLAX_DIFFUSERS_CHECKOUT"]) / "scripts" / "convert_diffusers_to_original_sdxl.py"
    )
    file = tmp_path / f"theirs{ending}"
    command = [
        sys.executable,
        str(script),
        "--model_path",
        str(place / "folder"),
        "--checkpoint_path",
        str(file),
    ]
    subprocess.run([*command, *(["--use_safetensors"] if ending == ".safetensors" else [])], check=True)
    found = open_single_file(file)
    for part in PARTS:
        assert_same_tensors(found.tensors[part], expected[part])
    assert found.configs == open_single_file(place / "model.safetensors").configs
    # What this project's tests write is what diffusers writes, but for buffers and the prefix that
    # transformers 5 leaves out of the first encoder's names.
    first = "conditioner.embedders.0.transformer."
    theirs = {
        name.replace(first, f"{first}text_model.") if first in name else name for name in index_file(file)
    }
    assert state.keys() - theirs == {
        f"{first}text_model.embeddings.position_ids",
        "conditioner.embedders.1.model.logit_scale",
        "denoiser.sigmas",
    }
    assert theirs <= state.keys()


def shapes_of_trees(place):
    """The trees that the modules want of the parts that this project has in Flax."""
    configs = ModelSource(place / "folder").configs()
    text = FlaxCLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
    second = FlaxCLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder_2"]))
    vae = FlaxAutoencoderKL(AutoencoderKLConfig.from_dict(configs["vae"]))
    projection = jax.ShapeDtypeStruct((128, 96), np.float32)
    return {
        "text_encoder": parameter_shapes(text),
        "text_encoder_2": {**parameter_shapes(second), "text_projection": {"kernel": projection}},
        "vae": parameter_shapes(vae),
    }


def test_parameters_come_alike_from_folder_and_file(place, expected):
    sources = ModelSource(place / "folder"), ModelSource(place / "model.safetensors")
    for part, shapes in shapes_of_trees(place).items():
        theirs, ours = (source.params(part, shapes, np.float32) for source in sources)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs) == jax.tree.structure(shapes)
        for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert one.flags.c_contiguous and one.tobytes() == other.tobytes()
    projection = sources[1].params("text_encoder_2", shapes_of_trees(place)["text_encoder_2"], None)
    projection = projection["text_projection"]["kernel"]
    np.testing.assert_array_equal(projection, expected["text_encoder_2"]["text_projection.weight"].T)


def test_what_a_source_says_of_itself(place, tmp_path):
    for source in (ModelSource(place / "folder"), ModelSource(place / "model.safetensors")):
        assert source.is_sdxl and source.components == PARTS
        assert source.force_zeros_for_empty_prompt
        assert source.configs().keys() == {*PARTS, "scheduler"}
    index = json.loads((place / "folder" / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    assert not ModelSource(tmp_path).force_zeros_for_empty_prompt
    for part in (*PARTS, "scheduler"):
        shutil.copytree(place / "folder" / part, tmp_path / part)
    described = ModelSource(place / "model.safetensors", config_folder=tmp_path)
    assert described.is_sdxl and not described.force_zeros_for_empty_prompt
    assert ModelSource(place / "folder").configs(("vae",)).keys() == {"vae", "scheduler"}


@pytest.mark.parametrize(("variant", "shards"), [("fp16", None), (None, "4MB"), ("fp16", "4MB")])
def test_folders_with_a_variant_and_in_shards(place, expected, variant, shards, tmp_path):
    from ti_flax.models.weights.model_folder import choose_weights
    from ti_flax.models.weights.parameters import _index_shards

    write_sdxl_folder(tmp_path / "folder", variant=variant, shards=shards)
    (tmp_path / "folder" / "model_index.json").unlink()
    source = ModelSource(tmp_path / "folder", variant=variant)
    assert source.is_sdxl and source.configs() == ModelSource(place / "folder").configs()
    for part in PARTS:
        names = [file.name for file in (source.place / part).iterdir()]
        files = [source.place / part / name for name in choose_weights(names, part, variant, part)]
        assert (len(files) > 2) == (part == "unet" and shards is not None)
        assert_same_tensors(_index_shards(files, part), expected[part])
    shapes = shapes_of_trees(place)["text_encoder_2"]
    read = [each.params("text_encoder_2", shapes, None) for each in (source, ModelSource(place / "folder"))]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *read)))


def test_a_variant_of_some_parts_is_said_of_all_parts(place, tmp_path, capsys):
    folder = shutil.copytree(place / "folder", tmp_path / "mixed")
    for file in folder.glob("unet/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    options = ModelOptions(pretrained_model_name_or_path=str(folder), variant="fp16")
    source = find_base_model(options, MODEL_PARTS)
    plain = "text_encoder, text_encoder_2, vae"
    note = f"note: there is no variant fp16 of {plain}: the plain files are read\n"
    assert capsys.readouterr().err == note
    assert source.is_sdxl


def test_the_converter_names_the_pipeline_that_loads_its_folder(place, tmp_path, capsys):
    from ti_flax.commands import convert_pipeline

    convert_pipeline.run(convert_pipeline.parse_arguments([str(place / "folder"), str(tmp_path / "out")]))
    assert capsys.readouterr().out.endswith(
        f'StableDiffusionXLPipeline.from_pretrained("{tmp_path / "out"}")\n'
    )


def test_averaged_weights_are_used_where_there_are_no_others(place, state, expected, tmp_path):
    own = {name: values for name, values in state.items() if not name.startswith("model.diffusion_model.")}
    averages = original_layout.averaged(state)
    alone = open_single_file(original_layout.save(tmp_path / "alone.safetensors", own | averages))
    assert_same_tensors(alone.tensors["unet"], expected["unet"])
    assert alone.notes == ("alone.safetensors has averaged (EMA) weights of the UNet alone; they are used",)
    both = open_single_file(original_layout.save(tmp_path / "both.safetensors", state | averages))
    assert both.notes == ("both.safetensors also has averaged (EMA) weights of the UNet, which are not used",)


FIRST, SECOND = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."


def test_what_no_image_depends_on_is_ignored(state, expected, tmp_path):
    names = [
        f"{FIRST}{name}" for name in ("logit_scale", "text_projection.weight", "text_model.position_ids")
    ]
    names += [
        f"{SECOND}{name}" for name in ("logit_bias", "attn_mask", "visual.conv1.weight", "position_ids")
    ]
    extras = {name: np.ones((2, 2), np.float32) for name in [*names, "first_stage_model.loss.logvar"]}
    found = open_single_file(written(tmp_path, state | extras))
    for part in PARTS:
        assert_same_tensors(found.tensors[part], expected[part])


def test_a_projection_that_lies_as_a_linear_layers_weight(state, expected, tmp_path):
    raw = state[f"{SECOND}text_projection"]
    assert raw.shape == (128, 96)
    changes = {f"{SECOND}text_projection": None, f"{SECOND}text_projection.weight": raw.T}
    found = open_single_file(written(tmp_path, state, **changes))
    assert_same_tensors(found.tensors["text_encoder_2"], expected["text_encoder_2"])


def test_as_many_layers_as_the_second_models_encoder_has_are_all_used(state, tmp_path):
    """24 layers are one more than 2.x uses; SDXL uses all that there are."""
    layers = {
        name.replace(".resblocks.2.", f".resblocks.{layer}."): values
        for layer in range(3, 24)
        for name, values in state.items()
        if name.startswith(f"{SECOND}transformer.resblocks.2.")
    }
    found = open_single_file(written(tmp_path, state | layers))
    assert found.configs["text_encoder_2"]["num_hidden_layers"] == 24
    assert "text_model.encoder.layers.23.self_attn.q_proj.weight" in found.tensors["text_encoder_2"]


def test_a_distilled_unet_is_refused(state, tmp_path):
    """SSD-1B: transformers of one level have different numbers of layers."""
    gone = "model.diffusion_model.input_blocks.7.1.transformer_blocks.2."
    left = {name: values for name, values in state.items() if not name.startswith(gone)}
    with pytest.raises(WeightsError) as caught:
        open_single_file(written(tmp_path, left))
    assert str(caught.value) == (
        f"{tmp_path / 'changed.safetensors'}: expected transformers of equally many layers in each level of "
        "the UNet, found [2, 3] in level 2, as distilled models have (SSD-1B). Use the model that it was "
        "made from."
    )


@pytest.mark.parametrize("width", [96, 97 + 96])
def test_sizes_that_do_not_divide_are_refused(state, width, tmp_path):
    name = "model.diffusion_model.label_emb.0.0.weight"
    file = written(tmp_path, state, **{name: np.ones((256, width), np.float32)})
    with pytest.raises(
        WeightsError, match=f"found label_emb for {width} numbers, with a pooled text of 96 and"
    ):
        open_single_file(file)


EMPTY = np.zeros(0, np.float16)


@pytest.mark.parametrize("described", [False, True])
def test_marked_files_predict_velocity_to_the_end(place, state, described, tmp_path):
    folder = place / "folder" if described else None
    file = written(tmp_path, state, v_pred=EMPTY, ztsnr=EMPTY)
    source = ModelSource(file, config_folder=folder)
    changes = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    changes |= {"timestep_spacing": "trailing"}
    plain = ModelSource(place / "model.safetensors", config_folder=folder).configs()
    assert source.configs()["scheduler"] == plain["scheduler"] | changes
    assert source.file.notes == (
        ("changed.safetensors is marked v_pred: its UNet is taken to predict velocity",) if described else ()
    )
    only = open_single_file(written(tmp_path, state, "only.safetensors", v_pred=EMPTY), folder)
    assert only.configs["scheduler"] == plain["scheduler"] | {"prediction_type": "v_prediction"}
    told = open_single_file(file, folder, prediction_type="epsilon")
    assert told.configs["scheduler"]["prediction_type"] == "epsilon"
    with pytest.raises(ConfigError, match="rescale_betas_zero_snr"):
        ModelSource(file, config_folder=folder, prediction_type="epsilon").configs()


@pytest.mark.parametrize("name", ["folder", "model.safetensors"])
def test_the_users_schedule_is_followed(place, name):
    plain = ModelSource(place / name).configs()["scheduler"]
    assert plain["_class_name"] == "EulerDiscreteScheduler" and plain["timestep_spacing"] == "leading"
    changed = ModelSource(place / name, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert changed.configs()["scheduler"] == plain | {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }


YAML = """
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    scale_factor: 0.2
    denoiser_config:
      params:
        scaling_config: {target: sgm.modules.diffusionmodules.denoiser_scaling.%s}
    network_config:
      params: {num_head_channels: 32}
"""


def test_the_yaml_file_beside_it_is_followed(place, tmp_path):
    file = tmp_path / "model.safetensors"
    os.link(place / "model.safetensors", file)
    plain = open_single_file(file).configs
    for scaling, prediction_type in (("EpsScaling", "epsilon"), ("VScaling", "v_prediction")):
        file.with_suffix(".yaml").write_text(YAML % scaling)
        found = open_single_file(file).configs
        assert found["scheduler"] == plain["scheduler"] | {"prediction_type": prediction_type}
        assert found["vae"] == plain["vae"] | {"scaling_factor": 0.2}
        assert found["unet"] == plain["unet"] | {"attention_head_dim": [2, 2, 4]}
    file.with_suffix(".yaml").write_text(YAML % "EDMScaling")
    with pytest.raises(WeightsError, match="expected EpsScaling or VScaling, found 'EDMScaling'"):
        open_single_file(file)


@pytest.mark.parametrize("base", ["folder", "model.safetensors"])
@pytest.mark.parametrize(
    "layout", ["alone", "prefixed", "diffusers", "whole model", "folder", "model folder"]
)
def test_an_autoencoder_from_elsewhere(place, state, expected, base, layout, tmp_path):
    own = {name: values for name, values in state.items() if name.startswith("first_stage_model.")}
    states = {
        "alone": {name.removeprefix("first_stage_model."): values for name, values in own.items()},
        "prefixed": own,
        "diffusers": expected["vae"],
        "whole model": state,
    }
    if layout in states:
        vae = original_layout.save(tmp_path / "vae.safetensors", states[layout])
    else:
        vae = place / "folder" / ("vae" if layout == "folder" else "")
    source = ModelSource(place / base, vae=vae)
    config = source.configs()["vae"]
    assert config["scaling_factor"] == 0.13025
    assert AutoencoderKLConfig.from_dict(config) == AutoencoderKLConfig.from_dict(
        ModelSource(place / "folder").configs()["vae"]
    )
    shapes = shapes_of_trees(place)["vae"]
    found = source.params("vae", shapes, None), ModelSource(place / "folder").params("vae", shapes, None)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *found)))


def test_a_file_of_an_autoencoder_is_scaled_as_its_model_is(state, tmp_path):
    vae = original_layout.save(tmp_path / "vae.safetensors", state)
    assert open_vae_file(vae)[0]["scaling_factor"] == 0.18215
    assert open_vae_file(vae, sdxl=True)[0]["scaling_factor"] == 0.13025


def test_a_model_without_an_autoencoder_takes_another(place, state, expected, tmp_path):
    bare = {name: values for name, values in state.items() if not name.startswith("first_stage_model.")}
    file = original_layout.save(tmp_path / "bare.safetensors", bare)
    source = ModelSource(file, vae=place / "folder")
    assert source.configs()["vae"]["scaling_factor"] == 0.13025
    with pytest.raises(WeightsError, match=r"no tensors first_stage_model.\*. Name a VAE as pretrained_vae"):
        open_single_file(file)


def test_config_files_of_the_other_kind_are_refused(place, tmp_path):
    from tiny_folder import write_folder

    write_folder(tmp_path / "sd1")
    with pytest.raises(WeightsError) as caught:
        open_single_file(place / "model.safetensors", tmp_path / "sd1")
    assert str(caught.value) == (
        f"config_name {tmp_path / 'sd1'}: expected config files of an SDXL model, as the single file is, "
        "found those of a Stable Diffusion 1.x or 2.x model. Name another folder, or leave config_name out."
    )
