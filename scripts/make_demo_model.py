"""Make assets/demo-model: a tiny Stable Diffusion 1.x folder with random weights and a real CLIP tokenizer.

    python scripts/make_demo_model.py [folder]

The same files come out every time. No download, no PyTorch.
"""

import collections
import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ti_flax.models.stable_diffusion import random_stable_diffusion, save_stable_diffusion  # noqa: E402
from ti_flax.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES  # noqa: E402

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 77

# Every word here, and every word of the templates, is one token; anything else falls into pieces.
WORDS = """
a an and are as at be by for from her his in into is it its my near no not of off on one only or our
out over the their this to two three four five six under up very we with your above across behind
below beside between animal bear bee bird bunny butterfly cat chicken cow deer dog dolphin duck
elephant fish fox frog giraffe goat goose hamster hen horse insect kitten lion monkey mouse owl
panda parrot penguin pig pigeon puppy rabbit shark sheep snake spider squirrel swan tiger turtle
whale wolf zebra ear eye face feather fur head nose paw tail whisker wing black blue brown cyan dark
gold golden gray green light magenta orange pale pink purple red silver teal turquoise violet white
yellow arch ball bar block box circle cone cross cube curve cylinder diamond disk dot grid heart
hexagon line oval pentagon pyramid rectangle ring shape sphere spiral spot square star stripe
striped dotted triangle wave apple banana bread cake carrot cheese cherry coffee cookie egg fruit
grape lemon milk pear pizza plum salad soup strawberry tea tomato backpack bag basket bed bench
bicycle blanket boat book boot bottle bowl bridge bus button camera can candle car carpet chair
clock coat couch cup curtain desk doll door dress drum figure fence flag flower fork furniture glass
glasses guitar hammer hat house jar jewel key keyboard kite knife ladder lamp leaf letter map mask
mirror mug necklace object paper pen pencil phone piano pillow plane plant plate pot ribbon robot
rock rocket rope scarf shelf ship shirt shoe sign skirt sock sofa spoon statue stone suitcase sword
table teapot toy train tree truck umbrella vase violin wagon wall watch wheel window beach bedroom
castle cave city cloud corner desert farm field floor forest garden grass hill home island kitchen
lake land market moon mountain night ocean park path planet pond rain river road room sand school
sea shore sky snow space stage station street studio sun sunset town valley village water wind
winter summer spring autumn art artist baby boy child family girl hand king knight man people person
portrait princess queen wizard woman abstract antique beautiful big bright broken broad calm cartoon
ceramic clean clear close cold colorful cool cropped cute deep dirty dry empty fancy fast flat
fluffy fresh funny fuzzy good great happy hard heavy high hot huge large little long loud low metal
modern narrow new nice old open plain plastic pretty quiet rainy realistic rough round rustic sad
sharp shiny short simple sleepy slow small smooth soft strong sunny sweet tall tiny traditional
vintage warm weird wet wide wild wooden wool young background charcoal drawing engraving fashion
graffiti illustration image ink landscape mosaic oil origami painting pastel pattern photo
photograph photography picture pixel poster rendering rendition scene sculpture sketch style texture
tile view wallpaper watercolor closeup detail focus lighting quality shadow eating flying holding
jumping lying playing riding running sitting sleeping standing swimming walking wearing watching
"""

TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05,
    "projection_dim": 64,
    # Or transformers 5 would compute in the float16 of the file, and diffusers the UNet in float32.
    "dtype": "float32",
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [24, 40],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 16, 32],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}
# scheduler/scheduler_config.json of Stable Diffusion 1.5.
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


def byte_alphabet() -> list[str]:
    """Return the 256 characters that stand for bytes, in CLIP's order: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = len(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]


def learn_merges(text: str) -> list[str]:
    """Return byte-pair merges, "left right" in order of use, that make each word of an ASCII text one token.

    Written out (arXiv:1508.07909, algorithm 1): the trainer of `tokenizers` breaks ties by chance.
    """
    counts = collections.Counter(re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower()))
    words = {word: (*word[:-1], f"{word[-1]}</w>") for word in counts}
    merges = []
    while words := {word: pieces for word, pieces in words.items() if len(pieces) > 1}:
        pairs = collections.Counter()
        for word, pieces in words.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += counts[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(" ".join(best))
        words = {word: merged(pieces, best) for word, pieces in words.items()}
    return merges


def merged(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Return the pieces of a word with every occurrence of a pair made one piece, from the left."""
    result, rest = [], list(pieces)
    while rest:
        width = 2 if tuple(rest[:2]) == pair else 1
        result.append("".join(rest[:width]))
        del rest[:width]
    return tuple(result)


def write_tokenizer(
    folder: Path, *, words: str = WORDS, pad_token: str = END, length: int = TOKENS
) -> dict[str, int]:
    """Write the files of a `CLIPTokenizer` and return its vocabulary.

    Laid out as CLIP's: bytes, bytes that end a word, merges, the two special tokens.

    Args:
      folder: made where it does not exist.
      words: text whose words become one token each, besides those of the templates.
      pad_token: the end token in Stable Diffusion 1.x, "!" in 2.x.
      length: tokens of a prompt.
    """
    merges = learn_merges("\n".join([words, *OBJECT_TEMPLATES, *STYLE_TEMPLATES]).replace("{}", ""))
    alphabet = byte_alphabet()
    tokens = alphabet + [f"{character}</w>" for character in alphabet]
    tokens += [merge.replace(" ", "") for merge in merges]
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    special = {"bos_token": START, "eos_token": END, "unk_token": END}
    special = {name: _special_token(token) for name, token in special.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    write_json(folder / "special_tokens_map.json", special | {"pad_token": pad_token})
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    typed = {name: {"__type": "AddedToken"} | token for name, token in special.items()}
    write_json(folder / "tokenizer_config.json", config | typed | {"pad_token": pad_token})
    return vocabulary


def _special_token(content: str) -> dict[str, object]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def write_json(path: Path, content: dict):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_model(folder: Path, *, seed: int = 0):
    """Write the whole model folder, weights in float16."""
    vocabulary = write_tokenizer(folder / "tokenizer")
    ids = {
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    text_encoder = TEXT_ENCODER | {"vocab_size": len(vocabulary)} | ids
    configs = {"text_encoder": text_encoder, "unet": UNET, "vae": VAE, "scheduler": SCHEDULER}
    model = random_stable_diffusion(configs, seed=seed)
    half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), model.params)
    save_stable_diffusion(dataclasses.replace(model, params=half), folder, layout="torch")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "assets" / "demo-model"
    write_model(target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB")
