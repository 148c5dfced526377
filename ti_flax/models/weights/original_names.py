"""Names of the original Stable Diffusion code (CompVis' and Stability's `ldm`) -> diffusers' names.

The original UNet is one list of blocks on the way down and one on the way up; diffusers groups them by
level. Which is which follows from what a block holds: a level ends where the image changes its size.
A name that no rule knows stays as it is, and is for the caller to account for.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from ti_flax.models.weights.tensor_files import StoredTensor

# OpenCLIP's ViT-H/14 has so many layers, and Stable Diffusion 2.x takes the output of the last but one.
_OPEN_CLIP_LAYERS = 24

_BLOCK = re.compile(r"((?:in|out)put_blocks)\.(\d+)\.(\d+)\.((\w+).*)")
_BLOCK_KINDS = {
    **dict.fromkeys(("in_layers", "emb_layers", "out_layers", "skip_connection"), "resnets"),
    **dict.fromkeys(("norm", "proj_in", "transformer_blocks", "proj_out"), "attentions"),
    "op": "downsamplers",
    "conv": "upsamplers",
}
_UNET_PLACES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    # SDXL's pooled text and sizes.
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}
_UNET_PLACE = re.compile(
    r"((?:time_embed|label_emb\.0|middle_block|out|(?:in|out)put_blocks\.\d+)\.\d+)\.(.+)"
)
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_MODULES = {
    "nin_shortcut": "conv_shortcut",
    "norm_out": "conv_norm_out",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_TEXT_MODULES = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_TEXT_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)(weight|bias)")
_TEXT_LAYER_MODULES = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}
# The words in a name of averaged weights, which are written without the dots between them. The number of a
# block has one or two digits, that of a part of it one.
_AVERAGED_WORDS = re.compile(
    r"(?<=put_blocks)\d+(?=\d)|\d|input_blocks|output_blocks|middle_block|transformer_blocks|time_embed|label_emb"
    r"|in_layers|out_layers|emb_layers|skip_connection|proj_in|proj_out|to_out|to_[qkv]"
    r"|(?:attn|norm)\d|norm|ff|net|proj|op|out|conv|weight|bias"
)


def unet_names(names: Collection[str]) -> dict[str, str]:
    """Return the diffusers name of each of a UNet's parameters (without `model.diffusion_model.`)."""
    places = _UNET_PLACES | dict(_block_places(names))
    renamed = {}
    for name in names:
        match = _UNET_PLACE.fullmatch(name)
        renamed[name] = f"{places[match[1]]}.{_inside(match[2])}" if match and match[1] in places else name
    return renamed


def _block_places(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Count levels and layers along the lists: `input_blocks.4.1` is `down_blocks.1.attentions.0`."""
    kinds = {}
    for name in names:
        if (match := _BLOCK.fullmatch(name)) and match[5] in _BLOCK_KINDS:
            kinds[match[1], int(match[2]), int(match[3])] = _BLOCK_KINDS[match[5]]
    for side, levels in (("input_blocks", "down_blocks"), ("output_blocks", "up_blocks")):
        level = layers = 0
        for (_, block, part), kind in sorted(item for item in kinds.items() if item[0][0] == side):
            layers += kind == "resnets"
            numbered = max(layers - 1, 0) if kind in ("resnets", "attentions") else 0
            yield f"{side}.{block}.{part}", f"{levels}.{level}.{kind}.{numbered}"
            if kind in ("downsamplers", "upsamplers"):
                level, layers = level + 1, 0


def _inside(name: str) -> str:
    """Rename a parameter within its block; those of transformers have diffusers' names already."""
    module, _, leaf = name.rpartition(".")
    return f"{_RESNET.get(module, 'conv' if module == 'op' else module)}.{leaf}".lstrip(".")


def dotted(name: str) -> str:
    """Put the dots back into an averaged parameter's name, as in `input_blocks.0.0.weight`."""
    words = _AVERAGED_WORDS.findall(name)
    return ".".join(words) if "".join(words) == name else name


def vae_names(names: Collection[str]) -> dict[str, str]:
    """Return the diffusers name of each of an autoencoder's parameters (without `first_stage_model.`)."""
    levels = {int(match[1]) for name in names if (match := re.match(r"decoder\.up\.(\d+)\.", name))}
    last = max(levels, default=0)
    return {name: _vae_name(name, last) for name in names}


def _vae_name(name: str, last: int) -> str:
    name = re.sub(r"\.mid\.block_(\d)\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}.", name)
    if match := re.fullmatch(r"(\w+)\.mid\.attn_1\.(\w+)\.(weight|bias)", name):
        module = _VAE_ATTENTION.get(match[2], match[2])
        return f"{match[1]}.mid_block.attentions.0.{module}.{match[3]}"
    name = re.sub(r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1.", name)
    # The original numbers the decoder's levels from the finest, diffusers in the order they are run.
    name = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up_blocks.{last - int(found[1])}.", name)
    name = re.sub(r"(blocks\.\d+)\.block\.(\d+)\.", r"\1.resnets.\2.", name)
    name = re.sub(r"(blocks\.\d+)\.(down|up)sample\.", r"\1.\2samplers.0.", name)
    return ".".join(_VAE_MODULES.get(module, module) for module in name.split("."))


def clip_names(names: Collection[str]) -> dict[str, str]:
    """Return the names of CLIP's parameters (without the encoder's prefix), `text_model.` included."""
    return {name: name if name.startswith("text_model.") else f"text_model.{name}" for name in names}


def open_clip_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors of Stable Diffusion 2.x's text encoder (without `cond_stage_model.model.`).

    The last layer of the whole OpenCLIP, which 2.x does not use, is left out.
    """
    layers = {int(match[1]) for name in tensors if (match := _TEXT_LAYER.fullmatch(name))}
    unused = f"transformer.resblocks.{_OPEN_CLIP_LAYERS - 1}."
    if len(layers) == _OPEN_CLIP_LAYERS:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)}
    return _like_clip(tensors)


def projected_open_clip_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors of SDXL's second text encoder (without `conditioner.embedders.1.model.`).

    What the pooled text is multiplied by lies `[width, projection]` in the file; some programs write it as a
    linear layer's weight.
    """
    own = "text_projection"
    projection = {f"{own}.weight": tensors[own].transposed()} if own in tensors else {}
    projection |= {name: tensor for name, tensor in tensors.items() if name == f"{own}.weight"}
    rest = {name: tensor for name, tensor in tensors.items() if name not in (own, f"{own}.weight")}
    return _like_clip(rest) | projection


def _like_clip(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Give OpenCLIP's text tensors the names that CLIP's have.

    Its query, key and value are one matrix, which is cut.
    """
    renamed = {}
    for name, tensor in tensors.items():
        match = _TEXT_LAYER.fullmatch(name)
        if match is None:
            renamed[f"text_model.{_TEXT_MODULES.get(name, name)}"] = tensor
        else:
            place = f"text_model.encoder.layers.{match[1]}"
            renamed |= {f"{place}.{inner}": part for inner, part in _layer_tensors(match, tensor)}
    return renamed


def _layer_tensors(match: re.Match, tensor: StoredTensor) -> Iterator[tuple[str, StoredTensor]]:
    module, leaf = match[2], match[3]
    if module == "attn.in_proj_":
        width = tensor.shape[0] // 3
        for index, part in enumerate(("q_proj", "k_proj", "v_proj")):
            yield f"self_attn.{part}.{leaf}", tensor.rows(index * width, (index + 1) * width)
    else:
        yield f"{_TEXT_LAYER_MODULES.get(module, module)}{leaf}", tensor
