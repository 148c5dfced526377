"""Whole model folders and images for the tests that run more than one module."""

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
from clip_tokenizer import END, START, write_tokenizer
from PIL import Image
from tiny_models import LEAST, SMALL

from ti_flax.models.stable_diffusion import random_stable_diffusion, save_stable_diffusion

WORDS = "cat dog toy car house red blue table"


@functools.cache
def _made(family, wide, least):
    folder = Path(tempfile.mkdtemp(prefix="ti_flax-tiny-"))
    vocabulary = write_tokenizer(folder / "tokenizer", words=WORDS, pad_token="!" if family == "sd2" else END)
    configs = dict((LEAST if least else SMALL)[family])
    if family == "sdxl":
        write_tokenizer(folder / "tokenizer_2", words=WORDS, pad_token="!")
    ids = {"bos_token_id": vocabulary[START], "eos_token_id": vocabulary[END], "pad_token_id": 0}
    for part in [each for each in configs if each.startswith("text_encoder")]:
        configs[part] = configs[part] | {"vocab_size": len(vocabulary)} | ids
    if wide:  # the UNet of diffusers 0.39 in Flax has 32 groups, whatever its config says
        sides = len(configs["unet"]["block_out_channels"])
        configs["unet"] = configs["unet"] | {"block_out_channels": [32, 64][:sides], "norm_num_groups": 32}
        configs["unet"] |= {"attention_head_dim": [2, 4][:sides]} if family == "sdxl" else {}
    model = random_stable_diffusion(configs, seed=0)
    save_stable_diffusion(model, folder, layout="torch", eos_token_id=vocabulary[END])
    return folder


def write_folder(folder, family="sd1", *, wide=False, least=True):
    """Writes a float32 model folder in PyTorch's layout, tokenizer included, and returns it.

    Its UNet has one block on each side (`least`), else a block of each kind.
    """
    shutil.copytree(_made(family, wide, least), folder)
    return folder


def write_images(folder, count=3):
    """Writes images that differ from one another and from their mirror images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(folder / f"{i}.png")
    return folder
