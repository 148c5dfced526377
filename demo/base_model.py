"""The shape of the demo's base model: Stable Diffusion 1.x, small enough to be taught on two CPU cores."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clip_tokenizer import END, START

from ti_flax.errors import ConfigError
from ti_flax.models.stable_diffusion import (
    FlaxStableDiffusion,
    load_stable_diffusion,
    random_stable_diffusion,
)
from ti_flax.models.tokenizer import load_tokenizer

# As many tokens as the longest caption of the world needs, with room for a concept of several vectors.
TOKENS = 32

TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 160,
    "intermediate_size": 480,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "max_position_embeddings": TOKENS,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05,
    "projection_dim": 160,
    # Or transformers 5 would compute in the file's float16, beside a UNet that diffusers reads as float32.
    "dtype": "float32",
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 12,
    "out_channels": 12,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [96, 128],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 160,
    "attention_head_dim": 4,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 48, 64],
    "layers_per_block": 1,
    "latent_channels": 12,
    # Few: a group of one or two channels would take the mean colour out of the image.
    "norm_num_groups": 4,
    "sample_size": 64,
    "scaling_factor": 1.0,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}
# What a size changes. A tiny model learns nothing; it shows within a minute that the training runs.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "demo": {},
    "tiny": {
        "text_encoder": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "projection_dim": 32,
        },
        "unet": {
            "in_channels": 4,
            "out_channels": 4,
            # The block in the middle attends to the prompt.
            "down_block_types": ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"],
            "block_out_channels": [16],
            "cross_attention_dim": 32,
            "attention_head_dim": 2,
        },
        "vae": {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4},
    },
}


def base_configs(vocabulary: dict[str, int], size: str = "demo") -> dict[str, dict]:
    """Returns the config files of all components of a size, for a tokenizer's vocabulary."""
    ids = {
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    text_encoder = TEXT_ENCODER | {"vocab_size": len(vocabulary)} | ids
    configs = {"text_encoder": text_encoder, "unet": UNET, "vae": VAE, "scheduler": SCHEDULER}
    return {name: config | SIZES[size].get(name, {}) for name, config in configs.items()}


def untrained_model(vocabulary: dict[str, int], *, seed: int, size: str = "demo") -> FlaxStableDiffusion:
    """Makes the base model before training, with the initial values of flax's own layers."""
    configs = base_configs(vocabulary, size)
    model = random_stable_diffusion(configs, seed=seed)
    keys = jax.random.split(jax.random.key(seed), 3)
    side, channels = UNET["sample_size"], configs["unet"]["in_channels"]
    inputs: dict[str, tuple[Any, ...]] = {
        "text_encoder": (jnp.zeros((1, TOKENS), jnp.int32),),
        "unet": (
            jnp.zeros((1, side, side, channels)),
            jnp.zeros((1,)),
            jnp.zeros((1, TOKENS, configs["unet"]["cross_attention_dim"])),
        ),
        "vae": (jnp.zeros((1, VAE["sample_size"], VAE["sample_size"], 3)),),
    }
    methods = {"text_encoder": model.text_encoder.encode_ids}
    # Compiled, so that the layers' initial values are all that is computed.
    params = {
        name: jax.jit(partial(getattr(model, name).init, method=methods.get(name)))(key, *inputs[name])
        for key, name in zip(keys, inputs)
    }
    params = {name: variables["params"] for name, variables in params.items()}
    return dataclasses.replace(model, params=params)


def continued_model(
    untrained: FlaxStableDiffusion, vocabulary: Mapping[str, int], folder: Path
) -> FlaxStableDiffusion:
    """A finished model in float32, with its token rows put where another vocabulary has these tokens.

    Tokens that it does not know keep their first rows.

    Args:
      untrained: of the same shape, for the new vocabulary.
      vocabulary: of the tokenizer that is written for it.
      folder: of the finished model.

    Raises:
      ConfigError: it has another shape.
    """
    finished = load_stable_diffusion(folder)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), finished.params)
    shapes, expected = (jax.tree.map(np.shape, tree) for tree in (params, dict(untrained.params)))
    for each in (shapes, expected):
        del _token_table(each)["embedding"]  # there may be more tokens now
    if shapes != expected:
        raise ConfigError(f"--start {folder}", expected="a model of --size", found="one of another shape")
    table, known = _token_table(params), load_tokenizer(folder).get_vocab()
    rows = np.array(_token_table(untrained.params)["embedding"])
    for token, index in vocabulary.items():
        if token in known:
            rows[index] = table["embedding"][known[token]]
    table["embedding"] = rows
    configs = untrained.configs | {"vae": finished.configs["vae"]}
    return dataclasses.replace(untrained, vae=finished.vae, configs=configs, params=params)


def _token_table(params: Mapping[str, Any]) -> dict[str, Any]:
    return params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]
