"""What of a base model is taken from elsewhere, or read differently than its files say."""

import json
import shutil

import jax
import numpy as np
import pytest
from tiny_models import SD1, SD2

from ti_flax.errors import ConfigError, WeightsError
from ti_flax.models.noise_schedule import NoiseSchedule
from ti_flax.models.stable_diffusion import (
    load_stable_diffusion,
    random_stable_diffusion,
    save_stable_diffusion,
)
from ti_flax.models.weights.model_source import ModelSource

PARTS = ("text_encoder", "unet", "vae")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("source")
    save_stable_diffusion(random_stable_diffusion(SD1, seed=0), place / "sd1")
    save_stable_diffusion(random_stable_diffusion(SD2, seed=0), place / "sd2")
    other = SD1["vae"] | {"scaling_factor": 0.5, "layers_per_block": 2}
    save_stable_diffusion(random_stable_diffusion(SD1 | {"vae": other}, seed=7), place / "other")
    wide = SD1["vae"] | {"latent_channels": 8}
    unet = SD1["unet"] | {"in_channels": 8, "out_channels": 8}
    save_stable_diffusion(random_stable_diffusion(SD1 | {"vae": wide, "unet": unet}, seed=7), place / "wide")
    return place


def scheduler(folder, **changes):
    return ModelSource(folder, **changes).configs(PARTS)["scheduler"]


def rescaled(folder, copy):
    """Copies a model whose scheduler config asks for zero terminal SNR by itself."""
    path = shutil.copytree(folder, copy) / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_betas_zero_snr": True}))


def test_nothing_said_changes_nothing(place):
    assert scheduler(place / "sd1") == json.loads(
        (place / "sd1" / "scheduler" / "scheduler_config.json").read_text()
    )


@pytest.mark.parametrize(
    ("family", "prediction_type"), [("sd1", "v_prediction"), ("sd2", "epsilon"), ("sd2", "v_prediction")]
)
def test_the_prediction_type_alone_is_changed(place, family, prediction_type):
    found = scheduler(place / family, prediction_type=prediction_type)
    assert found == scheduler(place / family) | {"prediction_type": prediction_type}
    assert NoiseSchedule.from_config(found).prediction_type == prediction_type


def test_zero_terminal_snr_from_the_flag(place):
    found = scheduler(place / "sd2", rescale_betas_zero_snr=True)
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    assert found == scheduler(place / "sd2") | changes
    assert NoiseSchedule.from_config(found).alphas_cumprod[-1] == 0
    # PNDM of diffusers would pass over the flag.
    found = scheduler(place / "sd1", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert found["_class_name"] == "DDIMScheduler"


def test_zero_terminal_snr_of_the_config_can_be_turned_off(place, tmp_path):
    rescaled(place / "sd2", tmp_path / "model")
    assert NoiseSchedule.from_config(scheduler(tmp_path / "model")).alphas_cumprod[-1] == 0
    off = NoiseSchedule.from_config(scheduler(tmp_path / "model", rescale_betas_zero_snr=False))
    plain = NoiseSchedule.from_config(SD2["scheduler"])
    np.testing.assert_array_equal(off.alphas_cumprod, plain.alphas_cumprod)


def test_zero_terminal_snr_with_predicted_noise_is_refused(place, tmp_path):
    with pytest.raises(ConfigError, match="rescale_betas_zero_snr: .* prediction_type epsilon"):
        scheduler(place / "sd1", rescale_betas_zero_snr=True)
    rescaled(place / "sd2", tmp_path / "model")
    with pytest.raises(ConfigError, match="rescale_betas_zero_snr: .* prediction_type epsilon"):
        scheduler(tmp_path / "model", prediction_type="epsilon")


@pytest.mark.parametrize(("inside", "variant"), [("", None), ("vae", "fp16")])
def test_another_vae_and_nothing_else(place, inside, variant, tmp_path):
    """The variant of the base need not be one of the VAE's."""
    base = place / "sd1"
    if variant:
        base = shutil.copytree(base, tmp_path / "model")
        for file in base.glob("*/*.safetensors"):
            file.rename(file.with_suffix(f".{variant}.safetensors"))
    found = load_stable_diffusion(ModelSource(base, variant=variant, vae=place / "other" / inside))
    first, other = (load_stable_diffusion(place / name) for name in ("sd1", "other"))
    assert found.vae == other.vae and found.vae.config.scaling_factor == 0.5
    assert found.configs == first.configs | {"vae": other.configs["vae"]}
    for component, model in (("text_encoder", first), ("unet", first), ("vae", other)):
        for ours, theirs in zip(
            jax.tree.leaves(found.params[component]), jax.tree.leaves(model.params[component]), strict=True
        ):
            assert ours.tobytes() == theirs.tobytes()


def test_a_vae_of_other_latents_is_refused(place):
    with pytest.raises(
        WeightsError, match="pretrained_vae_model_name_or_path .*wide: expected a VAE of 4 .* found 8"
    ):
        load_stable_diffusion(ModelSource(place / "sd1", vae=place / "wide"), components=())


@pytest.mark.parametrize("clip_skip", [2, 12])
def test_more_layers_skipped_than_there_are(place, clip_skip):
    most = load_stable_diffusion(ModelSource(place / "sd1", clip_skip=1), components=())
    assert most.text_encoder.clip_skip == 1
    with pytest.raises(ConfigError, match=f"clip_skip: expected at most 1, .* 2 layers, found {clip_skip}"):
        load_stable_diffusion(ModelSource(place / "sd1", clip_skip=clip_skip), components=())
