"""The images and captions that the base model is trained on, made once and held in memory."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from captions import caption
from tqdm import tqdm
from world import random_scene, render_batch

from ti_flax.models.stable_diffusion import FlaxStableDiffusion

_RENDERED_AT_ONCE = 500
_ENCODED_AT_ONCE = 50


def render_scenes(count: int, *, seed: int) -> tuple[list[Any], np.ndarray]:
    """Draws random scenes and renders them: `[scenes, 64, 64, 3]` uint8."""
    rng = np.random.default_rng([seed, 0])
    scenes = [random_scene(rng) for _ in range(count)]
    starts = tqdm(range(0, count, _RENDERED_AT_ONCE), desc="rendering", unit=f"x{_RENDERED_AT_ONCE}")
    return scenes, np.concatenate([render_batch(scenes[i : i + _RENDERED_AT_ONCE]) for i in starts])


def write_captions(scenes: list[Any], tokenizer: Any, captions: int, *, seed: int) -> np.ndarray:
    """Writes captions for every scene: token ids `[scenes, captions, tokens]` int32."""
    rng = np.random.default_rng([seed, 1])
    texts = [caption(scene, rng) for scene in tqdm(scenes, desc="writing captions") for _ in range(captions)]
    length = tokenizer.model_max_length
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length)
    return np.asarray(encoded["input_ids"], np.int32).reshape(len(scenes), captions, length)


def encode_scenes(model: FlaxStableDiffusion, images: np.ndarray, cache: Path) -> np.ndarray:
    """Encodes images with the trained autoencoder: posterior means `[scenes, height, width, channels]`."""
    if cache.exists():
        return np.load(cache)
    channels = model.vae.config.latent_channels

    @jax.jit
    def encode(params, batch):
        moments = model.vae.apply({"params": params}, batch / 127.5 - 1.0, method=model.vae.encode)
        return jnp.asarray(moments)[..., :channels]

    params = jax.device_put(model.params["vae"])
    padded = np.concatenate([images, images[: -len(images) % _ENCODED_AT_ONCE]])
    starts = tqdm(range(0, len(padded), _ENCODED_AT_ONCE), desc="encoding", unit=f"x{_ENCODED_AT_ONCE}")
    batches = [
        np.asarray(encode(params, padded[i : i + _ENCODED_AT_ONCE].astype(np.float32))) for i in starts
    ]
    latents = np.concatenate(batches)[: len(images)]
    partial = cache.with_suffix(".partial.npy")
    np.save(partial, latents)
    partial.replace(cache)
    return latents
