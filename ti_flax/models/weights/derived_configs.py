"""Config files for a model that comes without: read off its tensors' shapes, standard where those are mute.

The tensors are named as in diffusers. Shapes tell channels, levels, layers and widths. They do not tell
heads, groups of norms, the activation and the noise schedule; these are the released models'.
"""

import re
from collections.abc import Mapping
from typing import Any

from ti_flax.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]

# Numbers that every released 1.x and 2.x model has and that no shape tells.
_GROUPS = 32
_HEADS_1 = 8
_HEAD_WIDTH = 64
_SCALING_FACTOR = 0.18215


def text_encoder_config(shapes: Shapes, *, hidden_act: str, where: str) -> dict[str, Any]:
    """Return the config of a CLIP text encoder.

    Args:
      shapes: of its tensors.
      hidden_act: `quick_gelu` of OpenAI's CLIP (1.x), `gelu` of OpenCLIP (2.x).
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


def unet_config(shapes: Shapes, *, where: str) -> dict[str, Any]:
    """Return the config of a UNet.

    Linear projections, which came with 2.x, mean heads of width 64; else there are 8.

    Raises:
      WeightsError: a tensor that says how large it is is missing.
    """
    levels = _count(shapes, r"down_blocks\.(\d+)\.")
    channels = _channels(shapes, "down_blocks", levels, where)
    layers = [_count(shapes, rf"down_blocks\.{level}\.resnets\.(\d+)\.") for level in range(levels)]
    depths = [_depth(shapes, level) for level in range(levels)]
    context = next(
        (shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), channels[-1]
    )
    projection = next((shape for name, shape in shapes.items() if name.endswith("proj_in.weight")), ())
    linear = len(projection) == 2
    if any(size % _GROUPS for size in channels):
        raise _untold(where, f"a UNet with channels {channels}, not all multiples of {_GROUPS}")
    return {
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


def vae_config(shapes: Shapes, *, where: str) -> dict[str, Any]:
    """Return the config of an autoencoder.

    Raises:
      WeightsError: a tensor that says how large it is is missing.
    """
    levels = _count(shapes, r"encoder\.down_blocks\.(\d+)\.")
    channels = _channels(shapes, "encoder.down_blocks", levels, where)
    if any(size % _GROUPS for size in channels):
        raise _untold(where, f"a VAE with channels {channels}, not all multiples of {_GROUPS}")
    return {
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


def scheduler_config(prediction_type: str) -> dict[str, Any]:
    """Return the noise schedule of all released models, for a UNet that predicts noise or velocity."""
    return {
        "_class_name": "DDIMScheduler" if prediction_type == "v_prediction" else "PNDMScheduler",
        "_diffusers_version": "0.6.0",
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


def _channels(shapes: Shapes, blocks: str, levels: int, where: str) -> list[int]:
    return [_shape(shapes, f"{blocks}.{level}.resnets.0.conv1.weight", where)[0] for level in range(levels)]


def _depth(shapes: Shapes, level: int) -> int:
    """Count the transformer layers of a level, on either way; 1 where it has none, as in released configs."""
    blocks = rf"down_blocks\.{level}\.attentions\.0\.transformer_blocks\.(\d+)\."
    return max(1, _count(shapes, blocks))


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
        expected="the layout of a released 1.x or 2.x model, whose heads and norms are known",
        found=found,
        remedy="Name a folder with this model's config files in diffusers' layout as config_name.",
    )
