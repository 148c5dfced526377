"""SDXL's bundle: what fits together, folders in both layouts, and layers that files have one by one."""

import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import SD1, SDXL

from ti_flax.errors import ConfigError, WeightsError
from ti_flax.models.stable_diffusion import (
    load_stable_diffusion,
    parameter_shapes,
    random_stable_diffusion,
    save_stable_diffusion,
    token_table,
)
from ti_flax.models.weights.model_source import SDXL_COMPONENTS, ModelSource
from ti_flax.models.weights.parameters import torch_state
from ti_flax.models.weights.tensor_files import index_msgpack

STACKED_LAYERS = {"text_encoder_2": ("text_model/encoder/layers/*", 4), "unet": ("transformer_blocks_*", 3)}


@pytest.fixture(scope="module")
def model():
    return random_stable_diffusion(SDXL, seed=0)


def names_of(params):
    return list(flax.traverse_util.flatten_dict(params, sep="/"))


def test_the_parts_of_the_bundle(model):
    assert model.is_sdxl and model.components == SDXL_COMPONENTS == tuple(model.params)
    assert list(model.text_encoders) == ["text_encoder", "text_encoder_2"]
    assert model.text_encoder is model.text_encoders["text_encoder"]
    assert model.module("unet") is model.unet and model.module("vae") is model.vae
    assert token_table(model.params, "text_encoder_2").shape == (120, 40)
    first = random_stable_diffusion(SD1, seed=0, components=())
    assert not first.is_sdxl and first.components == ("text_encoder", "unet", "vae")


def test_the_autoencoder_is_float32_whatever_the_rest_is():
    half = random_stable_diffusion(SDXL, seed=0, dtype=jnp.bfloat16)
    kinds = {part: {leaf.dtype.name for leaf in jax.tree.leaves(half.params[part])} for part in half.params}
    assert kinds.pop("vae") == {"float32"} and half.vae.dtype == jnp.float32
    assert set.union(*kinds.values()) == {"bfloat16"} and half.dtype == jnp.bfloat16
    images = jnp.ones((1, 8, 8, 3), jnp.bfloat16)
    apply = jax.jit(half.vae.apply, static_argnames="method")
    moments = apply({"params": half.params["vae"]}, images, method="encode")
    assert moments.dtype == apply({"params": half.params["vae"]}, moments[..., :4], method="decode").dtype
    assert moments.dtype == jnp.float32
    assert half.vae.config.scaling_factor == 0.13025
    first = random_stable_diffusion(SD1, seed=0, dtype=jnp.bfloat16)
    assert first.vae.dtype == jnp.bfloat16


@pytest.mark.parametrize("component", STACKED_LAYERS)
def test_many_layers_are_one_leaf_in_memory(component, model):
    part, layers = STACKED_LAYERS[component]
    leaves = flax.traverse_util.flatten_dict(model.params[component], sep="/")
    stacked = {name: leaf for name, leaf in leaves.items() if part in name}
    assert stacked and {leaf.shape[0] for leaf in stacked.values()} <= {2, layers}
    assert not any("transformer_blocks_1" in name or "layers/0" in name for name in leaves)
    # A kernel's variance is that of one layer's inputs, not of all layers'.
    kernel = next(leaf for name, leaf in stacked.items() if name.endswith("kernel"))
    assert 0.8 < kernel.std() * np.sqrt(kernel.shape[1]) < 1.2


def test_layers_have_their_own_numbers_in_files(model):
    """Each layer's parameters under its own number, and the trees that diffusers' Flax classes have."""
    key = ["mid_block", "attentions_0", "transformer_blocks_*", "attn1", "to_q", "kernel"]
    stack = model.params["unet"]
    for name in key:
        stack = stack[name]
    state = torch_state(model.params["unet"], "unet")
    for layer in range(3):
        found = state[f"mid_block.attentions.0.transformer_blocks.{layer}.attn1.to_q.weight"]
        np.testing.assert_array_equal(found, stack[layer].T)
    second = torch_state(model.params["text_encoder_2"], "text_encoder_2")
    layers = model.params["text_encoder_2"]["text_model"]["encoder"]["layers"]["*"]
    np.testing.assert_array_equal(
        second["text_model.encoder.layers.3.mlp.fc1.weight"], layers["mlp"]["fc1"]["kernel"][3].T
    )
    projection = model.params["text_encoder_2"]["text_projection"]["kernel"]
    np.testing.assert_array_equal(second["text_projection.weight"], projection.T)
    assert not any("*" in name for name in (*state, *second))


@pytest.mark.parametrize("layout", ["torch", "flax"])
def test_a_saved_model_is_loaded_again(layout, model, tmp_path):
    save_stable_diffusion(model, tmp_path, layout=layout, eos_token_id=119)
    loaded = load_stable_diffusion(tmp_path)
    assert tuple(loaded.params) == SDXL_COMPONENTS
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(loaded.params))
    for component in SDXL_COMPONENTS:
        assert loaded.module(component) == model.module(component)
    index = json.loads((tmp_path / "model_index.json").read_text())
    prefix = "Flax" if layout == "flax" else ""
    assert index["_class_name"] == f"{prefix}StableDiffusionXLPipeline"
    assert index["text_encoder_2"] == ["transformers", f"{prefix}CLIPTextModelWithProjection"]
    assert index["tokenizer_2"] == ["transformers", "CLIPTokenizer"]
    assert index["force_zeros_for_empty_prompt"] is True
    written = json.loads((tmp_path / "text_encoder_2" / "config.json").read_text())
    assert written["eos_token_id"] == 119 and written["projection_dim"] == 28
    if layout == "flax":
        names = index_msgpack(tmp_path / "unet" / "diffusion_flax_model.msgpack")
        block = "up_blocks_0/attentions_0/transformer_blocks_2/ff/net_0/proj/kernel"
        assert names[block].shape == (60, 480) and names["add_embedding/linear_1/kernel"].shape == (88, 96)
        names = index_msgpack(tmp_path / "text_encoder_2" / "flax_model.msgpack")
        assert names["text_projection/kernel"].shape == (40, 28)
        assert names["text_model/encoder/layers/3/self_attn/q_proj/bias"].shape == (40,)


def test_zeros_for_an_empty_prompt_are_what_the_index_says(model, tmp_path):
    save_stable_diffusion(model, tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for said, meant in ((False, False), (True, True), (None, True)):
        index["force_zeros_for_empty_prompt"] = said
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        assert load_stable_diffusion(tmp_path, components=()).zeros_for_empty_prompt is meant


def test_the_folder_that_pytorch_writes(tmp_path):
    """In several files a part, of which one layer's tensors lie in any."""
    pytest.importorskip("torch")
    from torch_models import write_torch_models

    modules = write_torch_models(tmp_path, SDXL)
    modules["unet"].save_pretrained(tmp_path / "sharded" / "unet", max_shard_size="200KB")
    files = list((tmp_path / "sharded" / "unet").glob("*-of-*.safetensors"))
    assert len(files) > 2
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SDXL["scheduler"]))
    whole = load_stable_diffusion(tmp_path)
    for component, module in modules.items():
        ours = torch_state(whole.params[component], component)
        theirs = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
        theirs = {name: theirs.get(name, theirs.get(name.removeprefix("text_model."))) for name in ours}
        assert len(theirs) == len(module.state_dict())
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for file in files:
        file.rename(tmp_path / "unet" / file.name)
    again = load_stable_diffusion(tmp_path, components=("unet",)).params["unet"]
    jax.tree.map(np.testing.assert_array_equal, again, whole.params["unet"])


@pytest.mark.parametrize("layout", ["torch", "flax"])
def test_a_layer_that_is_missing_is_named(layout, model, tmp_path):
    unet = flax.traverse_util.flatten_dict(model.params["unet"])
    for path in [path for path in unet if "transformer_blocks_*" in path and "mid_block" in path]:
        unet[path] = unet[path][:2]
    less = {**model.params, "unet": flax.traverse_util.unflatten_dict(unet)}
    model = random_stable_diffusion(SDXL, seed=0, components=())
    model.params.update(less)
    save_stable_diffusion(model, tmp_path, layout=layout)
    name = (
        "mid_block.attentions.0.transformer_blocks.2" if layout == "torch" else "transformer_blocks_2/attn1"
    )
    with pytest.raises(WeightsError, match=rf"missing \(20\): .*{name}"):
        load_stable_diffusion(tmp_path)


@pytest.mark.parametrize(("stored", "dtype"), [(np.float16, jnp.bfloat16), (np.float16, None)])
def test_half_precision_files_are_converted_layer_by_layer(stored, dtype, model, tmp_path):
    half = random_stable_diffusion(SDXL, seed=0, components=())
    half.params.update(jax.tree.map(lambda leaf: leaf.astype(stored), model.params))
    save_stable_diffusion(half, tmp_path)
    found = load_stable_diffusion(tmp_path, dtype=dtype, components=("unet", "vae")).params
    kept = stored if dtype is None else dtype
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_array_equal(ours, theirs.astype(kept)),
        found["unet"],
        half.params["unet"],
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(found["unet"])} == {np.dtype(kept)}
    of_vae = {leaf.dtype for leaf in jax.tree.leaves(found["vae"])}
    assert of_vae == {np.dtype(np.float16 if dtype is None else np.float32)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"unet": {"cross_attention_dim": 24}},
            "cross_attention_dim 64, the hidden_size of both .* found 24",
        ),
        (
            {"unet": {"projection_class_embeddings_input_dim": 78}},
            "expected projection_class_embeddings_input_dim 88: the projection_dim .* found 78",
        ),
        ({"text_encoder_2": {"projection_dim": 27}}, "input_dim 87: the projection_dim .* 27.* found 88"),
        ({"unet": {"addition_embed_type": None}}, "expected text_time beside two .* found None beside 2"),
        (
            {"text_encoder_2": None, "unet": {"cross_attention_dim": 24}},
            "found text_time beside 1. .*refiners",
        ),
        ({"vae": {"latent_channels": 3}}, "in_channels and out_channels 3"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, words):
    configs = {part: SDXL[part] | changes.get(part, {}) for part in SDXL if changes.get(part, {}) is not None}
    with pytest.raises(WeightsError, match=words):
        random_stable_diffusion(configs, seed=0)


def test_layers_that_may_be_left_out(model, tmp_path):
    save_stable_diffusion(model, tmp_path)
    skipping = load_stable_diffusion(ModelSource(tmp_path, clip_skip=1), components=())
    assert {encoder.clip_skip for encoder in skipping.text_encoders.values()} == {1}
    assert parameter_shapes(skipping.text_encoder) == parameter_shapes(model.text_encoder)
    with pytest.raises(ConfigError, match="clip_skip: expected at most 1, .* 3 layers, found 2"):
        load_stable_diffusion(ModelSource(tmp_path, clip_skip=2), components=())
