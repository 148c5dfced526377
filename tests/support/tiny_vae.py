"""A tiny autoencoder, random images, and encoding that is counted."""

import jax
import jax.numpy as jnp
import numpy as np

from ti_flax.data.latent_cache import LatentCache
from ti_flax.data.latents import Encoder, Pictures, encode_posteriors
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL

CONFIG = AutoencoderKLConfig(
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(8, 8),
    norm_num_groups=4,
)
VAE = FlaxAutoencoderKL(CONFIG)
# Bytes of the entry of a picture of 16 x 16 pixels.
ENTRY = 32 + 8 * 8 * 8 * 4


def random_params(vae=VAE):
    shapes = jax.eval_shape(lambda: vae.init(jax.random.key(0), jnp.zeros((1, 2, 2, 3))))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)


def random_pixels(count=3, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)


class Counted:
    """Stands in for tqdm, and says how many pictures were encoded each time."""

    def __init__(self):
        self.pictures = []

    def __call__(self, pictures):
        self.pictures.append(len(pictures))
        yield from pictures


def never(pictures):
    raise AssertionError("encoded although cached")


def encode(params, pixels, *, folder=None, limit=2**30, vae=VAE, dtype=jnp.float32, **options):
    """The posteriors of images, with a cache in a folder, if any; `sides` and `names` are the pictures'."""
    described = {name: options.pop(name) for name in ("sides", "names") if name in options}
    cache = None if folder is None else LatentCache(folder, limit)
    pictures = Pictures(pixels, **described)
    return encode_posteriors(Encoder(vae, params, dtype), pictures, cache=cache, **options)


def entries(folder):
    """The files of all entries, by name."""
    return sorted((folder / "latents").glob("??/*"))
