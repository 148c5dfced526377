"""Draws with diffusers' Flax pipelines; runs where diffusers 0.39 and transformers 4.57.6 are installed.

    python tests/support/draw_with_diffusers_flax.py FOLDER

It reads FOLDER/out, a pipeline of Stable Diffusion 1.x, 2.x or XL, and FOLDER/given.npz with `prompt_ids`
(`[1, 77]`, for SDXL `[1, 2, 77]`), `latents` and `negative_ids` (none: zeros, as SDXL has them), and writes
FOLDER/image.npy.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from diffusers import FlaxDDIMScheduler, FlaxStableDiffusionPipeline, FlaxStableDiffusionXLPipeline

folder = Path(sys.argv[1])
given = np.load(folder / "given.npz")
name = json.loads((folder / "out" / "model_index.json").read_text())["_class_name"]
kinds = {kind.__name__: kind for kind in (FlaxStableDiffusionPipeline, FlaxStableDiffusionXLPipeline)}
xl = kinds[name] is FlaxStableDiffusionXLPipeline
scheduler, state = FlaxDDIMScheduler.from_pretrained(str(folder / "out"), subfolder="scheduler")
options = {} if xl else {"safety_checker": None}
pipeline, params = kinds[name].from_pretrained(str(folder / "out"), **options)
pipeline.scheduler, params["scheduler"] = scheduler, state
prompt = "a photo of a <thing> <thing>_1 on a beach"
tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2) if xl else (pipeline.tokenizer,)
expected = given["prompt_ids"].reshape(len(tokenizers), 77).tolist()
for tokenizer, ids in zip(tokenizers, expected, strict=True):
    if tokenizer(prompt, padding="max_length", max_length=77).input_ids != ids:
        sys.exit(f"transformers 4.57.6 reads the prompt otherwise: {tokenizer.tokenize(prompt)}")
image = pipeline._generate(
    given["prompt_ids"],
    params,
    jax.random.key(0),
    20,
    32,
    32,
    7.5,
    latents=given["latents"],
    neg_prompt_ids=given.get("negative_ids"),
)
np.save(folder / "image.npy", np.asarray(image))
