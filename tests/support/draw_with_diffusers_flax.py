"""Draws with FlaxStableDiffusionPipeline; runs where diffusers 0.39 and transformers 4.57.6 are installed.

    python tests/support/draw_with_diffusers_flax.py FOLDER

It reads FOLDER/out and FOLDER/given.npz, and writes FOLDER/picture.npy.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from diffusers import FlaxDDIMScheduler, FlaxStableDiffusionPipeline

folder = Path(sys.argv[1])
given = np.load(folder / "given.npz")
pipeline, params = FlaxStableDiffusionPipeline.from_pretrained(str(folder / "out"), safety_checker=None)
scheduler, params["scheduler"] = FlaxDDIMScheduler.from_pretrained(str(folder / "out"), subfolder="scheduler")
pipeline.scheduler = scheduler
words = pipeline.tokenizer.tokenize("a photo of a <thing> <thing>_1")
ids = pipeline.tokenizer(
    "a photo of a <thing> <thing>_1 on a beach", padding="max_length", max_length=77
).input_ids
if ids != given["prompt_ids"][0].tolist():
    sys.exit(f"transformers 4.57.6 reads the prompt otherwise: {words}")
image = pipeline._generate(
    given["prompt_ids"],
    params,
    jax.random.key(0),
    20,
    32,
    32,
    7.5,
    latents=given["latents"],
    neg_prompt_ids=given["negative_ids"],
)
np.save(folder / "image.npy", np.asarray(image))
