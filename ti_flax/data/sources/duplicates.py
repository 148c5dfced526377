"""Images that are there twice: pixel by pixel, or nearly."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

# Bits, of 128, in which two images may differ and still be called nearly the same.
_NEAR_BITS = 10
# Mean difference of colour, in levels of 255 on an 8 x 8 thumbnail, from which they are not.
_NEAR_LEVELS = 10.0
_MOST_NAMED = 5

# Of so many parts of a hash one at least is the same in images that are nearly the same, since the bits
# that differ are fewer than the parts.
_BANDS = tuple(int(edge) for edge in np.linspace(0, 128, _NEAR_BITS + 2))
# The most images with the same part of a hash that another one is compared with: a part without any
# edges is one that many images have. Beyond it a near duplicate may go unnoticed, an exact one never.
_MOST_ALIKE = 64


def duplicate_notes(pixels: Sequence[np.ndarray] | np.ndarray, names: Sequence[str]) -> list[str]:
    """Return at most one line, which names the images that are there twice; they are only noted.

    Args:
      pixels: of each image `[height, width, 3]` uint8.
      names: of the images.
    """
    pairs = duplicate_pairs(pixels)
    if not pairs:
        return []
    said = [
        f"{names[late]} is {'the same as' if same else 'nearly'} {names[early]}"
        for early, late, same in pairs[:_MOST_NAMED]
    ]
    more = f", and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
    return [f"images that are there twice: {', '.join(said)}{more}"]


def duplicate_pairs(pixels: Sequence[np.ndarray] | np.ndarray) -> list[tuple[int, int, bool]]:
    """Return the index of an earlier image, of one like it, and whether they have the same pixels.

    An image is named once as the later of a pair, beside the first that it is the same as or like. One that
    is named so is not itself what others are like. Time grows with the number of images, not its square.

    Args:
      pixels: of each image `[height, width, 3]` uint8.
    """
    pairs, first, originals = [], {}, _Originals()
    for late, image in enumerate(pixels):
        early = first.setdefault(_digest(image), late)
        if early != late:
            pairs.append((early, late, True))
            continue
        early = originals.first_like(late, image)
        if early is not None:
            pairs.append((early, late, False))
    return pairs


class _Originals:
    """Images that are like no earlier one, found again by parts of their hashes."""

    def __init__(self):
        self._looks: list[tuple[int, np.ndarray, np.ndarray]] = []  # index, hash and thumbnail
        self._alike: dict[tuple[int, bytes], list[int]] = defaultdict(list)  # places by part of a hash

    def first_like(self, index: int, image: np.ndarray) -> int | None:
        """Return the index of the first one that an image is like; an image like none becomes one."""
        bits, thumbnail = _difference_bits(image), _thumbnail(image)
        parts = [*_parts(bits)]
        places = sorted({place for part in parts for place in self._alike.get(part, ())})
        near = _first_near([self._looks[place] for place in places], bits, thumbnail)
        if near is not None:
            return near
        for part in parts:
            if len(self._alike[part]) < _MOST_ALIKE:
                self._alike[part].append(len(self._looks))
        self._looks.append((index, bits, thumbnail))
        return None


def _first_near(
    looks: Sequence[tuple[int, np.ndarray, np.ndarray]], bits: np.ndarray, thumbnail: np.ndarray
) -> int | None:
    """Compare an image with others, and return the index of the first that is nearly the same."""
    if not looks:
        return None
    differing = (np.stack([each for _, each, _ in looks]) != bits).sum(axis=1)
    for place in np.flatnonzero(
        differing <= _NEAR_BITS
    ).tolist():  # colours of the few that have the same shapes
        index, _, other = looks[place]
        if np.abs(other - thumbnail).mean() < _NEAR_LEVELS:
            return index
    return None


def _parts(bits: np.ndarray) -> Iterator[tuple[int, bytes]]:
    for start, end in zip(_BANDS, _BANDS[1:]):
        yield start, bits[start:end].tobytes()


def _digest(image: np.ndarray) -> bytes:
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _difference_bits(image: np.ndarray) -> np.ndarray:
    """Return 128 truth values that say where a small gray copy gets brighter, `[128]` bool.

    Of 9 x 8 gray values each is compared with its right neighbour, and of 8 x 9 with the lower one (the
    difference hash of N. Krawetz, "Kind of like that", hackerfactor.com, 2013, in both directions).

    Args:
      image: `[height, width, 3]` uint8.
    """
    gray = Image.fromarray(image).convert("L")
    across = np.asarray(gray.resize((9, 8), Image.Resampling.BOX), np.int16)
    down = np.asarray(gray.resize((8, 9), Image.Resampling.BOX), np.int16)
    return np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Return `[8, 8, 3]` float32."""
    return np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX), np.float32)
