"""Config files of tiny models with the shapes of Stable Diffusion 1.x, 2.x and XL, as the tests need them."""

SD1 = {
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": 120,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-05,
        "projection_dim": 32,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [16, 32, 32],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
        "block_out_channels": [8, 16, 16],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": 32,
        "scaling_factor": 0.18215,
    },
    "scheduler": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    },
}

SD2 = {
    "text_encoder": SD1["text_encoder"]
    | {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "hidden_act": "gelu"},
    "unet": SD1["unet"]
    | {
        "cross_attention_dim": 48,
        "attention_head_dim": [2, 4, 8],
        "layers_per_block": 2,
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "vae": SD1["vae"],
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.8.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    },
}

# No size is a power of two, and no two levels are alike.
SDXL = {
    "text_encoder": SD1["text_encoder"]
    | {"hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 3},
    "text_encoder_2": SD1["text_encoder"]
    | {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_size": 40,
        "intermediate_size": 72,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "hidden_act": "gelu",
        "projection_dim": 28,
    },
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [24, 36, 60],
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 2, 3],
        "norm_num_groups": 6,
        "cross_attention_dim": 64,
        "attention_head_dim": [2, 3, 5],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 10,
        "projection_class_embeddings_input_dim": 88,
    },
    "vae": SD1["vae"] | {"scaling_factor": 0.13025, "force_upcast": True},
    "scheduler": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    },
}

FAMILIES = {"sd1": SD1, "sd2": SD2}

# For what compiles the UNet's gradient and is compared with PyTorch: a block of each kind, and no more.
_SMALL_UNET = {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
}
SMALL = {
    "sd1": SD1 | {"unet": SD1["unet"] | _SMALL_UNET},
    "sd2": SD2 | {"unet": SD2["unet"] | _SMALL_UNET | {"attention_head_dim": [2, 4]}},
    "sdxl": SDXL
    | {
        "unet": SDXL["unet"]
        | {
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [24, 36],
            "transformer_layers_per_block": [1, 2],
            "attention_head_dim": [2, 3],
        }
    },
}

# For whole runs and steps, which are compared with one another: their tests look at none of the blocks. The
# middle one alone attends to the prompt, which halves what a step takes to lower and to compile.
_LEAST_UNET = {
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "block_out_channels": [16],
}
LEAST = {
    "sd1": SMALL["sd1"] | {"unet": SMALL["sd1"]["unet"] | _LEAST_UNET},
    "sd2": SMALL["sd2"] | {"unet": SMALL["sd2"]["unet"] | _LEAST_UNET | {"attention_head_dim": [2]}},
    "sdxl": SMALL["sdxl"]
    | {
        "unet": SMALL["sdxl"]["unet"]
        | _LEAST_UNET
        | {"block_out_channels": [24], "transformer_layers_per_block": [2], "attention_head_dim": [2]}
    },
}
