"""The autoencoder against PyTorch's, in bfloat16, and the configs it takes and refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from released_configs import VAE_1_5
from tiny_models import SD1

from ti_flax.errors import WeightsError
from ti_flax.models.stable_diffusion import parameter_shapes, random_stable_diffusion
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL
from ti_flax.models.weights.parameters import read_params


@pytest.fixture(scope="module")
def with_reference(tmp_path_factory):
    """The tiny autoencoder with the parameters of PyTorch's, and PyTorch's."""
    pytest.importorskip("torch")
    from torch_models import torch_model

    folder = tmp_path_factory.mktemp("vae")
    reference = torch_model("vae", SD1["vae"])
    reference.save_pretrained(folder / "vae")
    module = FlaxAutoencoderKL(AutoencoderKLConfig.from_dict(SD1["vae"]))
    params = read_params(folder, "vae", parameter_shapes(module), dtype=jnp.float32)
    return module, params, reference


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(module, params, inputs, method):
    return module.apply({"params": params}, inputs, method=method)


@pytest.mark.parametrize("size", [(32, 32), (20, 28)])
def test_moments_equal_pytorchs(with_reference, size):
    import torch
    from torch_models import channels_first, channels_last

    module, params, reference = with_reference
    images = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    with torch.no_grad():
        posterior = reference.encode(channels_first(images)).latent_dist
    found = apply(module, params, images, "encode")
    assert found.shape == (2, size[0] // 4, size[1] // 4, 8)
    np.testing.assert_allclose(found[..., :4], channels_last(posterior.mean), atol=1e-5)
    np.testing.assert_allclose(found[..., 4:], channels_last(posterior.logvar), atol=1e-5)


def test_decoded_image_equals_pytorchs(with_reference):
    import torch
    from torch_models import channels_first, channels_last

    module, params, reference = with_reference
    latents = np.random.default_rng(0).standard_normal((2, 8, 6, 4), dtype=np.float32)
    with torch.no_grad():
        expected = reference.decode(channels_first(latents)).sample
    found = apply(module, params, latents, "decode")
    np.testing.assert_allclose(found, channels_last(expected), atol=1e-5)


def test_log_variance_is_limited():
    model = random_stable_diffusion(SD1, seed=0)
    params = model.params["vae"]
    params["quant_conv"]["bias"] = np.array([50, -50, 0, 0, 50, -50, 0, 0], np.float32)
    moments = apply(model.vae, params, np.zeros((1, 8, 8, 3), np.float32), "encode")
    assert moments[..., 0].min() > 30 and moments[..., 1].max() < -30
    assert np.all(moments[..., 4] == 20) and np.all(moments[..., 5] == -30)


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_bfloat16_stays_near_float32(method):
    model = random_stable_diffusion(SD1, seed=0)
    shape = (1, 32, 32, 3) if method == "encode" else (1, 8, 8, 4)
    inputs = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected = apply(model.vae, model.params["vae"], inputs, method)
    lower = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params["vae"])
    found = apply(model.vae.clone(dtype=jnp.bfloat16), lower, inputs, method)
    assert found.dtype == jnp.bfloat16
    error = np.linalg.norm(found.astype(jnp.float32) - expected) / np.linalg.norm(expected)
    assert error < 0.03


def test_reads_the_configs_of_released_models():
    config = AutoencoderKLConfig.from_dict(VAE_1_5)
    assert config.scaling_factor == 0.18215 and config.downsampling == 8
    other = AutoencoderKLConfig.from_dict(VAE_1_5 | {"scaling_factor": 0.13025})
    assert other.scaling_factor == 0.13025


def test_reads_the_config_diffusers_writes():
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("torch")
    written = dict(diffusers.AutoencoderKL.from_config(SD1["vae"]).config)
    assert AutoencoderKLConfig.from_dict(written) == AutoencoderKLConfig.from_dict(SD1["vae"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"act_fn": "relu"}, ["act_fn", "relu", "silu"]),
        ({"shift_factor": 0.1159}, ["shift_factor", "0.1159", "None"]),
        ({"use_quant_conv": False}, ["use_quant_conv", "False", "True"]),
        ({"mid_block_add_attention": False}, ["mid_block_add_attention"]),
        ({"latents_mean": [0.1, 0.2]}, ["latents_mean"]),
        ({"down_block_types": ["DownEncoderBlock2D"]}, ["down_block_types", "3 entries"]),
        ({"norm_num_groups": 3}, ["multiple of 3 groups"]),
    ],
)
def test_refuses_what_it_cannot_do(changes, words):
    with pytest.raises(WeightsError) as caught:
        AutoencoderKLConfig.from_dict(SD1["vae"] | changes, "model/vae/config.json")
    for word in ["model/vae/config.json", *words]:
        assert word in str(caught.value)
