"""Models of other kinds than Stable Diffusion 1.x, 2.x and XL are refused by name, with a remedy."""

import json

import numpy as np
import original_layout
import pytest
from released_configs import (
    INDEX_XL,
    SCHEDULER_XL,
    TEXT_ENCODER_2_XL,
    TEXT_ENCODER_XL,
    UNET_1_5,
    UNET_XL,
    VAE_XL,
)

from ti_flax.errors import WeightsError
from ti_flax.models.weights.model_folder import check_kind
from ti_flax.models.weights.model_source import COMPONENTS, SDXL_COMPONENTS, ModelSource
from ti_flax.models.weights.single_file import open_single_file

CONFIGS = {
    "text_encoder": TEXT_ENCODER_XL,
    "text_encoder_2": TEXT_ENCODER_2_XL,
    "unet": UNET_XL,
    "vae": VAE_XL,
    "scheduler": SCHEDULER_XL,
}
ANY = ["library", "Class"]
SD_PARTS = dict.fromkeys((*COMPONENTS, "tokenizer", "scheduler"), ANY)
NONE = [None, None]


def write_configs(folder, index=INDEX_XL, **changes):
    """Writes the config files of a folder without weights; parts of None are left out."""
    for part, config in (CONFIGS | changes).items():
        if config is not None:
            (folder / part).mkdir(parents=True)
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            (folder / part / name).write_text(json.dumps(config))
    if index is not None:
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def message(raising, *arguments, **options):
    with pytest.raises(WeightsError) as caught:
        raising(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line and ". Use " in line or "use the base model" in line, line
    return line


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "FlaxStableDiffusionXLPipeline"])
@pytest.mark.parametrize("absent", [{}, {"image_encoder": NONE, "feature_extractor": NONE}])
def test_sdxl_folders_are_let_through(name, absent, tmp_path):
    source = ModelSource(write_configs(tmp_path, INDEX_XL | {"_class_name": name} | absent))
    assert source.is_sdxl and source.components == SDXL_COMPONENTS
    assert source.configs() == CONFIGS


def test_an_sdxl_folder_without_an_index_is_told_by_its_parts(tmp_path):
    source = ModelSource(write_configs(tmp_path, None))
    assert source.is_sdxl and source.configs() == CONFIGS


def test_a_whole_model_that_another_pipeline_saved_is_let_through(tmp_path):
    """Its parts are those of the base model: the refiner has one text encoder."""
    index = INDEX_XL | {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": False}
    assert ModelSource(write_configs(tmp_path, index)).is_sdxl


def test_other_models_are_no_sdxl(tmp_path):
    for index in (SD_PARTS, SD_PARTS | {"text_encoder_2": NONE}):
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        source = ModelSource(tmp_path)
        assert not source.is_sdxl and source.components == COMPONENTS
        assert not source.force_zeros_for_empty_prompt


REFINER = {"text_encoder": NONE, "tokenizer": NONE, "requires_aesthetics_score": True}
INDICES = {
    "refiner": (
        INDEX_XL | REFINER | {"_class_name": "StableDiffusionXLImg2ImgPipeline"},
        "the SDXL refiner (it has text_encoder_2 alone)",
    ),
    "refiner, all parts": (
        INDEX_XL | {"requires_aesthetics_score": True},
        "the SDXL refiner (it requires_aesthetics_score)",
    ),
    "inpainting": (
        INDEX_XL | {"_class_name": "StableDiffusionXLInpaintPipeline"},
        "a StableDiffusionXLInpaintPipeline, an inpainting model",
    ),
    "instructions": (
        INDEX_XL | {"_class_name": "StableDiffusionXLInstructPix2PixPipeline"},
        "a StableDiffusionXLInstructPix2PixPipeline, a model that edits images",
    ),
    "controlnet": (
        INDEX_XL | {"_class_name": "StableDiffusionXLControlNetPipeline", "controlnet": ANY},
        "a pipeline with a ControlNet (it has controlnet)",
    ),
    "sd 3": (
        {"_class_name": "StableDiffusion3Pipeline", "transformer": ANY, "text_encoder_3": ANY},
        "a StableDiffusion3Pipeline, a Stable Diffusion 3 model",
    ),
    "flux": (
        INDEX_XL | {"_class_name": "FluxPipeline", "unet": NONE, "transformer": ANY},
        "a FluxPipeline, a Flux model",
    ),
    "pixart": (
        {"_class_name": "PixArtSigmaPipeline", "transformer": ANY, "text_encoder": ANY, "vae": ANY},
        "a PixArtSigmaPipeline, a PixArt model",
    ),
    "cascade": (
        {"_class_name": "StableCascadeDecoderPipeline", "decoder": ANY, "text_encoder": ANY, "vqgan": ANY},
        "a StableCascadeDecoderPipeline, a Stable Cascade model",
    ),
    "kandinsky": (
        {"_class_name": "KandinskyV22Pipeline", "movq": ANY, "unet": ANY},
        "a KandinskyV22Pipeline, a Kandinsky model",
    ),
    "kolors": (SD_PARTS | {"_class_name": "KolorsPipeline"}, "a KolorsPipeline, a Kolors model"),
    "sana": (
        {"_class_name": "SanaPipeline", "transformer": ANY, "text_encoder": ANY, "vae": ANY},
        "a diffusion transformer, as Stable Diffusion 3, Flux and PixArt are (it has transformer)",
    ),
    "no class": ({"text_encoder_2": ANY, "unet": ANY}, "the SDXL refiner (it has text_encoder_2 alone)"),
}


@pytest.mark.parametrize(("index", "kind"), INDICES.values(), ids=INDICES)
def test_folders_of_other_kinds_are_refused_by_their_index(index, kind, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    line = message(check_kind, tmp_path)
    expected = "a text-to-image Stable Diffusion 1.x, 2.x or XL model"
    assert line.startswith(f"{tmp_path}: expected {expected}, found {kind}. ")
    assert message(lambda: ModelSource(tmp_path).components) == line


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        (("text_encoder_2", "unet", "vae"), "the SDXL refiner (it has text_encoder_2 alone)"),
        (("text_encoder", "text_encoder_2", "text_encoder_3"), "a Stable Diffusion 3 model"),
        (("text_encoder", "text_encoder_2", "transformer", "vae"), "a diffusion transformer"),
        (("decoder", "text_encoder", "vqgan"), "a Stable Cascade or Würstchen model"),
        (("movq", "unet"), "a Kandinsky model"),
    ],
)
def test_folders_of_other_kinds_are_refused_by_their_parts(parts, kind, tmp_path):
    for part in parts:
        (tmp_path / part).mkdir()
    assert f"found {kind}" in message(check_kind, tmp_path)


EDM = SCHEDULER_XL | {"_class_name": "EDMDPMSolverMultistepScheduler"}
KINDS_BY_CONFIG = {
    "refiner": (
        {"unet": UNET_XL | {"cross_attention_dim": 1280, "projection_class_embeddings_input_dim": 2560}},
        "the SDXL refiner (cross_attention_dim 1280, of text_encoder_2 alone)",
    ),
    "inpainting": (
        {"unet": UNET_XL | {"in_channels": 9}},
        "an SDXL inpainting model (its UNet takes 9 channels)",
    ),
    "editing": (
        {"unet": UNET_XL | {"in_channels": 8}},
        "an SDXL model that edits images (its UNet takes 8 channels)",
    ),
    "edm": ({"scheduler": EDM}, "an SDXL model of the EDM noise schedule, as Playground 2.5 and CosXL are"),
}


@pytest.mark.parametrize(("changes", "kind"), KINDS_BY_CONFIG.values(), ids=KINDS_BY_CONFIG)
def test_sdxl_of_other_kinds_is_refused_by_its_configs(changes, kind, tmp_path):
    source = ModelSource(write_configs(tmp_path, **changes))
    expected = "a text-to-image Stable Diffusion 1.x, 2.x or XL model"
    assert message(source.configs).startswith(f"{tmp_path}: expected {expected}, found {kind}. ")


def test_half_of_an_sdxl_model_is_refused(tmp_path):
    half = "expected text_encoder_2 and a UNet with .*text_time, as SDXL has, or neither, found"
    first = write_configs(tmp_path / "a", None, text_encoder_2=None)
    with pytest.raises(
        WeightsError, match=f"{half} no text_encoder_2, and addition_embed_type 'text_time'. The"
    ):
        ModelSource(first).configs()
    second = write_configs(tmp_path / "b", unet=UNET_1_5)
    with pytest.raises(
        WeightsError, match=f"{half} a text_encoder_2, and addition_embed_type None. The model"
    ):
        ModelSource(second).configs()


def test_strange_numbers_in_a_config_are_left_to_its_reader(tmp_path):
    strange = UNET_XL | {"in_channels": "nine", "out_channels": [4], "cross_attention_dim": [2048, 2048]}
    assert ModelSource(write_configs(tmp_path, unet=strange)).configs()["unet"] == strange


UNET, FIRST, SECOND = "model.diffusion_model.", "conditioner.embedders.0.", "conditioner.embedders.1.model."
MATRIX, LAST = np.zeros((4, 4)), np.zeros((4, 4, 3, 3))
XL = {f"{FIRST}transformer.text_model.x": MATRIX, f"{SECOND}ln_final.weight": MATRIX}
FILES = {
    "refiner": (
        {f"{FIRST}model.ln_final.weight": MATRIX, f"{UNET}label_emb.0.0.weight": MATRIX},
        "the SDXL refiner",
    ),
    "inpainting": (
        XL | {f"{UNET}input_blocks.0.0.weight": np.zeros((4, 9, 3, 3)), f"{UNET}out.2.weight": LAST},
        "an SDXL inpainting model (its UNet takes 9 channels)",
    ),
    "editing": (
        XL | {f"{UNET}input_blocks.0.0.weight": np.zeros((4, 8, 3, 3)), f"{UNET}out.2.weight": LAST},
        "an SDXL model that edits images (its UNet takes 8 channels)",
    ),
    "playground": (XL | {"edm_mean": MATRIX, "edm_std": MATRIX}, "an SDXL model of the EDM noise schedule"),
    "cosxl": (XL | {"edm_vpred.sigma_max": MATRIX}, "an SDXL model of the EDM noise schedule"),
    "no text": (
        {f"{UNET}label_emb.0.0.weight": MATRIX},
        "an SDXL model without its text encoders, or one that takes images or classes, as unCLIP does "
        "(label_emb, and no conditioner.embedders.*)",
    ),
    "half a text": (
        {f"{FIRST}transformer.text_model.x": MATRIX, f"{UNET}x": MATRIX},
        f"no tensors {SECOND}*",
    ),
    "other half": (
        {f"{SECOND}ln_final.weight": MATRIX, f"{UNET}x": MATRIX},
        f"no tensors {FIRST}transformer.*",
    ),
    "no unet": (XL | {"first_stage_model.x": MATRIX, "y": LAST}, f"no tensors {UNET}*"),
}


@pytest.mark.parametrize(("tensors", "kind"), FILES.values(), ids=FILES)
def test_single_files_of_other_kinds_are_refused(tensors, kind, tmp_path):
    file = original_layout.save(tmp_path / "file.safetensors", tensors)
    with pytest.raises(WeightsError) as caught:
        open_single_file(file)
    line = str(caught.value)
    expected = "a whole Stable Diffusion 1.x, 2.x or XL model"
    assert "\n" not in line and line.startswith(f"{file}: expected {expected}, found {kind}")
    assert line.count(". ") >= 1 and line.endswith(".")
