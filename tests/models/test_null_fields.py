"""Null in a config says no more than a field that is left out, whatever the part and the field."""

import json

import numpy as np
import pytest
from tiny_models import SD1, SD2

from ti_flax.errors import TiFlaxError, WeightsError
from ti_flax.generation.samplers import sampling_steps
from ti_flax.models import text_encoder, unet, vae
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.stable_diffusion import (
    load_stable_diffusion,
    random_stable_diffusion,
    save_stable_diffusion,
)
from ti_flax.models.weights.model_source import ModelSource

READERS = {
    "text_encoder": (text_encoder.CLIPTextConfig, text_encoder),
    "unet": (unet.UNet2DConditionConfig, unet),
    "vae": (vae.AutoencoderKLConfig, vae),
}
FIELDS = [
    (part, name)
    for part, (_, module) in READERS.items()
    for name in sorted({*SD1[part], *module._READ, *module._FIXED, *module._INFORMATIONAL})
]
SAMPLING = {**SD2["scheduler"], "timestep_spacing": "leading", "rescale_betas_zero_snr": False}


def outcome(make):
    try:
        return make()
    except TiFlaxError as error:
        return str(error)


@pytest.mark.parametrize(("part", "name"), FIELDS)
def test_a_null_field_is_one_that_is_left_out(part, name):
    read, _ = READERS[part]
    config = {key: value for key, value in SD1[part].items() if key != name}
    assert outcome(lambda: read.from_dict({name: None, **config})) == outcome(lambda: read.from_dict(config))


@pytest.mark.parametrize("name", sorted({*SAMPLING, *SD1["scheduler"]}))
@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_a_null_field_of_a_scheduler_likewise(name, sampler):
    config = {key: value for key, value in SAMPLING.items() if key != name}
    with_null, without = (
        (NoiseSchedule.from_config(each), sampling_steps(NoiseSchedule.from_config(each), each, **settings))
        for each in (config | {name: None}, config)
        for settings in ({"steps": 7, "sampler": sampler},)
    )
    np.testing.assert_array_equal(with_null[0].alphas_cumprod, without[0].alphas_cumprod)
    for each in ("timesteps", "alpha", "sigma"):
        np.testing.assert_array_equal(getattr(with_null[1], each), getattr(without[1], each))


def test_a_model_with_nulls_is_written_without_them(tmp_path):
    pytest.importorskip("torch")
    from diffusers import DDIMScheduler, UNet2DConditionModel

    base = save_stable_diffusion(random_stable_diffusion(SD1, seed=0), tmp_path / "base")
    for part, name, nulls in [
        ("scheduler", "scheduler_config.json", ("steps_offset", "prediction_type", "num_train_timesteps")),
        ("unet", "config.json", ("in_channels", "norm_eps", "act_fn", "flip_sin_to_cos")),
        ("vae", "config.json", ("latent_channels", "scaling_factor", "act_fn")),
        ("text_encoder", "config.json", ("layer_norm_eps", "max_position_embeddings", "dropout")),
    ]:
        path = base / part / name
        path.write_text(json.dumps(json.loads(path.read_text()) | dict.fromkeys(nulls)))
    source = ModelSource(base, rescale_betas_zero_snr=False)
    written = save_stable_diffusion(load_stable_diffusion(source), tmp_path / "written")
    scheduler = DDIMScheduler.from_pretrained(written / "scheduler")
    scheduler.set_timesteps(4)
    assert scheduler.config.steps_offset == 0
    assert UNet2DConditionModel.from_pretrained(written / "unet").config.norm_eps == 1e-5


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"steps_offset": "one"}, "s.json, field steps_offset: expected a positive integer .*, found 'one'"),
        ({"steps_offset": -1}, "s.json, field steps_offset: expected a positive integer"),
        ({"timestep_spacing": ["leading"]}, "field timestep_spacing: expected 'leading' or 'trailing' or"),
    ],
)
def test_what_samplers_could_not_use_is_said_with_the_model(changes, line):
    with pytest.raises(WeightsError, match=line):
        NoiseSchedule.from_config(SAMPLING | changes, "s.json")
