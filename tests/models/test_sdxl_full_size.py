"""Forward parity with PyTorch in float32 at SDXL's real size: up to 10 GiB of random parameters a part."""

import functools
import resource
import time

import jax
import numpy as np
import pytest
from released_configs import SCHEDULER_XL, TEXT_ENCODER_2_XL, TEXT_ENCODER_XL, UNET_XL, VAE_XL

from ti_flax.models.parameter_shapes import parameter_shapes
from ti_flax.models.stable_diffusion import random_stable_diffusion
from ti_flax.models.weights.parameters import read_params

END = 49407
CONFIGS = {
    "text_encoder": TEXT_ENCODER_XL,
    # Where PyTorch pools at the end of the text, and not at the largest id.
    "text_encoder_2": TEXT_ENCODER_2_XL | {"eos_token_id": END},
    "unet": UNET_XL,
    "vae": VAE_XL,
    "scheduler": SCHEDULER_XL,
}
# Of stable-diffusion-xl-base-1.0, as its files have them.
PARAMETERS = {"text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "unet": 2_567_463_684}


def inputs_of(component):
    """Arguments of a forward pass: a prompt, or latents at a timestep with all that the UNet is told."""
    rng = np.random.default_rng(0)
    if component == "unet":
        latents = rng.standard_normal((1, 16, 16, 4), dtype=np.float32)
        context = rng.standard_normal((1, 77, 2048), dtype=np.float32)
        pooled = rng.standard_normal((1, 1280), dtype=np.float32)
        return latents, np.array([500]), context, pooled, np.array([[768, 1024, 0, 13, 128, 128]], np.float32)
    ids = rng.integers(0, END, (1, 77))
    ids[:, 20:] = END
    return (ids, np.array([20])) if component == "text_encoder_2" else (ids,)


def write_pytorchs(component, folder):
    """Writes PyTorch's model with random parameters, and what it computes, into a folder."""
    import torch
    from torch_models import channels_first, channels_last, torch_model

    config = {name: value for name, value in CONFIGS[component].items() if name != "torch_dtype"}
    reference = torch_model(component, config)
    assert sum(parameter.numel() for parameter in reference.parameters()) == PARAMETERS[component]
    # Small files: whoever writes them may hold a whole one in memory besides the model.
    reference.save_pretrained(folder / component, max_shard_size="1GB")
    inputs = inputs_of(component)
    with torch.no_grad():
        if component == "unet":
            latents, *others = inputs
            timesteps, context, pooled, time_ids = map(torch.from_numpy, others)
            told = {"text_embeds": pooled, "time_ids": time_ids}
            predicted = reference(channels_first(latents), timesteps, context, added_cond_kwargs=told)
            found = {"predicted": channels_last(predicted.sample)}
        else:
            output = reference(torch.from_numpy(inputs[0]), output_hidden_states=True)
            found = {"hidden_states": output.hidden_states[-2].numpy()}
            if component == "text_encoder_2":
                found["pooled"] = output.text_embeds.numpy()
    np.savez(folder / "expected.npz", **found)


def params_of(module, component, folder):
    """The parameters as JAX has them, each leaf brought there by itself so that none is held twice."""
    params = read_params(folder, component, parameter_shapes(module), dtype=np.float32)
    leaves, structure = jax.tree.flatten(params)
    del params
    for place, leaf in enumerate(leaves):
        leaves[place] = jax.device_put(leaf)
        del leaf
    return jax.tree.unflatten(structure, leaves)


@pytest.mark.slow
@pytest.mark.parametrize("component", PARAMETERS)
def test_full_size_sdxl_equals_pytorchs(component, tmp_path):
    """One framework after the other, so that the parameters are in memory once."""
    pytest.importorskip("torch")
    began = time.perf_counter()
    write_pytorchs(component, tmp_path)
    theirs = time.perf_counter()
    module = random_stable_diffusion(CONFIGS, seed=0, components=()).module(component)
    params = params_of(module, component, tmp_path)
    method = "__call__" if component == "unet" else "encode_ids"
    apply = jax.jit(functools.partial(module.apply, method=method))
    found = jax.tree.leaves(apply({"params": params}, *inputs_of(component)))
    expected = np.load(tmp_path / "expected.npz")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\n{component}: PyTorch {theirs - began:.0f} s, JAX {time.perf_counter() - theirs:.0f} s; at most "
        f"{peak:.1f} GiB so far"
    )
    assert len(found) == len(expected.files)
    for name, ours in zip(expected.files, found, strict=True):
        difference, largest = np.abs(ours - expected[name]).max(), np.abs(expected[name]).max()
        print(f"{name}: at most {difference:.1e} apart where values reach {largest:.2f}")
        np.testing.assert_allclose(ours, expected[name], atol=1e-4)
