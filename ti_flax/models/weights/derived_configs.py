"""Config files for a model that comes without: read off its tensors' shapes, standard where those are mute.

The tensors are named as in diffusers. Shapes tell channels, levels, layers and widths. They do not tell
heads, groups of norms, the activation and the noise schedule; these are the released models'.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ti_flax.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]

# Numbers that every released 1.x, 2.x and XL model has and that no shape tells.
_GROUPS = 32
_HEADS_1 = 8
_HEAD_WIDTH = 64
_SCALING_FACTOR, _SDXL_SCALING_FACTOR = 0.18215, 0.13025
# Numbers that SDXL's UNet is told of an image: original size, corner of the crop, target size.
_TIME_IDS = 6
# Schedulers of diffusers that know `rescale_betas_zero_snr`; others would pass over it.
_ZERO_SNR_SCHEDULERS = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
    }
)


def model_configs(shapes: Mapping[str, Shapes], *, second: bool, where: str) -> dict[str, dict[str, Any]]:
    """Return the configs of a model's components.

    Args:
      shapes: of their tensors, by component; an SDXL model has `text_encoder_2`.
      second: whether it is a 2.x model.
      where: the file, for messages.

    Raises:
      WeightsError: they do not tell how the model is built.
    """
    configs, pooled, act = {}, 0, "gelu" if second else "quick_gelu"
    configs["text_encoder"] = text_encoder_config(shapes["text_encoder"], hidden_act=act, where=where)
    if sdxl := "text_encoder_2" in shapes:
        configs["text_encoder_2"] = projected_text_encoder_config(shapes["text_encoder_2"], where=where)
        pooled = configs["text_encoder_2"]["projection_dim"]
    configs["unet"] = unet_config(shapes["unet"], where=where, pooled=pooled)
    if "vae" in shapes:
        configs["vae"] = vae_config(shapes["vae"], where=where, sdxl=sdxl)
    return configs


def text_encoder_config(shapes: Shapes, *, hidden_act: str, where: str) -> dict[str, Any]:
    """Return the config of a CLIP text encoder.

    Args:
      shapes: of its tensors.
      hidden_act: `quick_gelu` of OpenAI's CLIP (1.x, SDXL's first), `gelu` of OpenCLIP (2.x, SDXL's second).
      where: the file, for messages.

    Raises:
      WeightsError: a tensor that says how large it is is missing, or its heads cannot be worked out.
    """
    tokens, width = _shape(shapes, "text_model.embeddings.token_embedding.weight", where)
    if width % _HEAD_WIDTH:
        raise _untold(where, f"a text encoder of width {width}, no multiple of {_HEAD_WIDTH}")
    return {
        "model_type": "clip_text_model",
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": _shape(shapes, "text_model.encoder.layers.0.mlp.fc1.weight", where)[0],
        "num_hidden_layers": _count(shapes, r"text_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": _shape(shapes, "text_model.embeddings.position_embedding.weight", where)[
            0
        ],
        "hidden_act": hidden_act,
        "layer_norm_eps": 1e-5,
    }


def projected_text_encoder_config(shapes: Shapes, *, where: str) -> dict[str, Any]:
    """Return the config of SDXL's second text encoder, whose pooled output is projected.

    Raises:
      WeightsError: as `text_encoder_config`.
    """
    projection = _shape(shapes, "text_projection.weight", where)[0]
    config = text_encoder_config(shapes, hidden_act="gelu", where=where)
    return config | {"architectures": ["CLIPTextModelWithProjection"], "projection_dim": projection}


def unet_config(shapes: Shapes, *, where: str, pooled: int = 0) -> dict[str, Any]:
    """Return the config of a UNet.

    Linear projections, which came with 2.x, mean heads of width 64; else there are 8.

    Args:
      shapes: of its tensors.
      where: the file, for messages.
      pooled: width of the pooled text that SDXL's UNet takes; 0 for other models.

    Raises:
      WeightsError: a tensor that says how large it is is missing, or it is built otherwise.
    """
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    channels = _channels(shapes, "down_blocks", levels, where)
    layers = [_count(shapes, rf"down_blocks\.{level}\.resnets\.(\d+)\.") for level in range(levels)]
    depths = _depths(shapes, levels, where)
    context = next(
        (shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), channels[-1]
    )
    projection = next((shape for name, shape in shapes.items() if name.endswith("proj_in.weight")), ())
    linear = len(projection) == 2
    if any(size % _GROUPS for size in channels):
        raise _untold(where, f"a UNet with channels {channels}, not all multiples of {_GROUPS}")
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "in_channels": _shape(shapes, "conv_in.weight", where)[1],
        "out_channels": _shape(shapes, "conv_out.weight", where)[0],
        "down_block_types": [_block_type(shapes, "down", "Down", level) for level in range(levels)],
        "up_block_types": [_block_type(shapes, "up", "Up", level) for level in range(levels)],
        "block_out_channels": channels,
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "norm_num_groups": _GROUPS,
        "cross_attention_dim": context,
        "attention_head_dim": [size // _HEAD_WIDTH for size in channels] if linear else _HEADS_1,
        "use_linear_projection": linear,
    }
    return config | (_addition(shapes, pooled, where) if pooled else {})


def _addition(shapes: Shapes, pooled: int, where: str) -> dict[str, Any]:
    """Return the fields about what is added to the time embedding (arXiv:2307.01952, section 2.2)."""
    width = _shape(shapes, "add_embedding.linear_1.weight", where)[1]
    if width <= pooled or (width - pooled) % _TIME_IDS:
        raise _untold(
            where, f"label_emb for {width} numbers, with a pooled text of {pooled} and {_TIME_IDS} sizes"
        )
    return {
        "sample_size": 128,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (width - pooled) // _TIME_IDS,
        "projection_class_embeddings_input_dim": width,
    }


def vae_config(shapes: Shapes, *, where: str, sdxl: bool = False) -> dict[str, Any]:
    """Return the config of an autoencoder.

    Args:
      shapes: of its tensors.
      where: the file, for messages.
      sdxl: whether it is an SDXL model's, whose latents are scaled otherwise.

    Raises:
      WeightsError: a tensor that says how large it is is missing.
    """
    levels = _count(shapes, r"encoder\.down_blocks\.(\d+)\.")
    channels = _channels(shapes, "encoder.down_blocks", levels, where)
    if any(size % _GROUPS for size in channels):
        raise _untold(where, f"a VAE with channels {channels}, not all multiples of {_GROUPS}")
    config = {
        "_class_name": "AutoencoderKL",
        "in_channels": _shape(shapes, "encoder.conv_in.weight", where)[1],
        "out_channels": _shape(shapes, "decoder.conv_out.weight", where)[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": _shape(shapes, "decoder.conv_in.weight", where)[1],
        "norm_num_groups": _GROUPS,
        "sample_size": 512,
        "scaling_factor": _SCALING_FACTOR,
    }
    xl = {"sample_size": 1024, "scaling_factor": _SDXL_SCALING_FACTOR, "force_upcast": True}
    return config | (xl if sdxl else {})


def scheduler_config(prediction_type: str, *, sdxl: bool = False) -> dict[str, Any]:
    """Return the noise schedule of all released models, for a UNet that predicts noise or velocity."""
    usual = "DDIMScheduler" if prediction_type == "v_prediction" else "PNDMScheduler"
    config = {
        "_class_name": "EulerDiscreteScheduler" if sdxl else usual,
        "_diffusers_version": "0.19.0" if sdxl else "0.6.0",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": prediction_type,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    return config | ({"timestep_spacing": "leading"} if sdxl else {})


def with_zero_snr(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scheduler's config in which the last timestep is pure noise (arXiv:2305.08891)."""
    # Only so does a sampler begin at that timestep (section 3.3 of the paper).
    changed = {**config, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    name = str(config.get("_class_name", "")).removeprefix("Flax")
    return changed | ({} if name in _ZERO_SNR_SCHEDULERS else {"_class_name": "DDIMScheduler"})


def _channels(shapes: Shapes, blocks: str, levels: int, where: str) -> list[int]:
    return [_shape(shapes, f"{blocks}.{level}.resnets.0.conv1.weight", where)[0] for level in range(levels)]


_TRANSFORMER_LAYER = re.compile(
    r"((?:(down|up)_blocks\.(\d)|mid_block)\.attentions\.\d+)\.transformer_blocks\.(\d{1,3})\."
)


def _depths(shapes: Shapes, levels: int, where: str) -> list[int]:
    """Count the transformer layers of each level on either way, the middle counting to the last.

    1 stands for none, as in released configs.
    """
    counted: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for name in shapes:
        if match := _TRANSFORMER_LAYER.match(name):
            place, side, number, layer = match.groups()
            level = (
                levels - 1 if side is None else int(number) if side == "down" else levels - 1 - int(number)
            )
            counted[level][place] = max(counted[level].get(place, 0), 1 + int(layer))
    for level, found in counted.items():
        if len(set(found.values())) > 1:
            raise WeightsError(
                where,
                expected="transformers of equally many layers in each level of the UNet",
                found=f"{sorted(set(found.values()))} in level {level}, as distilled models have (SSD-1B)",
                remedy="Use the model that it was made from.",
            )
    return [max(counted[level].values(), default=1) for level in range(levels)]


def _block_type(shapes: Shapes, side: str, name: str, level: int) -> str:
    attends = any(key.startswith(f"{side}_blocks.{level}.attentions.") for key in shapes)
    return f"CrossAttn{name}Block2D" if attends else f"{name}Block2D"


def _count(shapes: Shapes, numbered: str) -> int:
    """Count what a pattern numbers from 0; its group is the number."""
    found = {int(match[1]) for name in shapes if (match := re.match(numbered, name)) and len(match[1]) < 4}
    return 1 + max(found, default=-1)


def _shape(shapes: Shapes, name: str, where: str) -> tuple[int, ...]:
    shape = shapes.get(name, ())
    if len(shape) < 2:
        raise WeightsError(
            where,
            expected=f"the tensor {name}, by its name in diffusers",
            found="none" if name not in shapes else f"one of shape {list(shape)}",
            remedy="The file is incomplete, or this kind of model is not supported.",
        )
    return shape


def _untold(where: str, found: str) -> WeightsError:
    return WeightsError(
        where,
        expected="the layout of a released 1.x, 2.x or XL model, whose heads and norms are known",
        found=found,
        remedy="Name a folder with this model's config files in diffusers' layout as config_name.",
    )
