"""The text encoder against PyTorch's, in bfloat16, and the configs it takes and refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from released_configs import TEXT_ENCODER_1_5, TEXT_ENCODER_2_1
from tiny_models import FAMILIES, SD1, SD2, SDXL

from ti_flax.errors import WeightsError
from ti_flax.models.stable_diffusion import parameter_shapes, random_stable_diffusion
from ti_flax.models.text_encoder import (
    CLIPTextConfig,
    FlaxCLIPTextModel,
    FlaxCLIPTextModelWithProjection,
)
from ti_flax.models.weights.parameters import read_params


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_pytorchs(family, tmp_path):
    torch = pytest.importorskip("torch")
    from torch_models import torch_model

    config = FAMILIES[family]["text_encoder"]
    reference = torch_model("text_encoder", config)
    reference.save_pretrained(tmp_path / "text_encoder")
    module = FlaxCLIPTextModel(CLIPTextConfig.from_dict(config))
    params = read_params(tmp_path, "text_encoder", parameter_shapes(module), dtype=jnp.float32)
    ids = np.random.default_rng(0).integers(0, 120, (2, 77))

    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)).last_hidden_state.numpy()
    found = jax.jit(module.apply, static_argnames="method")({"params": params}, ids, method="encode_ids")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
def test_skipped_layers_as_in_diffusers(clip_skip, tmp_path):
    """diffusers takes `hidden_states[-(clip_skip + 1)]` and puts it through the final norm."""
    torch = pytest.importorskip("torch")
    from torch_models import torch_model

    config = SD2["text_encoder"]
    reference = torch_model("text_encoder", config)
    reference.save_pretrained(tmp_path / "text_encoder")
    module = FlaxCLIPTextModel(CLIPTextConfig.from_dict(config), clip_skip=clip_skip)
    params = read_params(tmp_path, "text_encoder", parameter_shapes(module), dtype=jnp.float32)
    ids = np.random.default_rng(0).integers(0, 120, (2, 77))

    with torch.no_grad():
        outputs = reference(torch.from_numpy(ids), output_hidden_states=True)
        norm = getattr(reference, "text_model", reference).final_layer_norm
        expected = norm(outputs.hidden_states[-(clip_skip + 1)]).numpy()
    found = jax.jit(module.apply, static_argnames="method")({"params": params}, ids, method="encode_ids")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("clip_skip", [0, 1])
@pytest.mark.parametrize("component", ["text_encoder", "text_encoder_2"])
def test_sdxls_hidden_states_and_pooled_equal_pytorchs(component, clip_skip, tmp_path):
    """diffusers takes `hidden_states[-(clip_skip + 2)]` of both, and the second's pooled output as it is."""
    torch = pytest.importorskip("torch")
    from torch_models import torch_model

    end = 119
    config = SDXL[component] | {"eos_token_id": end}
    reference = torch_model(component, config)
    reference.save_pretrained(tmp_path / component)
    ids = np.random.default_rng(0).integers(0, end, (3, 77))
    ends = np.array([5, 76, 1], np.int32)
    for row, place in zip(ids, ends, strict=True):
        row[place:] = end if component == "text_encoder" else 0
        row[place] = end
    with torch.no_grad():
        outputs = reference(torch.from_numpy(ids), output_hidden_states=True)
    expected = outputs.hidden_states[-(clip_skip + 2)].numpy()

    if component == "text_encoder":
        module = FlaxCLIPTextModel(CLIPTextConfig.from_dict(config), clip_skip=clip_skip, penultimate=True)
    else:
        read = CLIPTextConfig.from_dict(config, projected=True)
        module = FlaxCLIPTextModelWithProjection(read, clip_skip=clip_skip)
    params = read_params(tmp_path, component, parameter_shapes(module), dtype=jnp.float32)
    given = (ids,) if component == "text_encoder" else (ids, ends)
    found = jax.jit(module.apply, static_argnames="method")({"params": params}, *given, method="encode_ids")
    if component == "text_encoder_2":
        found, pooled = found
        assert pooled.shape == (3, 28)
        np.testing.assert_allclose(pooled, outputs.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sdxls_first_encoder_computes_no_last_layer():
    module = random_stable_diffusion(SDXL, seed=0, components=()).text_encoder
    shapes = parameter_shapes(module)
    assert "final_layer_norm" in shapes["text_model"] and "2" in shapes["text_model"]["encoder"]["layers"]
    inputs = jax.ShapeDtypeStruct((1, 77, 24), jnp.float32)

    def products(penultimate):
        lowered = jax.jit(module.clone(penultimate=penultimate).apply).lower({"params": shapes}, inputs)
        return lowered.as_text().count("dot_general")

    assert products(True) * 3 == products(False) * 2


def test_the_second_encoders_layers_are_one_program():
    """Its program is as long with one more layer."""
    config = CLIPTextConfig.from_dict(SDXL["text_encoder_2"], projected=True)

    def text(layers):
        module = FlaxCLIPTextModelWithProjection(dataclasses.replace(config, num_hidden_layers=layers))
        given = jax.ShapeDtypeStruct((1, 77, 40), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
        return jax.jit(module.apply).lower({"params": parameter_shapes(module)}, *given).as_text()

    assert len(text(4).splitlines()) == len(text(9).splitlines())


def test_skipped_layers_are_not_computed():
    model = random_stable_diffusion(SD2, seed=0, components=())

    def products(clip_skip):
        module = model.text_encoder.clone(clip_skip=clip_skip)
        params = parameter_shapes(module)
        assert params == parameter_shapes(model.text_encoder)
        inputs = jax.ShapeDtypeStruct((1, 77, 48), jnp.float32)
        return str(jax.make_jaxpr(module.apply)({"params": params}, inputs)).count("dot_general")

    each = products(1) - products(2)
    assert each > 0 and products(0) == products(1) + each == 3 * each


def test_embeddings_looked_up_outside_give_the_same(tiny_text_encoder):
    module, params = tiny_text_encoder
    ids = np.arange(10).reshape(2, 5)
    table = params["text_model"]["embeddings"]["token_embedding"]["embedding"]
    embeds = module.apply({"params": params}, ids, method="token_embeddings")
    np.testing.assert_array_equal(embeds, table[ids])
    np.testing.assert_array_equal(
        module.apply({"params": params}, embeds), module.apply({"params": params}, ids, method="encode_ids")
    )


def test_bfloat16_stays_near_float32(tiny_text_encoder):
    module, params = tiny_text_encoder
    ids = np.arange(77)[None]
    expected = module.apply({"params": params}, ids, method="encode_ids")
    lower = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    found = module.clone(dtype=jnp.bfloat16).apply({"params": lower}, ids, method="encode_ids")
    assert found.dtype == jnp.bfloat16
    error = np.linalg.norm(found.astype(jnp.float32) - expected) / np.linalg.norm(expected)
    assert error < 0.02


@pytest.fixture(scope="module")
def tiny_text_encoder():
    model = random_stable_diffusion(SD1, seed=0)
    return model.text_encoder, model.params["text_encoder"]


def test_reads_the_configs_of_released_models():
    first = CLIPTextConfig.from_dict(TEXT_ENCODER_1_5)
    second = CLIPTextConfig.from_dict(TEXT_ENCODER_2_1)
    assert (first.hidden_size, first.num_hidden_layers, first.hidden_act) == (768, 12, "quick_gelu")
    assert (second.hidden_size, second.num_hidden_layers, second.hidden_act) == (1024, 23, "gelu")


def test_reads_the_config_transformers_writes():
    transformers = pytest.importorskip("transformers")
    written = transformers.CLIPTextConfig(**SD1["text_encoder"]).to_dict()
    assert CLIPTextConfig.from_dict(written) == CLIPTextConfig.from_dict(SD1["text_encoder"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu_new"}, ["hidden_act", "gelu_new", "'quick_gelu' or 'gelu'"]),
        ({"attention_dropout": 0.1}, ["attention_dropout", "0.1", "0.0"]),
        ({"model_type": "roberta"}, ["model_type", "roberta", "clip_text_model"]),
        ({"rotary": True}, ["unknown field rotary", "True"]),
        ({"num_attention_heads": 5}, ["multiple of num_attention_heads (5)", "32"]),
        ({"vocab_size": "many"}, ["vocab_size", "a positive integer", "'many'"]),
    ],
)
def test_refuses_what_it_cannot_do(changes, words):
    with pytest.raises(WeightsError) as caught:
        CLIPTextConfig.from_dict(SD1["text_encoder"] | changes, "model/text_encoder/config.json")
    for word in ["model/text_encoder/config.json", *words]:
        assert word in str(caught.value)
