"""Models in one file: the same bits as from a folder, configs from shapes, and files of every other kind."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import original_layout
import pytest
from original_layout import assert_same_tensors
from released_configs import TEXT_ENCODER_1_5, TEXT_ENCODER_2_1, UNET_1_5, UNET_2_1, VAE_1_5
from tiny_models import FAMILIES, SD1, SD2

from ti_flax.errors import WeightsError
from ti_flax.models.stable_diffusion import (
    COMPONENTS,
    load_stable_diffusion,
    parameter_shapes,
    random_stable_diffusion,
    save_stable_diffusion,
)
from ti_flax.models.text_encoder import CLIPTextConfig
from ti_flax.models.unet import UNet2DConditionConfig
from ti_flax.models.vae import AutoencoderKLConfig
from ti_flax.models.weights.model_source import ModelSource
from ti_flax.models.weights.original_names import dotted
from ti_flax.models.weights.parameters import torch_state
from ti_flax.models.weights.single_file import index_file, open_single_file, open_vae_file

ROOT = Path(__file__).resolve().parents[3]
DEEP = SD2 | {"text_encoder": SD2["text_encoder"] | {"num_hidden_layers": 23}}
CONFIGS = {"sd1": SD1, "sd2": DEEP}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of both families and the same models in one file."""
    place = tmp_path_factory.mktemp("single")
    for family, configs in CONFIGS.items():
        model = random_stable_diffusion(configs, seed=1)
        save_stable_diffusion(model, place / family)
        state = original_layout.original_state(model, second=family == "sd2")
        original_layout.save(place / f"{family}.safetensors", state)
    return place


def state_of(place, family):
    import safetensors.numpy

    return safetensors.numpy.load_file(place / f"{family}.safetensors")


def loaded(file, folder, **options):
    return load_stable_diffusion(ModelSource(file, config_folder=folder), **options)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(("family", "dtype"), [("sd1", jax.numpy.bfloat16), ("sd1", None), ("sd2", None)])
def test_the_parameters_are_those_of_the_folder(place, family, dtype):
    found = loaded(place / f"{family}.safetensors", place / family, dtype=dtype)
    expected = load_stable_diffusion(place / family, dtype=dtype)
    assert_same_bits(found.params, expected.params)
    assert found.configs == expected.configs
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(found.params))


@pytest.mark.parametrize(
    ("family", "names"),
    [
        (
            "sd1",
            ["logit_scale", "text_projection.weight", "embeddings.position_ids", "vision_model.a.weight"],
        ),
        ("sd1", ["text_model.text_projection.weight", "visual_projection.weight", "position_ids"]),
        ("sd2", ["visual.conv1.weight", "logit_bias", "text_projection.weight", "embeddings.position_ids"]),
    ],
)
def test_what_is_ignored_in_folders_is_ignored_here(place, family, names, tmp_path):
    prefix = "cond_stage_model.transformer." if family == "sd1" else "cond_stage_model.model."
    extras = {f"{prefix}{name}": np.ones((2, 2), np.float32) for name in names}
    extras["first_stage_model.loss.logvar"] = np.ones(1, np.float32)
    original_layout.save(tmp_path / "model.safetensors", state_of(place, family) | extras)
    found = loaded(tmp_path / "model.safetensors", place / family, dtype=None)
    assert_same_bits(found.params, load_stable_diffusion(place / family, dtype=None).params)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoints_of_training_programs_give_the_same(place, family, old, tmp_path):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(values) for name, values in state_of(place, family).items()}
    # The format is told from the contents: the name says otherwise.
    file = tmp_path / "model.safetensors"
    torch.save({"epoch": 3, "state_dict": state}, file, _use_new_zipfile_serialization=not old)
    found = open_single_file(file, place / family).tensors
    expected = open_single_file(place / f"{family}.safetensors", place / family).tensors
    for component in COMPONENTS:
        arrays = {name: tensor.read() for name, tensor in expected[component].items()}
        assert_same_tensors(found[component], arrays)


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_reads_the_same_file_alike(place, family):
    """What this project takes for the original layout is what diffusers takes for it."""
    pytest.importorskip("torch")
    from diffusers import AutoencoderKL, UNet2DConditionModel

    file = str(place / f"{family}.safetensors")
    found = open_single_file(Path(file), place / family)
    for component, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        theirs = kind.from_single_file(
            file, config=str(place / family), subfolder=component, local_files_only=True
        )
        theirs = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
        assert_same_tensors(found.tensors[component], theirs)


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.skipif(
    "TI_FLAX_DIFFUSERS_CHECKOUT" not in os.environ,
    reason="TI_FLAX_DIFFUSERS_CHECKOUT names a checkout of diffusers, for its conversion script",
)
def test_the_demo_model_as_diffusers_converts_it(ending, tmp_path):
    pytest.importorskip("torch")
    scripts = Path(os.environ["TI_FLAX_DIFFUSERS_CHECKOUT"]) / "scripts"
    demo, file = ROOT / "assets" / "demo-model", tmp_path / f"demo{ending}"
    command = [sys.executable, str(scripts / "convert_diffusers_to_original_stable_diffusion.py")]
    command += ["--model_path", str(demo), "--checkpoint_path", str(file)]
    subprocess.run([*command, *(["--use_safetensors"] if ending == ".safetensors" else [])], check=True)
    assert_same_bits(loaded(file, demo, dtype=None).params, load_stable_diffusion(demo, dtype=None).params)


def test_averaged_weights_are_used_only_where_there_are_no_others(place, tmp_path):
    state = state_of(place, "sd1")
    doubled = {
        name: values * 2 for name, values in state.items() if name.startswith("model.diffusion_model.")
    }
    averages = original_layout.averaged(doubled)
    both = original_layout.save(tmp_path / "both.safetensors", state | averages)
    rest = {name: values for name, values in state.items() if name not in doubled}
    alone = original_layout.save(tmp_path / "alone.safetensors", rest | averages)
    plain = open_single_file(place / "sd1.safetensors", place / "sd1").tensors["unet"]
    plain = {name: tensor.read() for name, tensor in plain.items()}
    found = open_single_file(both, place / "sd1")
    assert_same_tensors(found.tensors["unet"], plain)
    assert found.notes == (
        "both.safetensors also has averaged (EMA) weights of the UNet, which are not used",
    )
    found = open_single_file(alone, place / "sd1")
    assert_same_tensors(found.tensors["unet"], {name: values * 2 for name, values in plain.items()})
    assert found.notes == ("alone.safetensors has averaged (EMA) weights of the UNet alone; they are used",)


def without_numbers(path, configs, *, second):
    """Writes the header of a full-size file; its numbers are a hole in the disk."""
    model = random_stable_diffusion(configs, seed=0, components=())
    for part in COMPONENTS:
        shapes = parameter_shapes(getattr(model, part))
        model.params[part] = jax.tree.map(lambda leaf: np.broadcast_to(np.int8(0), leaf.shape), shapes)
    state = original_layout.original_state(model, second=second)
    return original_layout.write_header(path, original_layout.header_of(state))


RELEASED = {
    "sd1": {
        "text_encoder": TEXT_ENCODER_1_5,
        "unet": UNET_1_5,
        "vae": VAE_1_5,
        "scheduler": SD1["scheduler"],
    },
    "sd2": {
        "text_encoder": TEXT_ENCODER_2_1,
        "unet": UNET_2_1,
        "vae": VAE_1_5,
        "scheduler": SD2["scheduler"],
    },
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    place = tmp_path_factory.mktemp("released")
    for family, configs in RELEASED.items():
        without_numbers(place / f"{family}.safetensors", configs, second=family == "sd2")
    return place


@pytest.mark.parametrize("family", FAMILIES)
def test_configs_of_released_models_are_worked_out(released, family):
    file = open_single_file(released / f"{family}.safetensors")
    kinds = {"text_encoder": CLIPTextConfig, "unet": UNet2DConditionConfig, "vae": AutoencoderKLConfig}
    for component, kind in kinds.items():
        assert kind.from_dict(file.configs[component]) == kind.from_dict(RELEASED[family][component])
    assert file.configs["unet"]["sample_size"] == RELEASED[family]["unet"]["sample_size"]
    scheduler = file.configs["scheduler"]
    expected = RELEASED[family]["scheduler"]
    assert scheduler | expected == scheduler | {"_diffusers_version": expected["_diffusers_version"]}
    assert file.second == (family == "sd2")
    assert (file.notes == ()) == (family == "sd1")


@pytest.mark.parametrize("family", FAMILIES)
def test_dots_come_back_into_averaged_names_of_released_models(released, family):
    prefix = "model.diffusion_model."
    names = [name.removeprefix(prefix) for name in index_file(released / f"{family}.safetensors")]
    names = [name for name in names if name.startswith(("input", "middle", "output", "time", "out"))]
    assert len(names) == 686
    for name in names:
        assert dotted(name.replace(".", "")) == name


def test_what_a_second_model_predicts_is_said_or_asked(released, tmp_path):
    file = released / "sd2.safetensors"
    guessed = open_single_file(file)
    assert guessed.configs["scheduler"]["prediction_type"] == "v_prediction"
    assert "--prediction_type=epsilon is right for the 512-base ones" in guessed.notes[0]
    told = open_single_file(file, prediction_type="epsilon")
    assert told.configs["scheduler"]["prediction_type"] == "epsilon" and told.notes == ()
    assert told.configs["unet"]["sample_size"] == 64
    content = (released / "sd1.safetensors").open("rb")
    header = json.loads(content.read(*struct.unpack("<Q", content.read(8))))
    content.close()
    empty = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    marked = original_layout.write_header(
        tmp_path / "marked.safetensors", header | {"v_pred": empty, "ztsnr": empty}
    )
    scheduler = open_single_file(marked).configs["scheduler"]
    assert scheduler["prediction_type"] == "v_prediction" and scheduler["rescale_betas_zero_snr"] is True


YAML = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"
    linear_start: 0.001
    linear_end: 0.0130
    timesteps: 500
    scale_factor: 0.2
    unet_config:
      params: {num_heads: -1, num_head_channels: 32}
"""


def test_the_yaml_file_beside_it_is_followed(released, tmp_path):
    file = tmp_path / "model.safetensors"
    os.link(released / "sd1.safetensors", file)
    plain = open_single_file(file)
    file.with_suffix(".yaml").write_text(YAML)
    found = open_single_file(file)
    assert found.notes == ("model.yaml beside it describes the model",)
    changed = {
        part: {name: value for name, value in config.items() if plain.configs[part].get(name) != value}
        for part, config in found.configs.items()
    }
    assert changed == {
        "text_encoder": {},
        "unet": {"attention_head_dim": [10, 20, 40, 40]},
        "vae": {"scaling_factor": 0.2},
        "scheduler": {
            "_class_name": "DDIMScheduler",
            "prediction_type": "v_prediction",
            "beta_start": 0.001,
            "beta_end": 0.013,
            "num_train_timesteps": 500,
        },
    }
    for text, words in [
        ("model: [", "expected the original code's description .* found something else"),
        ("a: 1", "model.params"),
        ('{model: {params: {parameterization: "x0"}}}', "parameterization: expected eps or v, found 'x0'"),
        ("{model: {params: {beta_schedule: cosine}}}", "beta_schedule: expected linear or sqrt_linear"),
        ("{model: {params: {scale_factor: much}}}", "expected numbers"),
    ]:
        file.with_suffix(".yaml").write_text(text)
        with pytest.raises(WeightsError, match=words):
            open_single_file(file)


def test_sizes_that_no_released_model_has_need_configs(place):
    with pytest.raises(WeightsError, match="found a text encoder of width 32.* as config_name"):
        open_single_file(place / "sd1.safetensors")


VECTOR, MATRIX, KERNEL = np.zeros(4), np.zeros((4, 4)), np.zeros((4, 4, 3, 3))
OTHERS = [
    (
        {"model.diffusion_model.label_emb.0.0.weight": MATRIX},
        "an SDXL model without its text encoders, or one",
    ),
    ({"lora_unet_down_blocks_0.lora_up.weight": MATRIX, "a.alpha": VECTOR, "b": KERNEL}, "found a LoRA"),
    ({"unet.mid_block.attn.to_q.lora.down.weight": MATRIX}, "found a LoRA"),
    ({"emb_params": MATRIX}, "found a learned embedding"),
    ({"<cat-toy>": MATRIX}, "found a learned embedding"),
    ({"control_model.input_hint_block.0.weight": KERNEL}, "found a ControlNet"),
    ({"controlnet_cond_embedding.conv_in.weight": KERNEL}, "found a ControlNet"),
    ({"encoder.conv_in.weight": KERNEL, "decoder.conv_in.weight": KERNEL}, "found a VAE alone"),
    ({"down_blocks.0.resnets.0.conv1.weight": KERNEL}, "found a UNet alone"),
    ({"model.diffusion_model.joint_blocks.0.x": MATRIX}, "found a Stable Diffusion 3 model"),
    ({"joint_blocks.0.x": MATRIX}, "found a Stable Diffusion 3 model"),
    ({"model.diffusion_model.double_blocks.0.x": MATRIX}, "found a Flux model"),
    ({"double_blocks.0.x": MATRIX}, "found a Flux model"),
    ({"model.diffusion_model.clf.1.weight": KERNEL}, "found a Stable Cascade model"),
    ({"t_block.1.weight": MATRIX}, r"\(a diffusion transformer, as PixArt is\)"),
    ({"something.weight": KERNEL}, r"found no tensors model.diffusion_model.\*"),
    ({"model.diffusion_model.out.2.weight": KERNEL}, r"found no tensors cond_stage_model.\*"),
]


@pytest.mark.parametrize(("tensors", "words"), OTHERS)
def test_files_of_other_kinds_are_named(tensors, words, tmp_path):
    file = original_layout.save(tmp_path / "file.safetensors", tensors)
    with pytest.raises(
        WeightsError, match=f"file.safetensors: expected a whole Stable Diffusion.*{words}"
    ) as caught:
        open_single_file(file)
    assert "\n" not in str(caught.value)


def test_an_inpainting_model_is_refused(place, tmp_path):
    state = state_of(place, "sd1")
    name = "model.diffusion_model.input_blocks.0.0.weight"
    state[name] = np.concatenate([state[name], state[name], state[name][:, :1]], axis=1)
    file = original_layout.save(tmp_path / "inpainting.safetensors", state)
    description = tmp_path / "described"
    save_stable_diffusion(random_stable_diffusion(SD1, seed=1), description)
    config = json.loads((description / "unet" / "config.json").read_text())
    (description / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
    with pytest.raises(WeightsError, match="found 9 and 4. Inpainting, depth and upscaling models cannot"):
        loaded(file, description)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1000])
@pytest.mark.parametrize("kind", [".safetensors", ".ckpt"])
def test_files_that_are_cut_short(place, kind, keep, tmp_path):
    file = place / "sd1.safetensors"
    if kind == ".ckpt":
        torch = pytest.importorskip("torch")
        file = tmp_path / "whole.ckpt"
        torch.save({"a": torch.zeros(100, 100)}, file)
    short = tmp_path / f"short{kind}"
    short.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="short.*found something else .*download it again") as caught:
        open_single_file(short)
    assert "\n" not in str(caught.value)


WIDE = SD1["vae"] | {"block_out_channels": [32, 32], "norm_num_groups": 32}
WIDE |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}


@pytest.fixture(scope="module")
def wide():
    model = random_stable_diffusion(SD1 | {"vae": WIDE}, seed=1, components=("vae",))
    return model, torch_state(model.params["vae"], "vae")


@pytest.mark.parametrize("layout", ["original", "original, prefixed", "diffusers", "whole model"])
def test_an_autoencoder_in_a_file(place, wide, layout, tmp_path):
    state = wide[1]
    if layout != "diffusers":
        state = original_layout.original_vae(state, WIDE)
        state |= {"loss.logvar": np.zeros(()), "model_ema.decay": np.zeros(())}
    if layout in ("original, prefixed", "whole model"):
        state = {f"first_stage_model.{name}": values for name, values in state.items()}
    if layout == "whole model":
        rest = state_of(place, "sd1").items()
        state |= {name: values for name, values in rest if not name.startswith("first_stage_model.")}
    config, tensors = open_vae_file(original_layout.save(tmp_path / "vae.safetensors", state))
    assert AutoencoderKLConfig.from_dict(config) == AutoencoderKLConfig.from_dict(WIDE)
    assert_same_tensors(tensors, wide[1])


def test_an_autoencoder_in_a_file_takes_the_place_of_the_models(place, wide, tmp_path):
    state = original_layout.original_vae(wide[1], WIDE)
    file = original_layout.save(tmp_path / "vae.safetensors", state)
    found = load_stable_diffusion(ModelSource(place / "sd1", vae=file), components=("vae",))
    assert_same_bits(found.params["vae"], wide[0].params["vae"])
    assert found.vae.config == wide[0].vae.config


def test_a_model_without_an_autoencoder_takes_another(place, tmp_path):
    state = state_of(place, "sd1")
    state = {name: values for name, values in state.items() if not name.startswith("first_stage_model.")}
    file = original_layout.save(tmp_path / "bare.safetensors", state)
    source = ModelSource(file, config_folder=place / "sd1", vae=place / "sd1")
    assert source.file.tensors.keys() == {"text_encoder", "unet"}
    assert source.configs(COMPONENTS) == ModelSource(place / "sd1").configs(COMPONENTS)
    with pytest.raises(WeightsError, match=r"no tensors first_stage_model.\*. Name a VAE as pretrained_vae"):
        open_single_file(file, place / "sd1")


def test_a_file_without_an_autoencoder(tmp_path):
    file = original_layout.save(tmp_path / "file.safetensors", {"lora_up": MATRIX})
    with pytest.raises(WeightsError, match="expected a VAE .* found 1 other tensors such as lora_up"):
        open_vae_file(file)


def test_a_safetensors_header_of_128_bytes_is_no_pickle(tmp_path):
    from safetensors.numpy import save_file

    for length in range(1, 200):
        save_file({"x" * length: np.zeros(2, np.float32)}, tmp_path / "m.safetensors")
        if (tmp_path / "m.safetensors").read_bytes()[0] == 0x80:
            break
    assert (tmp_path / "m.safetensors").read_bytes()[:1] == b"\x80"
    assert list(index_file(tmp_path / "m.safetensors")) == ["x" * length]
