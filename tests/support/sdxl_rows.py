"""Rows of a word for both text encoders of SDXL, and files that other programs make of such."""

import numpy as np

FIRST, SECOND = "text_encoder", "text_encoder_2"


def sdxl_rows(vectors=3, widths=(768, 1280), seed=0):
    """`[vectors, width]` float32 by text encoder."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(vectors, width)).astype(np.float32)
        for name, width in zip((FIRST, SECOND), widths, strict=True)
    }


def same(found, expected):
    """Whether two trees have the same text encoders in the same order, and the same bits."""
    return [*found] == [*expected] and all(
        found[name].dtype == np.float32
        and found[name].tobytes() == expected[name].astype(np.float32).tobytes()
        for name in expected
    )


def write_safetensors(path, metadata=None, **tensors):
    """A file as safetensors' own library writes it; returns its path."""
    from safetensors.numpy import save_file

    save_file(tensors, path, metadata=metadata)
    return path


def write_pair(path, token, rows, second_token=None):
    """Two files as diffusers' textual_inversion_sdxl.py writes them; returns the second's path."""
    import torch
    from safetensors.torch import save_file

    second = path.with_name(path.name.replace("learned_embeds", "learned_embeds_2"))
    for place, name, word in ((path, FIRST, token), (second, SECOND, second_token or token)):
        tree = {word: torch.tensor(rows[name])}
        if path.suffix == ".bin":
            torch.save(tree, place)
        else:
            save_file(tree, place, metadata={"format": "pt"})
    return second
