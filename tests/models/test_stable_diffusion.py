"""The bundle: parameter trees as Flax had them, random models, folders in both layouts, full-size parity."""

import functools
import json
import pathlib
import re
import resource

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from released_configs import TEXT_ENCODER_1_5, UNET_1_5, VAE_1_5
from tiny_models import FAMILIES, SD1, SD2

from ti_flax.errors import WeightsError
from ti_flax.models.stable_diffusion import (
    COMPONENTS,
    load_stable_diffusion,
    parameter_shapes,
    random_stable_diffusion,
    save_stable_diffusion,
)
from ti_flax.models.text_encoder import CLIPTextConfig, FlaxCLIPTextModel
from ti_flax.models.unet import FlaxUNet2DConditionModel, UNet2DConditionConfig
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL
from ti_flax.models.weights.parameters import read_params

# Shapes of the last releases that had Flax classes, written once with those.
FLAX_TREES = json.loads((pathlib.Path(__file__).parents[1] / "support" / "flax_trees.json").read_text())
FULL_SIZE = {
    "text_encoder": TEXT_ENCODER_1_5,
    "unet": UNET_1_5,
    "vae": VAE_1_5,
    "scheduler": SD1["scheduler"],
}


def make_module(component, config):
    return {
        "text_encoder": lambda: FlaxCLIPTextModel(CLIPTextConfig.from_dict(config)),
        "unet": lambda: FlaxUNet2DConditionModel(UNet2DConditionConfig.from_dict(config)),
        "vae": lambda: FlaxAutoencoderKL(AutoencoderKLConfig.from_dict(config)),
    }[component]()


def flat_shapes(module):
    leaves = flax.traverse_util.flatten_dict(parameter_shapes(module), sep="/")
    return {name: list(leaf.shape) for name, leaf in leaves.items()}


@pytest.mark.parametrize("component", COMPONENTS)
def test_trees_are_those_of_the_flax_pipeline(component):
    module = make_module(component, FLAX_TREES["configs"][component])
    assert flat_shapes(module) == FLAX_TREES["shapes"][component]


def test_linear_projections_change_nothing_but_the_projections():
    module = make_module("unet", FLAX_TREES["configs"]["unet"] | {"use_linear_projection": True})
    expected = {
        name: shape[2:] if re.search(r"proj_(in|out)/kernel", name) else shape
        for name, shape in FLAX_TREES["shapes"]["unet"].items()
    }
    assert flat_shapes(module) == expected


@pytest.mark.parametrize(
    ("component", "parameters", "leaves"),
    # Of stable-diffusion-v1-5, as its model card and files have them.
    [("text_encoder", 123_060_480, 196), ("unet", 859_520_964, 686), ("vae", 83_653_863, 248)],
)
def test_parameters_of_the_full_size(component, parameters, leaves):
    shapes = flat_shapes(make_module(component, FULL_SIZE[component]))
    assert len(shapes) == leaves
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters


def test_random_parameters_depend_on_the_seed_alone():
    first, again, other = (random_stable_diffusion(SD1, seed=seed).params for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for leaf, different in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        assert np.all(leaf != 0) or np.mean(leaf == 0) < 1e-3
        assert not np.array_equal(leaf, different)


def test_random_parameters_in_bfloat16_are_the_rounded_ones():
    full = random_stable_diffusion(SD1, seed=3).params
    half = random_stable_diffusion(SD1, seed=3, dtype=jnp.bfloat16).params
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(jnp.bfloat16), b), full, half)


@pytest.mark.parametrize("layout", ["torch", "flax"])
def test_a_saved_model_is_loaded_again(layout, tmp_path):
    model = random_stable_diffusion(SD2, seed=0)
    save_stable_diffusion(model, tmp_path, layout=layout)
    loaded = load_stable_diffusion(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    for component in COMPONENTS:
        assert getattr(loaded, component) == getattr(model, component)
    assert loaded.source.place == tmp_path
    assert loaded.configs["scheduler"]["prediction_type"] == "v_prediction"
    half = load_stable_diffusion(tmp_path, dtype=jnp.bfloat16, components=("vae",))
    assert half.params.keys() == {"vae"} and half.vae.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {np.dtype(jnp.bfloat16)}


def test_class_names_of_both_layouts(tmp_path):
    model = random_stable_diffusion(SD1, seed=0)
    indices = {}
    for layout in ("torch", "flax"):
        save_stable_diffusion(model, tmp_path / layout, layout=layout)
        indices[layout] = json.loads((tmp_path / layout / "model_index.json").read_text())
    assert indices["torch"]["_class_name"] == "StableDiffusionPipeline"
    assert indices["torch"]["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert indices["torch"]["scheduler"] == ["diffusers", "PNDMScheduler"]
    assert indices["torch"]["safety_checker"] == [None, None]
    assert indices["torch"]["requires_safety_checker"] is False
    assert indices["flax"]["_class_name"] == "FlaxStableDiffusionPipeline"
    assert indices["flax"]["text_encoder"] == ["transformers", "FlaxCLIPTextModel"]
    assert indices["flax"]["scheduler"] == ["diffusers", "FlaxPNDMScheduler"]


def test_schedulers_without_a_flax_twin_become_ddim(tmp_path):
    configs = SD1 | {"scheduler": SD1["scheduler"] | {"_class_name": "UniPCMultistepScheduler"}}
    save_stable_diffusion(random_stable_diffusion(configs, seed=0), tmp_path, layout="flax")
    assert load_stable_diffusion(tmp_path).configs["scheduler"]["_class_name"] == "FlaxDDIMScheduler"


def test_the_written_configs_fit_the_written_parameters(tmp_path):
    """A grown token table shows in vocab_size, and heads go by the name that PyTorch's class takes."""
    configs = SD2 | {"unet": SD2["unet"] | {"attention_head_dim": None, "num_attention_heads": [2, 4, 8]}}
    model = random_stable_diffusion(configs, seed=0)
    table = model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]
    table["embedding"] = np.concatenate([table["embedding"], np.ones((3, 48), np.float32)])
    save_stable_diffusion(model, tmp_path)
    loaded = load_stable_diffusion(tmp_path)
    assert loaded.text_encoder.config.vocab_size == 123
    assert loaded.configs["unet"]["attention_head_dim"] == [2, 4, 8]
    assert "num_attention_heads" not in loaded.configs["unet"]


@pytest.mark.parametrize("family", FAMILIES)
def test_pytorchs_pipeline_loads_the_torch_layout(family, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    model = random_stable_diffusion(FAMILIES[family], seed=0)
    save_stable_diffusion(model, tmp_path)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path, tokenizer=None)
    ids = np.arange(77)[None]
    with torch.no_grad():
        expected = pipeline.text_encoder(torch.from_numpy(ids)).last_hidden_state.numpy()
    found = model.text_encoder.apply({"params": model.params["text_encoder"]}, ids, method="encode_ids")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("component", "changes", "words"),
    [
        ("unet", {"in_channels": 9}, "expected in_channels and out_channels 4.* found 9 and 4.*Inpainting"),
        ("unet", {"cross_attention_dim": 48}, "expected cross_attention_dim 32, the hidden_size .* found 48"),
        ("vae", {"shift_factor": 0.1}, "vae/config.json, field shift_factor: expected None, found 0.1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(component, changes, words):
    with pytest.raises(WeightsError, match=words):
        random_stable_diffusion(SD1 | {component: SD1[component] | changes}, seed=0)


def full_size_inputs(component):
    """Arguments of a forward pass and the method it goes through, by name."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, 16, 16, 4), dtype=np.float32)
    images = rng.uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32)
    context = rng.standard_normal((1, 77, 768), dtype=np.float32)
    return {
        "text_encoder": {"encode_ids": (rng.integers(0, 49408, (1, 77)),)},
        "unet": {"__call__": (latents, np.array([500]), context)},
        "vae": {"encode": (images,), "decode": (latents,)},
    }[component]


def pytorch_outputs(component, folder):
    """Write PyTorch's model of the full size with random parameters, and return what it computes."""
    import torch
    from torch_models import channels_first, channels_last, torch_model

    reference = torch_model(component, FULL_SIZE[component])
    reference.save_pretrained(folder / component)
    inputs = full_size_inputs(component)
    with torch.no_grad():
        if component == "text_encoder":
            hidden_states = reference(torch.from_numpy(*inputs["encode_ids"])).last_hidden_state
            return {"encode_ids": hidden_states.numpy()}
        if component == "unet":
            latents, timesteps, context = inputs["__call__"]
            predicted = reference(
                channels_first(latents), torch.from_numpy(timesteps), torch.from_numpy(context)
            )
            return {"__call__": channels_last(predicted.sample)}
        posterior = reference.encode(channels_first(*inputs["encode"])).latent_dist
        moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
        decoded = reference.decode(channels_first(*inputs["decode"])).sample
        return {"encode": channels_last(moments), "decode": channels_last(decoded)}


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_full_size_equals_pytorchs(component, tmp_path):
    """Forward parity in float32 at the size of Stable Diffusion 1.5: gigabytes of random parameters."""
    pytest.importorskip("torch")
    expected = pytorch_outputs(component, tmp_path)
    module = make_module(component, FULL_SIZE[component])
    params = read_params(tmp_path, component, parameter_shapes(module), dtype=jnp.float32)
    for method, inputs in full_size_inputs(component).items():
        apply = jax.jit(functools.partial(module.apply, method=method))
        found = apply({"params": params}, *inputs)
        difference = np.abs(found - expected[method]).max()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{component} {method}: at most {difference:.1e} apart where values reach "
            f"{np.abs(expected[method]).max():.2f}; peak memory so far {peak:.1f} GiB"
        )
        np.testing.assert_allclose(found, expected[method], atol=1e-4)
