"""The demo's base model in its tiny size, as its own program trains it within seconds."""

import functools
import tempfile
from pathlib import Path

import train_base


@functools.cache
def tiny_base():
    """Returns the folder of a model that takes all words of the demo and draws noise, 64 pixels wide."""
    place = Path(tempfile.mkdtemp(prefix="ti_flax-tiny-base-"))
    flags = {"size": "tiny", "output": place / "model", "work": place / "work"}
    flags |= {"scenes": 8, "captions": 1, "autoencoder_steps": 3, "denoiser_steps": 3}
    flags |= {"autoencoder_batch_size": 2, "batch_size": 2, "samples": 8}
    train_base.main([f"--{name}={value}" for name, value in flags.items()])
    return place / "model"
