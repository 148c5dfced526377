"""Tensors in a component's file that no image depends on; PyTorch's loaders pass over them as well.

One list for folders and single files, in the names that diffusers and transformers give.
"""

import re

_IGNORED = {
    # Beside the text model: what compares its answer with an image, and tables that count 0, 1, 2, ...
    "text_encoder": re.compile(
        r"(text_model\.)*(text_projection(\.(weight|bias|kernel))?|logit_scale|logit_bias|attn_mask"
        r"|(.+\.)?position_ids|(vision_model|visual)\..+|visual_projection\..+)"
    ),
    # The second encoder of SDXL needs its projection.
    "text_encoder_2": re.compile(
        r"(text_model\.)*(logit_scale|logit_bias|attn_mask|(.+\.)?position_ids"
        r"|(vision_model|visual)\..+|visual_projection\..+)"
    ),
    # What the autoencoder was trained against, and running means of its weights.
    "vae": re.compile(r"(loss|model_ema)\..+"),
}


def is_ignored(name: str, component: str) -> bool:
    """Tell whether a tensor of a component is none of the component's parameters.

    Args:
      name: with dots, or slashes as in Flax files.
      component: whose file it lies in.
    """
    pattern = _IGNORED.get(component)
    return pattern is not None and pattern.fullmatch(name.replace("/", ".")) is not None
