"""Models of other kinds, each refused by its name: what tells them in folders, configs and single files.

Class names and parts: the pipelines of diffusers and the `model_index.json` of released models. Names of
tensors: the files that their authors released.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ti_flax.errors import WeightsError

_USE = (
    "Use one such as stable-diffusion-v1-5/stable-diffusion-v1-5 or stabilityai/stable-diffusion-xl-base-1.0."
)
_REFINER = "the SDXL refiner"
_USE_BASE = "The refiner only finishes images: use the base model, stabilityai/stable-diffusion-xl-base-1.0."
_EDM = "an SDXL model of the EDM noise schedule, as Playground 2.5 and CosXL are"

# Beginnings of names of pipelines whose parts could be taken for Stable Diffusion's, or tell less.
_PIPELINES = {
    "StableDiffusion3": "a Stable Diffusion 3 model",
    "Flux": "a Flux model",
    "PixArt": "a PixArt model",
    "StableCascade": "a Stable Cascade model",
    "Wuerstchen": "a Würstchen model",
    "Kandinsky": "a Kandinsky model",
    "Kolors": "a Kolors model",
    "Hunyuan": "a Hunyuan model",
    "IF": "a DeepFloyd IF model",
}
# Parts that no text-to-image Stable Diffusion 1.x, 2.x or XL has, in the order they are asked for.
_PARTS = {
    "text_encoder_3": "a Stable Diffusion 3 model",
    "transformer": "a diffusion transformer, as Stable Diffusion 3, Flux and PixArt are",
    "movq": "a Kandinsky model",
    "vqgan": "a Stable Cascade or Würstchen model",
    "prior": "a model in stages, as Stable Cascade, Kandinsky and unCLIP are",
    "vqvae": "a latent diffusion model from before Stable Diffusion",
    "image_encoder": "a model that takes images beside prompts",
    "controlnet": "a pipeline with a ControlNet",
    "depth_estimator": "a depth-to-image model",
}
# Of what these words in a pipeline's name stand for, the UNet takes more than latents.
_OTHER_TASKS = {
    "Inpaint": "an inpainting model",
    "Upscale": "an upscaling model",
    "InstructPix2Pix": "a model that edits images",
}


def refuse_parts(parts: Collection[str], where: object) -> None:
    """Raise a WeightsError if a model's parts are those of another kind.

    Args:
      parts: such as `unet`; those that are switched off are not among them.
      where: the model, for messages.
    """
    for part, kind in _PARTS.items():
        if part in parts:
            raise foreign(where, f"{kind} (it has {part})")
    if "text_encoder_2" in parts and "text_encoder" not in parts:
        raise foreign(where, f"{_REFINER} (it has text_encoder_2 alone)", _USE_BASE)


def refuse_index(index: Mapping[str, Any], parts: Collection[str], where: object) -> None:
    """Raise a WeightsError if a `model_index.json` names another kind of model.

    What a pipeline does with a model matters less than what its parts are: a text-to-image model that was
    saved by an image-to-image pipeline is let through.

    Args:
      index: the parsed file.
      parts: those of it that are not switched off.
      where: the model, for messages.
    """
    pipeline = str(index.get("_class_name", "StableDiffusionPipeline"))
    plain = pipeline.removeprefix("Flax")
    for beginning, kind in _PIPELINES.items():
        if plain.startswith(beginning):
            raise foreign(where, f"a {pipeline}, {kind}")
    refuse_parts(parts, where)
    if index.get("requires_aesthetics_score") is True:
        raise foreign(where, f"{_REFINER} (it requires_aesthetics_score)", _USE_BASE)
    for word, kind in _OTHER_TASKS.items():
        if word in pipeline:
            raise foreign(where, f"a {pipeline}, {kind}")
    usual = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    if plain not in usual and not {"unet", "vae", "text_encoder"} <= set(parts):
        raise foreign(where, f"a {pipeline}")


def refuse_configs(configs: Mapping[str, Mapping[str, Any]], where: object, *, sdxl: bool) -> None:
    """Raise a WeightsError if the UNet of a model, or its scheduler, is of another kind than its parts.

    Args:
      configs: by component, and of `scheduler`.
      where: the model, for messages.
      sdxl: whether its parts are those of an SDXL model.
    """
    unet = configs.get("unet")
    if unet is None:
        return
    embedded = unet.get("addition_embed_type")
    if (embedded == "text_time") != sdxl:
        raise WeightsError(
            where,
            expected="text_encoder_2 and a UNet with addition_embed_type text_time, as SDXL has, or neither",
            found=f"{'a' if sdxl else 'no'} text_encoder_2, and addition_embed_type {embedded!r}",
            remedy="The model is incomplete, or its UNet is another's.",
        )
    if not sdxl:
        return
    second = configs.get("text_encoder_2", {}).get("hidden_size")
    if second is not None and second == unet.get("cross_attention_dim"):
        found = f"{_REFINER} (cross_attention_dim {second}, of text_encoder_2 alone)"
        raise foreign(where, found, _USE_BASE)
    if kind := _unlike_latents(unet.get("in_channels", 4), unet.get("out_channels", 4)):
        raise foreign(where, kind)
    if str(configs["scheduler"].get("_class_name", "")).startswith("EDM"):
        raise foreign(where, _EDM)


def _unlike_latents(taken: Any, given: Any) -> str:
    """Name the kind of an SDXL UNet that takes more channels than it gives; empty where it does not."""
    if not isinstance(taken, int) or not isinstance(given, int):
        return ""  # the config's reader says what is wrong with it
    kinds = {2 * given + 1: "an SDXL inpainting model", 2 * given: "an SDXL model that edits images"}
    return f"{kinds[taken]} (its UNet takes {taken} channels)" if taken in kinds else ""


def foreign(where: object, found: str, remedy: str = _USE) -> WeightsError:
    """Return the error of a folder or repository that holds another kind of model."""
    return WeightsError(
        where, expected="a text-to-image Stable Diffusion 1.x, 2.x or XL model", found=found, remedy=remedy
    )


UNET = "model.diffusion_model."
AVERAGED_UNET = "model_ema.diffusion_model"
VAE = "first_stage_model."
VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
SDXL_TEXT = "conditioner.embedders."
EMBEDDING_NAMES = frozenset({"emb_params", "emp_params", "clip_l", "clip_g", "string_to_param"})

_LORA_PARTS = ("lora_", "lokr_", "hada_", ".lora.", ".oft_", "dora_scale")
_USE_FILE = "Use a Stable Diffusion 1.x, 2.x or XL model."
# What tells other kinds of files: beginnings of names, in the order they are asked for.
_FILES = (
    (
        ("control_model.", "controlnet_cond_embedding.", "input_hint_block.", "zero_convs.", "controlnet_"),
        "a ControlNet",
        "A ControlNet is used beside a model; name the model it was made for.",
    ),
    ((f"{UNET}joint_blocks.", "joint_blocks."), "a Stable Diffusion 3 model", _USE_FILE),
    ((f"{UNET}double_blocks.", "double_blocks."), "a Flux model", _USE_FILE),
    ((f"{UNET}clip_txt_mapper.", f"{UNET}clf.", "clip_txt_mapper."), "a Stable Cascade model", _USE_FILE),
    (
        (f"{UNET}transformer_blocks.", "transformer_blocks.", f"{UNET}t_block.", "t_block."),
        "another kind of model (a diffusion transformer, as PixArt is)",
        _USE_FILE,
    ),
    (("edm_mean", "edm_std", "edm_vpred."), _EDM, "Use another SDXL model."),
)


def refuse_file(shapes: Mapping[str, tuple[int, ...]], where: object) -> None:
    """Raise a WeightsError that names a file of another known kind.

    Args:
      shapes: of its tensors by name.
      where: the file, for messages.
    """
    for beginnings, kind, remedy in _FILES:
        if any(name.startswith(beginnings) for name in shapes):
            raise other_file(where, kind, remedy)
    if any(name.startswith(SDXL_TEXT) for name in shapes):
        _refuse_sdxl(shapes, where)
    elif any(name.startswith((f"{UNET}label_emb.", f"{AVERAGED_UNET}label_emb")) for name in shapes):
        kinds = "an SDXL model without its text encoders, or one that takes images or classes, as unCLIP does"
        raise other_file(
            where, f"{kinds} (label_emb, and no {SDXL_TEXT}*)", "Name a file with the whole model."
        )
    if not any(name.startswith((UNET, AVERAGED_UNET)) for name in shapes):
        _refuse_part(shapes, where)


def _refuse_sdxl(shapes: Mapping[str, tuple[int, ...]], where: object) -> None:
    second = any(name.startswith(f"{SDXL_TEXT}1.") for name in shapes)
    if not second and any(name.startswith(f"{SDXL_TEXT}0.model.") for name in shapes):
        raise other_file(where, f"{_REFINER} ({SDXL_TEXT}0.model.*, and no {SDXL_TEXT}1.*)", _USE_BASE)
    sizes = [shapes.get(f"{UNET}{name}.weight", ()) for name in ("input_blocks.0.0", "out.2")]
    if all(len(size) == 4 for size in sizes) and (kind := _unlike_latents(sizes[0][1], sizes[1][0])):
        raise other_file(where, kind, _USE_FILE)


def _refuse_part(shapes: Mapping[str, tuple[int, ...]], where: object) -> None:
    """Raise a WeightsError that names a file without a UNet of the original layout."""
    if any(part in name for name in shapes for part in _LORA_PARTS):
        raise other_file(where, "a LoRA", "Merge it into its model first, or name the model alone.")
    vectors = all(len(shape) <= 2 for shape in shapes.values()) and len(shapes) <= 2
    if EMBEDDING_NAMES & shapes.keys() or vectors:
        raise embedding_file(where)
    if any(name.removeprefix(VAE).startswith(VAE_PARTS) for name in shapes):
        remedy = "Name it as pretrained_vae_model_name_or_path, beside a whole model."
        raise other_file(where, "a VAE alone", remedy)
    if any(name.startswith(("down_blocks.", "conv_in.")) for name in shapes):
        raise other_file(where, "a UNet alone, in diffusers' layout", "Name the whole model's folder.")
    if any(name.startswith("text_model.") for name in shapes):
        raise other_file(where, "a text encoder alone", "Name the whole model's folder.")


def embedding_file(where: object) -> WeightsError:
    """Return the error of a learned embedding where a model was wanted."""
    return other_file(where, "a learned embedding", "Name the model that it belongs to.")


def other_file(where: object, found: str, remedy: str) -> WeightsError:
    """Return the error of a single file that holds something else than a whole model."""
    expected = "a whole Stable Diffusion 1.x, 2.x or XL model"
    return WeightsError(where, expected=expected, found=found, remedy=remedy)
