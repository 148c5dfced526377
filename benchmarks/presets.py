"""The shapes that are measured: the demo's model, middle ones for CPUs, Stable Diffusion 1.5, 2.1 and XL.

Two odd ones, which nobody tuned for, have channels, heads, depths and sizes that are no powers of two. Tiny
ones show within seconds that everything a benchmark needs is there; their figures mean nothing.
"""

import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).resolve().parent.parent),
    str(Path(__file__).resolve().parent.parent / "demo"),
]

_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "layer_norm_eps": 1e-05,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
_UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
TINY = {
    "text_encoder": _CLIP
    | {
        "vocab_size": 1024,
        "bos_token_id": 1022,
        "eos_token_id": 1023,
        "pad_token_id": 1023,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
        "projection_dim": 32,
    },
    "unet": _UNET
    | {
        "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [32, 32],
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    },
    "vae": _VAE
    | {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 16, 16],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 32,
    },
    "scheduler": _SCHEDULER,
}
MID = {
    "text_encoder": _CLIP
    | {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "hidden_act": "quick_gelu",
        "projection_dim": 256,
    },
    "unet": _UNET
    | {
        "sample_size": 32,
        "block_out_channels": [64, 128, 256, 256],
        "cross_attention_dim": 256,
        "attention_head_dim": 8,
    },
    "vae": _VAE | {"block_out_channels": [32, 64, 128, 128], "sample_size": 256},
    "scheduler": _SCHEDULER,
}
ODD_SHALLOW = {
    "text_encoder": _CLIP
    | {
        "hidden_size": 160,
        "intermediate_size": 480,
        "num_hidden_layers": 5,
        "num_attention_heads": 5,
        "hidden_act": "gelu",
        "projection_dim": 160,
    },
    "unet": _UNET
    | {
        "sample_size": 28,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2,
        "block_out_channels": [96, 160, 224],
        "layers_per_block": 3,
        "cross_attention_dim": 160,
        "attention_head_dim": 4,
    },
    "vae": _VAE | {"block_out_channels": [32, 32, 96, 96], "sample_size": 224},
    "scheduler": _SCHEDULER,
}
ODD_DEEP = {
    "text_encoder": _CLIP
    | {
        "hidden_size": 224,
        "intermediate_size": 608,
        "num_hidden_layers": 9,
        "num_attention_heads": 7,
        "hidden_act": "quick_gelu",
        "projection_dim": 224,
    },
    "unet": _UNET
    | {
        "sample_size": 40,
        "block_out_channels": [64, 96, 160, 288],
        "layers_per_block": 1,
        "cross_attention_dim": 224,
        "attention_head_dim": 2,
    },
    "vae": _VAE | {"block_out_channels": [32, 64, 96, 96], "sample_size": 320},
    "scheduler": _SCHEDULER,
}
SD15 = {
    "text_encoder": _CLIP
    | {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
    "unet": _UNET
    | {
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "vae": _VAE | {"block_out_channels": [128, 256, 512, 512], "sample_size": 512},
    "scheduler": _SCHEDULER,
}
SD21 = {
    "text_encoder": _CLIP
    | {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 512,
    },
    "unet": SD15["unet"]
    | {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "vae": SD15["vae"] | {"sample_size": 768},
    "scheduler": _SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
}
_SDXL_SCHEDULER = _SCHEDULER | {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
_SDXL_UNET = _UNET | {
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
}
_PROJECTED = {"architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu"}
SDXL_TINY = {
    "text_encoder": TINY["text_encoder"] | {"num_hidden_layers": 2},
    "text_encoder_2": TINY["text_encoder"] | _PROJECTED | {"num_hidden_layers": 2},
    "unet": _SDXL_UNET
    | {
        "sample_size": 8,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [32, 32],
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 2],
        "cross_attention_dim": 64,
        "attention_head_dim": [2, 4],
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    },
    "vae": TINY["vae"] | {"scaling_factor": 0.13025, "force_upcast": True},
    "scheduler": _SDXL_SCHEDULER,
}
SDXL_MID = {
    "text_encoder": MID["text_encoder"] | {"num_attention_heads": 4},
    "text_encoder_2": _CLIP
    | _PROJECTED
    | {
        "hidden_size": 320,
        "intermediate_size": 1280,
        "num_hidden_layers": 12,
        "num_attention_heads": 5,
        "projection_dim": 320,
    },
    "unet": _SDXL_UNET
    | {
        "sample_size": 48,
        "block_out_channels": [64, 128, 256],
        "cross_attention_dim": 256 + 320,
        "attention_head_dim": [1, 2, 4],
        "addition_time_embed_dim": 64,
        "projection_class_embeddings_input_dim": 320 + 6 * 64,
    },
    "vae": MID["vae"] | {"scaling_factor": 0.13025, "force_upcast": True, "sample_size": 384},
    "scheduler": _SDXL_SCHEDULER,
}
SDXL = {
    "text_encoder": SD15["text_encoder"],
    "text_encoder_2": _CLIP
    | _PROJECTED
    | {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
    "unet": _SDXL_UNET
    | {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    },
    "vae": SD15["vae"] | {"scaling_factor": 0.13025, "force_upcast": True, "sample_size": 1024},
    "scheduler": _SDXL_SCHEDULER,
}
RESOLUTIONS = {
    "tiny": 32,
    "demo": 64,
    "mid": 256,
    "odd-shallow": 224,
    "odd-deep": 320,
    "sd15": 512,
    "sd21": 768,
    "sdxl-tiny": 32,
    "sdxl-mid": 384,
    "sdxl": 1024,
}
_CONFIGS = {
    "tiny": TINY,
    "mid": MID,
    "odd-shallow": ODD_SHALLOW,
    "odd-deep": ODD_DEEP,
    "sd15": SD15,
    "sd21": SD21,
    "sdxl-tiny": SDXL_TINY,
    "sdxl-mid": SDXL_MID,
    "sdxl": SDXL,
}


def preset(name: str) -> dict[str, dict[str, Any]]:
    """The config files of a preset's components."""
    if name != "demo":
        return _CONFIGS[name]
    from base_model import base_configs
    from clip_tokenizer import END, START

    # As many tokens as the demo's tokenizer has.
    return base_configs({str(index): index for index in range(790)} | {START: 790, END: 791})


def sizes(images: int, side: int) -> Any:
    """What an SDXL model is told of square images that nothing was cut from, `[images, 2, 6]` float32."""
    import numpy as np

    return np.broadcast_to(np.array([side, side, 0, 0, side, side], np.float32), (images, 2, 6))


def write_tokenizer_of(folder: Path, tokens: int, *, second: bool = False) -> None:
    """Writes a CLIP tokenizer with a vocabulary of so many tokens; those without a word are never used.

    Args:
      folder: made where it does not exist.
      tokens: of the vocabulary.
      second: whether it is that of SDXL's second text encoder, which fills prompts up with "!".
    """
    import json

    from clip_tokenizer import END, START, write_tokenizer

    written = write_tokenizer(folder, words="photo", pad_token="!" if second else END)
    known = [token for token in written if token not in (START, END)]
    unused = [f"unused{index}</w>" for index in range(tokens - len(known) - 2)]
    vocabulary = {token: index for index, token in enumerate([*known, *unused, START, END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
