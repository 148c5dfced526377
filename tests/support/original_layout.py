"""Models in the layout of the original Stable Diffusion code, written level by level from their configs."""

import json
import struct

import numpy as np

from ti_flax.models.weights.parameters import torch_state

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_RESNET = {
    **{name: name for name in ("norm1", "conv1", "norm2", "conv2")},
    "conv_shortcut": "nin_shortcut",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def unet_places(config):
    """Yields (diffusers' place, the original's place) of a UNet's parts."""
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "add_embedding.linear_1", "label_emb.0.0"
    yield "add_embedding.linear_2", "label_emb.0.2"
    yield "conv_in", "input_blocks.0.0"
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    block = 1
    for level in range(levels):
        for layer in range(layers):
            yield from _resnet(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{block}.0")
            yield f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{block}.1"
            block += 1
        yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{block}.0.op"
        block += 1
    for index in (0, 1):
        yield from _resnet(f"mid_block.resnets.{index}", f"middle_block.{2 * index}")
    yield "mid_block.attentions.0", "middle_block.1"
    block = 0
    for level in range(levels):
        attends = config["up_block_types"][level].startswith("CrossAttn")
        for layer in range(layers + 1):
            yield from _resnet(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{block}.0")
            yield f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{block}.1"
            block += 1
        yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{block - 1}.{1 + attends}.conv"


def _resnet(place, original):
    for module, theirs in _RESNET.items():
        yield f"{place}.{module}", f"{original}.{theirs}"


def vae_places(config):
    """Yields (diffusers' place, the original's place) of all of an autoencoder."""
    levels = len(config["block_out_channels"])
    for side, blocks, original in (("encoder", "down_blocks", "down"), ("decoder", "up_blocks", "up")):
        for name in ("conv_in", "conv_out"):
            yield f"{side}.{name}", f"{side}.{name}"
        yield f"{side}.conv_norm_out", f"{side}.norm_out"
        for level in range(levels):
            number = level if side == "encoder" else levels - 1 - level
            for layer in range(config["layers_per_block"] + 1):
                for module, theirs in _VAE_RESNET.items():
                    place = f"{side}.{blocks}.{level}.resnets.{layer}.{module}"
                    yield place, f"{side}.{original}.{number}.block.{layer}.{theirs}"
            sampler = f"{side}.{blocks}.{level}.{original}samplers.0.conv"
            yield sampler, f"{side}.{original}.{number}.{original}sample.conv"
        for index in (0, 1):
            for module, theirs in _VAE_RESNET.items():
                place = f"{side}.mid_block.resnets.{index}.{module}"
                yield place, f"{side}.mid.block_{index + 1}.{theirs}"
        for module, theirs in _VAE_ATTENTION.items():
            yield f"{side}.mid_block.attentions.0.{module}", f"{side}.mid.attn_1.{theirs}"
    for name in ("quant_conv", "post_quant_conv"):
        yield name, name


def renamed(state, places):
    """Gives a state dict the original's names; a parameter that no place covers is an error."""
    places = dict(places)
    result = {}
    for name, values in state.items():
        place = max((key for key in places if name.startswith(f"{key}.")), key=len)
        result[places[place] + name.removeprefix(place)] = values
    return result


def original_vae(state, config):
    """An autoencoder's state dict as `ldm` has it, whose attention is made of 1x1 convolutions."""
    state = renamed(state, vae_places(config))
    return {
        name: values[:, :, None, None] if ".attn_1." in name and values.ndim == 2 else values
        for name, values in state.items()
    }


def open_clip(state, *, layers=24):
    """A text encoder's state dict as OpenCLIP has it, filled up with unused layers where it has fewer."""
    result, fused = {}, {}
    for name, values in state.items():
        name = name.removeprefix("text_model.")
        if not name.startswith("encoder.layers."):
            continue
        _, _, index, inside = name.split(".", 3)
        module, leaf = inside.rsplit(".", 1)
        place = f"transformer.resblocks.{index}"
        if module in _OPEN_CLIP:
            result[f"{place}.{_OPEN_CLIP[module]}.{leaf}"] = values
        else:
            part = "qkv".index(module.removeprefix("self_attn.")[0])
            fused.setdefault(f"{place}.attn.in_proj_{leaf}", [None] * 3)[part] = values
    result |= {name: np.concatenate(parts) for name, parts in fused.items()}
    used = max(int(name.split(".")[2]) for name in result)
    last = {name: values for name, values in result.items() if f".{used}." in name}
    for index in range(used + 1, layers):
        result |= {name.replace(f".{used}.", f".{index}."): -values for name, values in last.items()}
    width = state["text_model.final_layer_norm.weight"].shape[0]
    projection = state.get("text_projection.weight", np.ones((width, width), np.float32))
    return result | {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": projection.T,
        "logit_scale": np.float32(4.6),
    }


def original_state(model, *, second):
    """A whole model's state dict as the original training code saves it, buffers included."""
    state = {part: torch_state(model.params[part], part) for part in ("text_encoder", "unet", "vae")}
    unet = renamed(state["unet"], unet_places(model.configs["unet"]))
    vae = original_vae(state["vae"], model.configs["vae"])
    if second:
        text = {f"cond_stage_model.model.{name}": v for name, v in open_clip(state["text_encoder"]).items()}
    else:
        text = {f"cond_stage_model.transformer.{name}": v for name, v in state["text_encoder"].items()}
        positions = np.arange(77)[None]
        text["cond_stage_model.transformer.text_model.embeddings.position_ids"] = positions
    return {
        **{f"model.diffusion_model.{name}": values for name, values in unet.items()},
        **{f"first_stage_model.{name}": values for name, values in vae.items()},
        **text,
        "betas": np.zeros(1000, np.float32),
        "alphas_cumprod": np.zeros(1000, np.float32),
    }


def original_sdxl_state(states, configs):
    """An SDXL model's state dict as the original training code saves it, of PyTorch's states by component."""
    unet = renamed(states["unet"], unet_places(configs["unet"]))
    vae = original_vae(states["vae"], configs["vae"])
    embedders, second = "conditioner.embedders", open_clip(states["text_encoder_2"], layers=0)
    return {
        **{f"model.diffusion_model.{name}": values for name, values in unet.items()},
        **{f"first_stage_model.{name}": values for name, values in vae.items()},
        **{f"{embedders}.0.transformer.{name}": values for name, values in states["text_encoder"].items()},
        f"{embedders}.0.transformer.text_model.embeddings.position_ids": np.arange(77)[None],
        **{f"{embedders}.1.model.{name}": values for name, values in second.items()},
        "denoiser.sigmas": np.zeros(1000, np.float32),
    }


def assert_same_tensors(found, expected):
    """Compares tensors in files, by diffusers' names, with arrays."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        read = found[name].read().reshape(values.shape)  # old attention has 1x1 convolutions
        assert read.dtype == values.dtype and read.tobytes() == values.tobytes(), name


def averaged(state):
    """Names the UNet's tensors as the original code names their running average: without the dots."""
    prefix = "model.diffusion_model."
    return {
        f"model_ema.diffusion_model{name.removeprefix(prefix).replace('.', '')}": values
        for name, values in state.items()
        if name.startswith(prefix)
    } | {"model_ema.decay": np.float32(0.999), "model_ema.num_updates": np.array(7, np.int32)}


def header_of(state):
    """What a safetensors file of float16 tensors of these shapes, one behind the other, has for a header."""
    header, offset = {}, 0
    for name, values in state.items():
        end = offset + 2 * values.size
        header[name] = {"dtype": "F16", "shape": list(values.shape), "data_offsets": [offset, end]}
        offset = end
    return header


def write_header(path, header):
    """Writes a safetensors file whose numbers are a hole in the disk."""
    encoded = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + max(entry["data_offsets"][1] for entry in header.values()))
    return path


def save(path, state):
    """Writes a state dict as safetensors."""
    import safetensors.numpy

    safetensors.numpy.save_file({name: np.ascontiguousarray(values) for name, values in state.items()}, path)
    return path
