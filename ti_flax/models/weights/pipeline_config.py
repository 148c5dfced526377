"""The config files of a pipeline's folder as diffusers reads them, in PyTorch's or in Flax's layout."""

from collections.abc import Mapping, Sequence
from typing import Any

# Schedulers that diffusers 0.39 has in Flax; DDIM reads the config of any of the others.
_FLAX_SCHEDULERS = ("DDIM", "DDPM", "DPMSolverMultistep", "EulerDiscrete", "LMSDiscrete", "PNDM")
_CLASSES = {
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}
# Parts of PyTorch's pipelines that are not written.
_ABSENT = {"safety_checker": "stable_diffusion", "feature_extractor": "transformers"}
_ABSENT_XL = ("feature_extractor", "image_encoder")


def component_config(config: Mapping[str, Any], component: str, layout: str) -> dict[str, Any]:
    """Return a component's config with the class names of a layout.

    Args:
      config: of the source, with what was changed since.
      component: `text_encoder`, `text_encoder_2`, `unet` or `vae`.
      layout: `torch` or `flax`.
    """
    library, plain = _CLASSES[component]
    class_name = f"Flax{plain}" if layout == "flax" else plain
    if library == "transformers":
        return {**config, "architectures": [class_name], "model_type": "clip_text_model"}
    config = {**config, "_class_name": class_name}
    if component == "unet" and config.get("num_attention_heads") is not None:
        # PyTorch's class refuses `num_attention_heads` and means the same by `attention_head_dim`.
        config |= {"attention_head_dim": config["num_attention_heads"], "num_attention_heads": None}
    return config


def scheduler_config(config: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """Return a scheduler's config with a class that the layout's diffusers has."""
    name = str(config.get("_class_name", "DDIMScheduler")).removeprefix("Flax")
    if layout == "flax":
        name = f"Flax{name}" if name.removesuffix("Scheduler") in _FLAX_SCHEDULERS else "FlaxDDIMScheduler"
    return {**config, "_class_name": name}


def model_index(
    components: Sequence[str], scheduler: str, layout: str, *, zeros_for_empty_prompt: bool
) -> dict[str, Any]:
    """Return the content of `model_index.json`.

    Args:
      components: of the model.
      scheduler: its class.
      layout: `torch` or `flax`.
      zeros_for_empty_prompt: SDXL's setting; other models have none.
    """
    prefix = "Flax" if layout == "flax" else ""
    xl = "text_encoder_2" in components
    parts = {part: [_CLASSES[part][0], prefix + _CLASSES[part][1]] for part in components}
    tokenizers = ("tokenizer", "tokenizer_2") if xl else ("tokenizer",)
    index = {
        "_class_name": f"{prefix}StableDiffusion{'XL' if xl else ''}Pipeline",
        "scheduler": ["diffusers", scheduler],
        **{name: ["transformers", "CLIPTokenizer"] for name in tokenizers},
        **parts,
    }
    if xl:
        index["force_zeros_for_empty_prompt"] = zeros_for_empty_prompt
        return index if layout == "flax" else index | {part: [None, None] for part in _ABSENT_XL}
    # In a Flax folder diffusers 0.39 takes [null, null] for a part that was forgotten, and a library without
    # a class for one that is switched off.
    absent = {part: [library if layout == "flax" else None, None] for part, library in _ABSENT.items()}
    return index | absent if layout == "flax" else index | absent | {"requires_safety_checker": False}
