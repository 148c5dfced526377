"""How the images of a run are encoded and where the result goes, settled before anything is encoded."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ti_flax.console.messages import say, watched
from ti_flax.data.images.groups import ImageGroup, memory_of_machine
from ti_flax.data.images.load import TrainingImages
from ti_flax.data.latent_cache import LatentCache
from ti_flax.data.latents import Encoder, Pictures, encode_posteriors, posterior_shape
from ti_flax.data.posteriors import Unencoded
from ti_flax.errors import DataError
from ti_flax.hosts import group as hosts

# The share of this machine's memory that posteriors, and the images until they are encoded, may take.
SHARE_OF_MACHINE = 3 / 4
_UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


@dataclass(frozen=True)
class Encoding:
    """What encodes the images of a run, and where the posteriors go.

    Attributes:
      encoder: of the VAE.
      sides: which pictures of an image are encoded: 0 is itself, 1 its mirror image.
      cache: what posteriors are kept in for the next run; None: nothing.
      hashes: of the images of each group, and of their variants, training images first.
      in_files: whether posteriors stay in the cache, as memory cannot hold them.
      variants: of each image.
    """

    encoder: Encoder
    sides: tuple[int, ...]
    cache: LatentCache | None
    hashes: tuple[tuple[str, ...], ...]
    in_files: bool = False
    variants: int = 1

    def shape(self, images: int, height: int, width: int) -> tuple[int, ...]:
        """The posteriors' shape of so many images, `(images, pictures, height, width, 2 * channels)`."""
        pictures = self.variants * len(self.sides)
        return images, pictures, *posterior_shape(self.encoder.config, height, width)

    @property
    def kinds(self) -> str:
        """What is encoded, in words."""
        kinds = " and ".join(("images", "mirror images")[side] for side in self.sides)
        return kinds if self.variants == 1 else f"{kinds}, {self.variants} variants of each"

    def pictures(self, group: ImageGroup, names: Sequence[str] = ()) -> Pictures:
        """What is encoded of a group."""
        return Pictures(group.pixels, self.sides, names, tuple(each.pixels for each in group.augmented))

    def unencoded(self, group: ImageGroup, number: int, names: Sequence[str]) -> Unencoded:
        """What a group will be encoded to; see `encode_posteriors`.

        Args:
          group: images of one shape.
          number: of the group, in the order of `hashes`.
          names: of its images.
        """
        encode = partial(
            encode_posteriors,
            self.encoder,
            self.pictures(group, names),
            cache=self.cache,
            hashes=self.hashes[number],
            in_files=self.in_files,
            progress=partial(watched, title=f"encoding {self.kinds}"),
        )
        return Unencoded(self.shape(*group.pixels.shape[:3]), encode)

    @property
    def digest(self) -> str:
        """Stands for the images and for what encodes them."""
        text = "\n".join([self.encoder.key, *(each for group in self.hashes for each in group)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def sides_of(*flip_p: float) -> tuple[int, ...]:
    """Which pictures a run can draw with these chances of mirroring: images, 0, mirror images, 1, or both."""
    return (0,) if set(flip_p) == {0} else (1,) if set(flip_p) == {1} else (0, 1)


def settle_encoding(
    encoder: Encoder,
    images: TrainingImages,
    class_images: TrainingImages | None,
    *,
    flip_p: float | Collection[float],
    cache: LatentCache | None,
) -> Encoding:
    """Computes what the posteriors of a run need, says it, and settles where they go; encodes nothing.

    Args:
      encoder: of the VAE.
      images: of the training.
      class_images: of the word's class, if any.
      flip_p: chance of mirroring, or all the chances that images have.
      cache: what posteriors are kept in.

    Raises:
      ConfigError: a side is no multiple of the autoencoder's downsampling, or hosts have other images.
      DataError: they fit nowhere.
    """
    chances = flip_p if isinstance(flip_p, Collection) else (flip_p,)
    groups = (*images.groups, *(class_images.groups if class_images is not None else ()))
    encoding = Encoding(encoder, sides_of(*chances), cache, (), variants=len(groups[0].variants))
    hashes = tuple(tuple(encoding.pictures(group).hashes()) for group in groups)
    encoding = dataclasses.replace(encoding, hashes=hashes)
    hosts.check_same("images, prompts and model", {"images": encoding.digest}, patience=hosts.PREPARING)
    shapes = [encoding.shape(*group.pixels.shape[:3]) for group in groups]
    masked = (
        2 * math.prod(shape[2:4]) * shape[0] * encoding.variants
        for shape, group in zip(shapes, groups)
        if group.masks is not None
    )
    need = (sum(map(math.prod, shapes)) + sum(masked)) * np.dtype(np.float32).itemsize
    pictures = sum(shape[0] * shape[1] for shape in shapes)
    told = f"{pictures} encoded {encoding.kinds}{',' * (encoding.variants > 1)} take {in_units(need)}"
    room = SHARE_OF_MACHINE * memory_of_machine() - sum(group.pixel_bytes for group in groups)
    in_files = need > room
    if in_files:
        _require_room_on_disk(encoding, groups, told)
    say(f"{told} of {'disk' if in_files else 'memory'}")
    return dataclasses.replace(encoding, in_files=in_files)


def in_units(amount: float) -> str:
    """Bytes as people write them."""
    unit = next((unit for unit in ("GiB", "MiB") if amount >= _UNITS[unit]), "KiB")
    return f"{amount / _UNITS[unit]:.1f} {unit}"


def _require_room_on_disk(encoding: Encoding, groups: Sequence[ImageGroup], told: str) -> None:
    """Refuses what neither this machine's memory nor the cache's disk can hold.

    Raises:
      DataError: there is no cache, or no room for what is not in it yet.
    """
    cache = encoding.cache
    if cache is None:
        raise DataError(
            "latents_cache_dir",
            expected="a folder of your own, as this machine's memory cannot hold the encoded images",
            found=told,
            remedy="Name one with room, or fewer images, or lower resolution.",
        )
    missing = 0
    for group, hashes in zip(groups, encoding.hashes, strict=True):
        keys = encoding.pictures(group).keys(encoding.encoder, hashes)
        shape = encoding.shape(1, *group.pixels.shape[1:3])
        missing += sum(map(cache.lacks, keys)) * math.prod(shape[2:]) * np.dtype(np.float32).itemsize
    free = shutil.disk_usage(cache.folder).free if cache.folder.is_dir() else 0
    if missing > free:
        raise DataError(
            f"latents_cache_dir {cache.folder}",
            expected=f"room for {in_units(missing)}, as this machine's memory cannot hold them",
            found=f"{in_units(free)}; {told}",
            remedy="Make room, name another folder, fewer images, or lower resolution.",
        )
