"""How other programs read an embedding file: what their loaders do, told again in a few lines each.

Their packages cannot be installed beside this one; each function says which source it follows.
"""

import base64
import json
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# modules/safe.py of the Web UI before 1.7, which refuses archives with other names in them.
_ALLOWED_ENTRY = re.compile(r"^([^/]+)/((data/\d+)|version|(data\.pkl))$")


def named_in_the_docs(head):
    """Rows of the table in docs/sharing.md with this first head: form, suffix, and who reads it."""
    page = (Path(__file__).parents[2] / "docs" / "sharing.md").read_text(encoding="utf-8")
    table = page.partition(f"| {head} | suffixes | read by |\n|---|---|---|\n")[2].partition("\n\n")[0]
    for line in table.splitlines():
        forms, suffixes, readers = line.strip("|").split("|")
        for form in re.findall(r"`(\w+)`", forms):
            for suffix in re.findall(r"`(\.\w+)`", suffixes):
                yield form, suffix, re.split(r"[,;] ", readers.strip())


def _torch(path):
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def _only(values):
    values = list(values)
    assert len(values) == 1, "embedding file has multiple terms in it"
    return values[0]


def _tensor(tree):
    return np.array(tree["TORCHTENSOR"]) if "TORCHTENSOR" in tree else tree


def scrambling(count):
    """The numbers a Web UI's block of pixels is XORed with, from its generator `lcg`."""
    seed, made = 0, []
    for _ in range(count):
        seed = (1664525 * seed + 1013904223) % 2**32
        made.append(seed % 255)
    return np.array(made, np.uint8) & 0x0F


def webui_pixels(path):
    """extract_image_data_embed: cut off the black, split at black columns, unscramble, inflate."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    lit = (pixels > 0).all(axis=2)
    across, down = np.flatnonzero(lit.any(axis=0)), np.flatnonzero(lit.any(axis=1))
    low_bits = pixels[down[0] : down[-1] + 1, across[0] : across[-1] + 1] & 0x0F
    black = np.flatnonzero(low_bits.sum(axis=(0, 2), dtype=int) == 0)
    left, right = low_bits[:, : black.min()], low_bits[:, black.max() + 1 :]
    assert left.shape == right.shape
    left, right = (block ^ scrambling(block.size).reshape(block.shape) for block in (left, right))
    return json.loads(zlib.decompress(((right << 4) | left).flatten().tobytes()), object_hook=_tensor)


def webui_text(path):
    """embedding_from_b64 of the PNG's text."""
    return json.loads(base64.b64decode(Image.open(path).text["sd-ti-embedding"]), object_hook=_tensor)


def webui(path, *, before_1_7=True):
    """modules/textual_inversion/textual_inversion.py: load_from_file, create_embedding_from_data."""
    name = path.stem
    if path.suffix == ".png":
        tree = webui_text(path)
        name = tree.get("name", name)
    elif path.suffix == ".safetensors":
        tree = _safetensors(path)
    else:
        with zipfile.ZipFile(path) as archive:
            assert not before_1_7 or all(_ALLOWED_ENTRY.match(entry) for entry in archive.namelist())
        import torch

        # Its own unpickler lets torch.nn.ParameterDict pass, which weights_only does not.
        tree = torch.load(path, map_location="cpu", weights_only=False)
    if "string_to_param" in tree:
        if hasattr(tree["string_to_param"], "_parameters"):
            values = _only(tree["string_to_param"]._parameters.values())
            return name, values.detach().numpy()
        return name, np.asarray(_only(tree["string_to_param"].values()), np.float32)
    if "clip_g" in tree and "clip_l" in tree:
        return name, {key: np.asarray(value, np.float32) for key, value in tree.items()}
    rows = np.asarray(_only(tree.values()), np.float32)
    return name, rows[None] if rows.ndim == 1 else rows


def webui_sdxl(path):
    """The same with a model for SDXL, whose shape is the sum of both widths; Forge does so too."""
    _, found = webui(path)
    widths = [found["clip_g"].shape[-1], found["clip_l"].shape[-1]] if isinstance(found, dict) else []
    assert sum(widths) == 2048, "the embedding is skipped"
    return {"text_encoder": found["clip_l"], "text_encoder_2": found["clip_g"]}


def comfy(path, key="clip_l"):
    """comfy/sd1_clip.py: load_embed."""
    tree = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    if "string_to_param" in tree:
        return next(iter(tree["string_to_param"].values())).numpy()
    return (tree[key] if key in tree else next(iter(tree.values()))).numpy()


def comfy_sdxl(path):
    """The same by each of SDXL's text encoders, then process_tokens, which leaves other widths out."""
    found = {"text_encoder": comfy(path, "clip_l"), "text_encoder_2": comfy(path, "clip_g")}
    widths = {"text_encoder": 768, "text_encoder_2": 1280}
    return {name: rows for name, rows in found.items() if rows.shape[1] == widths[name]}


def kohya(path):
    """train_textual_inversion.py: load_weights."""
    tree = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    tree = tree.get("string_to_param", tree)
    return next(iter(tree.values())).numpy()


def kohya_sdxl(path):
    """sdxl_train_textual_inversion.py: load_weights, and what is done with both in train."""
    tree = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    first, second = tree.get("clip_l"), tree.get("clip_g")
    assert first is not None or second is not None
    assert len(first) == len(list(second))
    return {"text_encoder": first.numpy(), "text_encoder_2": second.numpy()}


def kohya_sdxl_images(path):
    """sdxl_gen_img.py, --textual_inversion_embeddings."""
    tree = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    return {"text_encoder": tree["clip_l"].numpy(), "text_encoder_2": tree["clip_g"].numpy()}


def invoke(path):
    """model_manager/configs/textual_inversion.py, then backend/textual_inversion.py: from_checkpoint."""
    tree = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    if "string_to_token" in tree:
        width = next(iter(tree["string_to_param"].values())).shape[-1]
    elif known := [key for key in ("emb_params", "clip_g") if key in tree]:
        width = tree[known[0]].shape[-1]
    else:
        width = next(iter(tree.values())).shape[0]
    assert width in (768, 1024, 1280), f"unrecognized token dimension {width}"
    if "string_to_param" in tree:
        return next(iter(tree["string_to_param"].values())).numpy()
    if "emb_params" in tree:
        return tree["emb_params"].numpy()
    if "clip_g" in tree and "clip_l" in tree:
        return tree["clip_l"].numpy(), tree["clip_g"].numpy()
    return next(iter(tree.values())).numpy()


def invoke_sdxl(path):
    """The same, then model_patcher.py: apply_ti, by the widths of SDXL's text encoders."""
    first, second = invoke(path)
    assert (first.shape[1], second.shape[1]) == (768, 1280)
    return {"text_encoder": first, "text_encoder_2": second}


def onetrainer_sdxl(path):
    """EmbeddingLoaderMixin.py, then modules/modelSetup/BaseStableDiffusionXLSetup.py."""
    try:
        tree = _torch(path)
    except Exception:
        tree = _safetensors(path)
    first = tree.get("clip_l_out", tree.get("clip_l", None))
    second = tree.get("clip_g_out", tree.get("clip_g", None))
    return {"text_encoder": first.detach().numpy(), "text_encoder_2": second.detach().numpy()}


def onetrainer_output(path):
    """modules/modelSetup/BaseStableDiffusionSetup.py, of what is called an output embedding there."""
    return _safetensors(path)["emp_params_out"].numpy()


def onetrainer(path):
    """modules/modelLoader/stableDiffusion/StableDiffusionEmbeddingLoader.py: its own keys alone."""
    return _safetensors(path)["emp_params"].numpy()


def diffusers(path, token=None):
    """diffusers' own loader, up to the tokens; returns the word and its vectors."""
    from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin

    class Tokenizer:
        def get_vocab(self):
            return {}

    tree = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    (word,), (rows,) = TextualInversionLoaderMixin._retrieve_tokens_and_embeddings(
        [token], [tree], Tokenizer()
    )
    return word, rows.detach().numpy()


def rinongal(path):
    """ldm/modules/embedding_manager.py: load, then forward and embedding_parameters."""
    import torch

    class Manager(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.string_to_token_dict = {}
            self.string_to_param_dict = torch.nn.ParameterDict()

    manager, file = Manager(), torch.load(path, map_location="cpu", weights_only=False)
    manager.string_to_token_dict = file["string_to_token"]
    # torch.nn.Module refuses anything but a module here.
    manager.string_to_param_dict = file["string_to_param"]
    ((word, token),) = manager.string_to_token_dict.items()
    assert token.to("cpu") == 265 and token.dtype == torch.int64
    (learned,) = manager.string_to_param_dict.parameters()
    assert learned.requires_grad and learned is manager.string_to_param_dict[word]
    return word, learned.detach().numpy()
