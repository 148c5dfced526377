"""Latent posteriors of the training images: computed once, kept on disk, so that the VAE can be dropped."""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ti_flax.data.images.load import pixels_hash
from ti_flax.errors import ConfigError, DataError, in_short
from ti_flax.files.atomic import atomic_write
from ti_flax.files.regular import open_regular
from ti_flax.models.vae import FlaxAutoencoderKL

# Part of every cache key: to be raised when the same inputs are to give other moments.
_CACHE_VERSION = "posteriors 1"
# The only array of a file, and bytes that a file may have beside its numbers.
_MEMBER, _ROOM = "posteriors.npy", 2**12
# What opening, unzipping and reading a damaged file raises.
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)

_log = logging.getLogger(__name__)


def split_moments(moments):
    """Split `[..., 2 * latent_channels]` into mean and log-variance, each `[..., latent_channels]`."""
    latent_channels = moments.shape[-1] // 2
    return moments[..., :latent_channels], moments[..., latent_channels:]


def encode_posteriors(
    vae: FlaxAutoencoderKL,
    params: Any,
    pixels: np.ndarray,
    *,
    dtype: DTypeLike,
    batch_size: int = 1,
    cache_dir: str | Path | None = None,
    progress: Callable[[Sequence], Iterable] | None = None,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Encode every image and its mirror image (a mirrored latent is not the latent of a mirrored image).

    Args:
      vae: the autoencoder; its own dtype gives way to `dtype`.
      params: its parameters, used here alone: the caller may let go of them afterwards.
      pixels: `[images, height, width, 3]` uint8.
      dtype: dtype of the computation; the result is float32 in any case.
      batch_size: images in one call of the encoder; the last is filled up, for one compilation.
      cache_dir: folder the result is kept in and taken from; None keeps nothing.
      progress: wraps the sequence of batches, as `tqdm` does; not called when all comes from the cache.
      names: file names of the images, for error messages.

    Returns:
      `[images, 2, height, width, 2 * latent_channels]` float32: mean and log-variance, before the scaling
      factor; axis 1 is image, mirror image.

    Raises:
      ConfigError: a side is no multiple of the autoencoder's downsampling.
      DataError: the encoder overflowed.
    """
    shape = _posterior_shape(vae, pixels)
    path = None
    if cache_dir is not None:
        path = Path(os.path.expanduser(cache_dir)) / f"{_cache_key(vae, params, pixels, dtype)}.npz"
        cached = _read(path, shape)
        if cached is not None:
            return cached
    moments = np.concatenate(list(_encoded_batches(vae, params, pixels, dtype, batch_size, progress)))
    posteriors = moments[: 2 * len(pixels)].reshape(shape)
    _require_finite(posteriors, names, dtype)
    if path is not None:
        _write(path, posteriors)
    return posteriors


def _posterior_shape(vae: FlaxAutoencoderKL, pixels: np.ndarray) -> tuple[int, ...]:
    images, height, width, _ = pixels.shape
    factor = vae.config.downsampling
    if height % factor or width % factor:
        wrong = height if height % factor else width
        nearest = max(factor, round(wrong / factor) * factor)
        raise ConfigError(
            "resolution" if height == width else "bucket_reso_steps",
            expected=f"a multiple of {factor}, the downsampling of this model's VAE",
            found=f"{height}" if height == width else f"a side of {wrong} pixels",
            remedy=f"The nearest is {nearest}." if height == width else f"Use {factor}, or a multiple of it.",
        )
    return images, 2, height // factor, width // factor, 2 * vae.config.latent_channels


def _encoded_batches(vae, params, pixels, dtype, batch_size, progress) -> Iterator[np.ndarray]:
    """Yield `[batch_size, h, w, 2 * latent_channels]` float32 of image, mirror, image, mirror..."""
    vae = vae.clone(dtype=dtype)

    @jax.jit
    def encode(params, batch):
        scaled = batch.astype(jnp.float32) / 127.5 - 1.0
        moments = vae.apply({"params": params}, scaled.astype(dtype), method="encode")
        return moments.astype(jnp.float32)

    # Once, and not with every batch; gone when this generator is.
    params = jax.device_put(params)
    starts = range(0, 2 * len(pixels), batch_size)
    for start in starts if progress is None else progress(starts):
        batch = [_image_or_mirror(pixels, start + offset) for offset in range(batch_size)]
        yield np.asarray(encode(params, np.stack(batch)))


def _image_or_mirror(pixels: np.ndarray, index: int) -> np.ndarray:
    """Return image 0, its mirror image, image 1, ...; beyond the end the last again, to fill a batch."""
    image = pixels[min(index // 2, len(pixels) - 1)]
    return image[:, ::-1] if index % 2 else image


def _require_finite(posteriors: np.ndarray, names: Sequence[str], dtype: DTypeLike):
    broken = np.flatnonzero(~np.isfinite(posteriors).all(axis=(1, 2, 3, 4)))
    if broken.size:
        first = int(broken[0])
        raise DataError(
            names[first] if names else f"image {first + 1}",
            expected="finite latents",
            found=f"overflow in the VAE computed in {jnp.dtype(dtype).name} ({broken.size} images)",
            remedy="Use float32 for the VAE; if it is, the VAE's weights are damaged.",
        )


def _cache_key(vae: FlaxAutoencoderKL, params: Any, pixels: np.ndarray, dtype: DTypeLike) -> str:
    config = json.dumps(dataclasses.asdict(vae.config), sort_keys=True)
    parts = (_CACHE_VERSION, pixels_hash(pixels), config, jnp.dtype(dtype).name, params_hash(params))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def params_hash(params: Any) -> str:
    """Return the SHA-256, in hexadecimal, of paths, dtypes, shapes and values of a tree of arrays.

    One leaf at a time, and those that lie in host memory are not copied. Independent of the order of keys.
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    for path, leaf in sorted(leaves, key=lambda pair: jax.tree_util.keystr(pair[0])):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype.name} {array.shape}\n".encode())
        # As bytes: bfloat16 does not know the buffer protocol.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the cached posteriors, or None where there are none or (with a warning) none to be trusted.

    What is damaged is removed. Made on purpose, other posteriors of the right shape are taken for the right
    ones: whoever can write to the folder decides what is learned (`ti_flax.files.cache`).
    """
    try:
        with open_regular(path) as file:
            posteriors = _posteriors(file, shape)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or in_short(error)
        _log.warning("%s is damaged (%s) and is computed again.", path, reason)
        with contextlib.suppress(OSError):  # a folder of the name stays, and nothing is cached
            path.unlink()
        return None
    return posteriors


def _posteriors(file: BinaryIO, shape: tuple[int, ...]) -> np.ndarray:
    """Read an array of a known shape, and nothing that is larger than it has to be.

    Raises:
      ValueError: it is another.
    """
    size, most = math.prod(shape) * np.dtype(np.float32).itemsize, os.fstat(file.fileno()).st_size
    if most > size + _ROOM:
        raise ValueError(f"{most} bytes, of which {size} should be numbers")
    with zipfile.ZipFile(file) as archive:
        if archive.namelist() != [_MEMBER]:
            raise ValueError("other arrays")
        if archive.getinfo(_MEMBER).file_size > size + _ROOM:
            raise ValueError("an array that unfolds")
        with archive.open(_MEMBER) as member:
            content = member.read()  # to the end, where its checksum is verified
    header = io.BytesIO(content)
    version = np.lib.format.read_magic(header)
    if version != (1, 0):
        raise ValueError(f"an array of format {version}")
    found, by_column, dtype = np.lib.format.read_array_header_1_0(header)
    if found != shape or by_column or dtype != np.float32 or len(content) - header.tell() != size:
        raise ValueError(f"an array of shape {found} in {str(dtype)[:80]}")
    posteriors = np.frombuffer(bytearray(content[header.tell() :]), np.float32).reshape(shape)
    if not np.isfinite(posteriors).all():
        raise ValueError("numbers that are not finite")
    return posteriors


def _write(path: Path, posteriors: np.ndarray):
    """Keep the posteriors, if they can be."""
    try:
        with atomic_write(path) as file:
            np.savez(file, posteriors=posteriors)
    except OSError as error:
        _log.warning("Latents are not cached: %s.", error)
