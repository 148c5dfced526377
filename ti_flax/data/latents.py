"""Latent posteriors of the training images: computed once, kept on disk, so that the VAE can be dropped.

A picture is an image, a variant of it, or the mirror image of either: a mirrored latent is not the latent of
a mirrored image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ti_flax.data.images.load import pixels_hash
from ti_flax.data.latent_cache import LatentCache
from ti_flax.data.posteriors import InFiles, InMemory, PosteriorFiles, sample_digest
from ti_flax.errors import ConfigError, DataError
from ti_flax.hosts import group as hosts
from ti_flax.models.vae import AutoencoderKLConfig, FlaxAutoencoderKL

# Part of every key of the cache: to be raised when the same inputs are to give other moments.
_CACHE_VERSION = "posteriors 2"
# What encoding needs of the VAE's parameters.
_ENCODER = ("encoder", "quant_conv")
# Pictures that each host gives the others at once.
_GIVEN_AT_ONCE = 16
# Pictures that are looked up at once.
_LOOKED_UP_AT_ONCE = 1024


def posterior_shape(config: AutoencoderKLConfig, height: int, width: int) -> tuple[int, int, int]:
    """The shape of a picture's posterior, `(height, width, 2 * latent_channels)`, with nothing encoded.

    Args:
      config: of the autoencoder.
      height: of the picture, in pixels.
      width: of the picture, in pixels.

    Raises:
      ConfigError: a side is no multiple of the autoencoder's downsampling.
    """
    factor = config.downsampling
    if height % factor or width % factor:
        wrong = height if height % factor else width
        nearest = max(factor, round(wrong / factor) * factor)
        raise ConfigError(
            "resolution" if height == width else "bucket_reso_steps",
            expected=f"a multiple of {factor}, the downsampling of this model's VAE",
            found=f"{height}" if height == width else f"a side of {wrong} pixels",
            remedy=f"The nearest is {nearest}." if height == width else f"Use {factor}, or a multiple of it.",
        )
    return height // factor, width // factor, 2 * config.latent_channels


def image_hashes(pixels: np.ndarray) -> list[str]:
    """The SHA-256 of each image of `[images, height, width, 3]` uint8, in hexadecimal."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(pixels_hash, pixels))


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


class Encoder:
    """The encoder of a VAE on all devices of this host, where its parameters stay as long as it is there.

    Each device takes one picture at a time, by the same program: one compilation for each shape. More at a
    time gain nothing on a CPU, and there the last bits would depend on how many they are and on how many
    devices share the processor.

    Args:
      vae: the autoencoder; its own dtype gives way to `dtype`.
      params: its parameters, of which those of the encoder are used.
      dtype: of the computation; the result is float32 in any case.
    """

    def __init__(self, vae: FlaxAutoencoderKL, params: Any, dtype: DTypeLike):
        self.config, self.dtype = vae.config, jnp.dtype(dtype)
        self._params, self._placed, self._key = {name: params[name] for name in _ENCODER}, None, ""
        vae = vae.clone(dtype=dtype)

        def encode(params: Any, pixels: jax.Array) -> jax.Array:
            scaled = pixels.astype(jnp.float32) / 127.5 - 1.0
            moments = vae.apply({"params": params}, scaled.astype(dtype), method="encode")
            return jnp.asarray(moments).astype(jnp.float32)

        mesh = Mesh(np.asarray(jax.local_devices()), ("devices",))
        whole, parts = PartitionSpec(), PartitionSpec("devices")
        self._whole, self._parts = NamedSharding(mesh, whole), NamedSharding(mesh, parts)
        spread = jax.shard_map(encode, mesh=mesh, in_specs=(whole, parts), out_specs=parts, check_vma=False)
        self._program = jax.jit(spread)

    @property
    def key(self) -> str:
        """Stands for config, parameters and dtype."""
        if not self._key:
            config = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
            parts = (_CACHE_VERSION, config, self.dtype.name, params_hash(self._params))
            self._key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return self._key

    def encode(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the posterior of each picture, `[height, width, 2 * latent_channels]` float32, in order.

        The devices work on the next pictures while the caller has these.

        Args:
          pictures: `[height, width, 3]` uint8 each, all of one shape.
        """
        before: tuple[int, jax.Array] | None = None
        for some in _in_groups(pictures, self._whole.mesh.size):
            if self._placed is None:
                self._placed = jax.device_put(self._params, self._whole)
            # The last group is filled up, for one compilation.
            full = np.stack([*some, *[some[-1]] * (self._whole.mesh.size - len(some))])
            now = len(some), self._program(self._placed, jax.device_put(full, self._parts))
            if before is not None:
                yield from np.asarray(before[1])[: before[0]]
            before = now
        if before is not None:
            yield from np.asarray(before[1])[: before[0]]


def _in_groups(items: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    several = iter(items)
    while some := list(itertools.islice(several, size)):
        yield some


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images of one shape, their variants, and the mirror images of all, numbered image by image.

    Attributes:
      pixels: `[images, height, width, 3]` uint8.
      sides: which pictures of a variant are wanted: 0 is itself, 1 its mirror image.
      names: file names of the images, for error messages.
      augmented: like `pixels`, further variants of the images.
    """

    pixels: np.ndarray
    sides: Sequence[int] = (0, 1)
    names: Sequence[str] = ()
    augmented: Sequence[np.ndarray] = ()

    @property
    def of_image(self) -> int:
        """How many pictures an image has."""
        return (1 + len(self.augmented)) * len(self.sides)

    def __len__(self) -> int:
        return len(self.pixels) * self.of_image

    def __getitem__(self, number: int) -> np.ndarray:
        """The picture of that number, `[height, width, 3]` uint8."""
        image, place = divmod(number, self.of_image)
        variant, side = divmod(place, len(self.sides))
        pixels = (self.augmented[variant - 1] if variant else self.pixels)[image]
        return pixels[:, ::-1] if self.sides[side] else pixels

    def name(self, number: int) -> str:
        """The file name of the image, or its number."""
        image = number // self.of_image
        return self.names[image] if self.names else f"image {image + 1}"

    def hashes(self) -> list[str]:
        """The SHA-256 of each variant of each image, in their order."""
        by_variant = [image_hashes(pixels) for pixels in (self.pixels, *self.augmented)]
        return [each for of_image in zip(*by_variant, strict=True) for each in of_image]

    def keys(self, encoder: Encoder, hashes: Sequence[str]) -> list[str]:
        """Names of the pictures' entries in the cache, from the `hashes`."""
        return [
            hashlib.sha256(f"{encoder.key}\n{each}\n{side}".encode()).hexdigest()
            for each in hashes
            for side in self.sides
        ]


def encode_posteriors(
    encoder: Encoder,
    pictures: Pictures,
    *,
    cache: LatentCache | None = None,
    hashes: Sequence[str] | None = None,
    in_files: bool = False,
    progress: Callable[[Sequence], Iterable] | None = None,
) -> np.ndarray | PosteriorFiles:
    """Encode pictures of one shape, once each: all devices of all hosts share those that no cache has.

    What was encoded is kept at once, so that a run that is killed goes on from there. It may run in a thread
    beside other work, in a copy of its caller's context; on several hosts nothing else may meet them then.

    Args:
      encoder: what encodes.
      pictures: to be encoded; the same on all hosts.
      cache: what the results are kept in and taken from; None keeps nothing.
      hashes: those of the pictures, where the caller has them.
      in_files: leave the results in the cache, and give what reads them from there.
      progress: wraps the sequence of pictures that this host encodes, as `tqdm` does; not called for none.

    Returns:
      `[images, pictures, height, width, 2 * latent_channels]` float32: mean and log-variance, before the
      scaling factor; `len(images)`, `.shape` and `[images, pictures]` alone where it is in files.

    Raises:
      ConfigError: a side is no multiple of the autoencoder's downsampling.
      DataError: the encoder overflowed, or what has to be in files cannot be written.
    """
    shape = posterior_shape(encoder.config, *pictures.pixels.shape[1:3])
    results: InMemory | InFiles
    if cache is None:
        results, missing = InMemory(len(pictures), shape, None, ()), np.ones(len(pictures), bool)
    else:
        keys = pictures.keys(encoder, pictures.hashes() if hashes is None else hashes)
        cache.claim(keys)
        results = (InFiles if in_files else InMemory)(len(pictures), shape, cache, keys)
        missing = _look_up(results)
        if missing.any():
            cache.make_room(int(missing.sum()) * math.prod(shape) * np.dtype(np.float32).itemsize)
    have = hosts.gather("the encoded images", np.packbits(missing).tobytes().hex())
    lacking = np.stack([_flags(each, len(pictures)) for each in have])
    ours = _dealt(lacking)[hosts.index()]
    encoded = _encoded(encoder, pictures, [number for number in ours if missing[number]], progress)
    given = (next(encoded) if missing[number] else results.read(number) for number in ours)
    for number, posterior in _exchanged(given, ours, shape, lacking):
        if missing[number]:
            results.put(number, posterior)
    if len(have) > 1:  # caches may hold what other kinds of devices encoded
        alike = {"posteriors": sample_digest(results)}
        hosts.check_same("encoded images", alike, patience=hosts.PREPARING)
    return results.finished((len(pictures.pixels), pictures.of_image, *shape))


def _look_up(results: InMemory | InFiles) -> np.ndarray:
    """Which pictures the cache does not have, `[pictures]` bool."""
    missing = np.ones(len(results), bool)
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(results), _LOOKED_UP_AT_ONCE):
            some = range(first, min(first + _LOOKED_UP_AT_ONCE, len(results)))
            missing[some.start : some.stop] = [not found for found in pool.map(results.find, some)]
    return missing


def _flags(written: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(written), np.uint8), count=count).astype(bool)


def _dealt(lacking: np.ndarray) -> list[list[int]]:
    """Which pictures each host gives the others: those that it alone has, and its share of those to encode.

    Args:
      lacking: `[hosts, pictures]` bool.
    """
    dealt: list[list[int]] = [[] for _ in lacking]
    nobody = itertools.count()
    for number in np.flatnonzero(lacking.any(axis=0)):
        holders = np.flatnonzero(~lacking[:, number])
        dealt[int(holders[0]) if holders.size else next(nobody) % len(dealt)].append(int(number))
    return dealt


def _encoded(
    encoder: Encoder,
    pictures: Pictures,
    numbers: Sequence[int],
    progress: Callable[[Sequence], Iterable] | None,
) -> Iterator[np.ndarray]:
    posteriors = encoder.encode(pictures[number] for number in numbers)
    for number in numbers if progress is None or not numbers else progress(numbers):
        posterior = next(posteriors)
        if not np.isfinite(posterior).all():
            raise DataError(
                pictures.name(number),
                expected="finite latents",
                found=f"overflow in the VAE computed in {encoder.dtype.name}",
                remedy="Use float32 for the VAE; if it is, the VAE's weights are damaged.",
            )
        yield posterior


def _exchanged(
    given: Iterator[np.ndarray], ours: Sequence[int], shape: tuple[int, ...], lacking: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields what all hosts give, with its number; every host gives a few, then takes those of all.

    Args:
      given: what this host gives.
      ours: the numbers of that.
      shape: of each.
      lacking: `[hosts, pictures]` bool.
    """
    if len(lacking) == 1:
        yield from zip(ours, given)
        return
    dealt = _dealt(lacking)
    for first in range(0, max(map(len, dealt)), _GIVEN_AT_ONCE):
        here = np.zeros((_GIVEN_AT_ONCE, *shape), np.float32)
        for place, posterior in enumerate(itertools.islice(given, _GIVEN_AT_ONCE)):
            here[place] = posterior
        everyones = hosts.exchange(f"encoded images from {first}", here)
        for numbers, there in zip(dealt, everyones, strict=True):
            yield from zip(numbers[first : first + _GIVEN_AT_ONCE], there)
