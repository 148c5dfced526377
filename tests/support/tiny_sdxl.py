"""A tiny SDXL model with both its tokenizers, and the special tokens of their vocabulary."""

import functools
import shutil
import tempfile
from pathlib import Path

from clip_tokenizer import END, START, write_tokenizer
from tiny_folder import WORDS
from tiny_models import SMALL_SDXL

from ti_flax.models.prompt_encoding import SpecialTokens
from ti_flax.models.stable_diffusion import random_stable_diffusion, save_stable_diffusion


def sdxl_configs(vocabulary):
    """The tiny configs with a tokenizer's vocabulary; ends of text are 2, as Hub copies of SDXL have it."""
    encoders = ("text_encoder", "text_encoder_2")
    ids = {"bos_token_id": vocabulary[START], "eos_token_id": 2, "pad_token_id": 0}
    return SMALL_SDXL | {name: SMALL_SDXL[name] | ids | {"vocab_size": len(vocabulary)} for name in encoders}


@functools.cache
def _made():
    folder = Path(tempfile.mkdtemp(prefix="ti_flax-sdxl-"))
    vocabulary = write_tokenizer(folder / "tokenizer", words=WORDS, pad_token=END)
    write_tokenizer(folder / "tokenizer_2", words=WORDS, pad_token="!")
    model = random_stable_diffusion(sdxl_configs(vocabulary), seed=0)
    save_stable_diffusion(model, folder, eos_token_id=vocabulary[END])
    return folder, SpecialTokens(vocabulary[END], vocabulary["!"])


def write_sdxl_folder(folder):
    """Writes a float32 SDXL folder in PyTorch's layout, tokenizers included; returns its special tokens."""
    made, special = _made()
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return special
