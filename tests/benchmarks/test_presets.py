"""The measured shapes are those of the released models: as many parameters as these have."""

import math

import jax
import presets
import pytest

from ti_flax.models.parameter_shapes import parameter_shapes
from ti_flax.models.stable_diffusion import random_stable_diffusion

# Parameters of the files on the Hub. The UNets' are in arXiv:2112.10752 (860 M) and arXiv:2307.01952, table 1
# (2.6 B, with text encoders of 817 M).
PARAMETERS = {
    "sd15": {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863},
    "sd21": {"text_encoder": 340_387_840, "unet": 865_910_724, "vae": 83_653_863},
    "sdxl": {
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "unet": 2_567_463_684,
        "vae": 83_653_863,
    },
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_released_model_has_as_many_parameters(name):
    model = random_stable_diffusion(presets.preset(name), seed=0, components=())
    found = {
        part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameter_shapes(model.module(part))))
        for part in model.components
    }
    assert found == PARAMETERS[name]
    side = presets.RESOLUTIONS[name] // model.vae.config.downsampling
    assert model.configs["unet"]["sample_size"] == side
