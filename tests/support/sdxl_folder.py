"""A tiny SDXL model of PyTorch's own modules, in a folder that their own `save_pretrained` wrote.

Its widths are multiples of those that shapes of a single file tell heads and norms by.
"""

import inspect
import json

import pytest
from clip_tokenizer import END, START, write_tokenizer
from released_configs import INDEX_XL, SCHEDULER_XL, TEXT_ENCODER_2_XL, TEXT_ENCODER_XL, UNET_XL, VAE_XL

torch = pytest.importorskip("torch")

WORDS = "cat dog toy"
PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")


def sdxl_configs(vocabulary):
    """The released configs with other sizes, for a tokenizer's vocabulary."""
    ids = {"bos_token_id": vocabulary[START], "eos_token_id": vocabulary[END], "pad_token_id": 0}
    text = {"vocab_size": len(vocabulary), "num_attention_heads": 1, "max_position_embeddings": 77} | ids
    first = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "projection_dim": 64}
    second = {"hidden_size": 128, "intermediate_size": 160, "num_hidden_layers": 3, "projection_dim": 96}
    return {
        "text_encoder": TEXT_ENCODER_XL | text | first,
        "text_encoder_2": TEXT_ENCODER_2_XL | text | second | {"num_attention_heads": 2},
        "unet": UNET_XL
        | {
            "block_out_channels": [64, 64, 128],
            "attention_head_dim": [1, 1, 2],
            "transformer_layers_per_block": [1, 2, 3],
            "cross_attention_dim": 192,
            "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": 96 + 6 * 16,
        },
        "vae": VAE_XL | {"block_out_channels": [32, 32, 64, 64]},
        "scheduler": SCHEDULER_XL,
    }


def sdxl_model(component, config):
    """One PyTorch module of the given config with random parameters, none of them zero or one."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(len(component))
    if component in ("unet", "vae"):
        module = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[component].from_config(config)
    else:
        kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        given = {name: value for name, value in config.items() if name != "torch_dtype"}
        module = kinds[component](CLIPTextConfig(**given))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def state_of_module(module, component):
    """Its parameters as arrays; those of a text encoder under the names that all versions read."""
    state = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    if component == "text_encoder":
        return {f"text_model.{name.removeprefix('text_model.')}": values for name, values in state.items()}
    return state


def write_sdxl_folder(folder, *, variant=None, shards=None):
    """Writes a whole model folder and returns (its configs, its parameters by component).

    Args:
      folder: made where it does not exist.
      variant: of the weight files.
      shards: the most bytes of one file of the UNet, such as "4MB".
    """
    vocabulary = write_tokenizer(folder / "tokenizer", words=WORDS)
    write_tokenizer(folder / "tokenizer_2", words=WORDS, pad_token="!")
    configs, states = sdxl_configs(vocabulary), {}
    for part in PARTS:
        module = sdxl_model(part, configs[part])
        split = {"max_shard_size": shards} if shards and part == "unet" else {}
        module.save_pretrained(folder / part, variant=variant, **split)
        states[part] = state_of_module(module, part)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs["scheduler"]))
    (folder / "model_index.json").write_text(json.dumps(INDEX_XL))
    return configs, states


def understood(component, config):
    """What PyTorch's classes take for a config: all their arguments, with defaults where it has none."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig as TheirConfig

    if component.startswith("text_encoder"):
        ids = {"bos_token_id", "eos_token_id", "pad_token_id", "architectures", "dtype"}
        unused = {"projection_dim"} if component == "text_encoder" else set()
        names = TheirConfig().to_dict().keys() - ids - unused - {"_name_or_path", "transformers_version"}
        given = {name: value for name, value in config.items() if name in names}
        return {name: value for name, value in TheirConfig(**given).to_dict().items() if name in names}
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "scheduler": EulerDiscreteScheduler}
    arguments = inspect.signature(kinds[component].__init__).parameters.values()
    full = {each.name: each.default for each in arguments if each.name != "self"}
    given = {name: value for name, value in config.items() if name in full and value is not None}
    return {
        name: list(value) if isinstance(value, tuple) else value or None  # False, 0 and None mean the same
        for name, value in (full | given).items()
    }
