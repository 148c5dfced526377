"""Where the posteriors of encoded pictures are: in memory, or in the files of the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np

from ti_flax.data.latent_cache import LatentCache
from ti_flax.errors import DataError

# Pictures that stand for all where hosts compare theirs.
_COMPARED = 64


class PosteriorFiles:
    """Posteriors that stay in the files of the cache, read where they are asked for.

    Args:
      cache: which keeps them as long as this is there.
      keys: names of their entries, image after image.
      shape: `(images, sides, height, width, 2 * channels)`.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, cache: LatentCache, keys: Sequence[str], shape: tuple[int, ...]):
        self._cache, self._keys, self.shape = cache, keys, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The posteriors of these images and sides, `[pictures, height, width, 2 * channels]` float32.

        Args:
          places: `[pictures]` int of images, `[pictures]` int of their sides.

        Raises:
          DataError: one is not there any more.
        """
        images, sides = np.asarray(places[0]), np.asarray(places[1])
        keys = [self._keys[int(number)] for number in images * self.shape[1] + sides]
        found = np.empty((len(keys), *self.shape[2:]), np.float32)
        with ThreadPoolExecutor() as pool:  # disks and networks are faster at several files at once
            some = pool.map(lambda key: read(self._cache, key, self.shape[2:]), keys)
            for place, posterior in enumerate(some):
                found[place] = posterior
        return found


class Unencoded:
    """Posteriors of pictures that are encoded when they are first read, and whose shape is known before.

    Args:
      shape: `(images, sides, height, width, 2 * channels)`.
      encode: makes them.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], encode: Callable[[], np.ndarray | PosteriorFiles]):
        self.shape, self._encode = shape, encode

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The posteriors of these images and sides, as of `PosteriorFiles`."""
        return self.encoded[places]

    @cached_property
    def encoded(self) -> np.ndarray | PosteriorFiles:
        """The posteriors, encoded once."""
        return self._encode()


Posteriors = np.ndarray | PosteriorFiles | Unencoded


def in_memory(posteriors: Posteriors) -> np.ndarray:
    """All posteriors, `[images, sides, height, width, 2 * channels]` float32."""
    if isinstance(posteriors, Unencoded):
        posteriors = posteriors.encoded
    if isinstance(posteriors, np.ndarray):
        return posteriors
    images, sides = np.indices(posteriors.shape[:2]).reshape(2, -1)
    return posteriors[images, sides].reshape(posteriors.shape)


def read(cache: LatentCache, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The entry of a picture that has been found or written before.

    Raises:
      DataError: it is not there any more.
    """
    found = cache.read(key, shape)
    if found is None:
        raise DataError(
            f"latents_cache_dir {cache.folder}",
            expected="the encoded images that were there when the run began",
            found="some of them gone or damaged",
            remedy="Start again with resume_from_checkpoint auto: they are encoded anew.",
        )
    return found


class InMemory:
    """The posteriors of some pictures while they come in one by one, kept in memory.

    Args:
      count: how many there will be.
      shape: of each.
      cache: what they are kept in as well, if anything.
      keys: their names in it.
    """

    def __init__(self, count: int, shape: tuple[int, ...], cache: LatentCache | None, keys: Sequence[str]):
        self._array, self._cache, self._keys = np.empty((count, *shape), np.float32), cache, keys

    def __len__(self) -> int:
        return len(self._array)

    def find(self, number: int) -> bool:
        """Takes a picture from the cache, and tells whether it is there."""
        if self._cache is None:
            return False
        found = self._cache.read(self._keys[number], self._array.shape[1:])
        if found is not None:
            self._array[number] = found
        return found is not None

    def put(self, number: int, posterior: np.ndarray) -> None:
        """Takes a picture's posterior."""
        self._array[number] = posterior
        if self._cache is not None:
            self._cache.write(self._keys[number], posterior)

    def read(self, number: int) -> np.ndarray:
        """A picture's posterior that is there."""
        return self._array[number]

    def finished(self, shape: tuple[int, ...]) -> np.ndarray | PosteriorFiles:
        """All of them, `(images, sides, height, width, 2 * channels)`."""
        return self._array.reshape(shape)


class InFiles:
    """The same, kept in the files of the cache alone."""

    def __init__(self, count: int, shape: tuple[int, ...], cache: LatentCache, keys: Sequence[str]):
        self._count, self._shape, self._cache, self._keys = count, shape, cache, keys

    def __len__(self) -> int:
        return self._count

    def find(self, number: int) -> bool:
        """Tells whether a picture is in the cache."""
        return self._cache.read(self._keys[number], self._shape) is not None

    def put(self, number: int, posterior: np.ndarray) -> None:
        """Takes a picture's posterior.

        Raises:
          DataError: it cannot be written.
        """
        if not self._cache.write(self._keys[number], posterior):
            raise DataError(
                f"latents_cache_dir {self._cache.folder}",
                expected="room for the encoded images, which this machine's memory cannot hold",
                found="no room left, or a folder that cannot be written",
                remedy="Make room, or choose another latents_cache_dir; what is encoded is kept.",
            )

    def read(self, number: int) -> np.ndarray:
        """A picture's posterior that is there."""
        return read(self._cache, self._keys[number], self._shape)

    def finished(self, shape: tuple[int, ...]) -> np.ndarray | PosteriorFiles:
        """What reads them, `(images, sides, height, width, 2 * channels)`."""
        return PosteriorFiles(self._cache, self._keys, shape)


def sample_digest(results: InMemory | InFiles) -> str:
    """Stands for the posteriors where hosts compare theirs: some of them, evenly chosen."""
    digest = hashlib.sha256()
    for number in range(0, len(results), max(1, len(results) // _COMPARED)):
        digest.update(results.read(number).tobytes())
    return digest.hexdigest()[:16]
