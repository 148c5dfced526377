"""The demo's base model in its tiny size, as its own program trains it within seconds."""

import fcntl
from pathlib import Path

import train_base


def tiny_base(place: Path) -> Path:
    """Returns the folder of a model that takes all words of the demo and draws noise, 64 pixels wide.

    Args:
      place: a folder where processes that want the model find it; the first of them trains it.
    """
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "model" / "README.md").exists():  # which is written last
            flags = {"size": "tiny", "output": place / "model", "work": place / "work"}
            flags |= {"scenes": 8, "captions": 1, "autoencoder_steps": 3, "denoiser_steps": 3}
            flags |= {"autoencoder_batch_size": 2, "batch_size": 2, "samples": 8}
            train_base.main([f"--{name}={value}" for name, value in flags.items()])
    return place / "model"
