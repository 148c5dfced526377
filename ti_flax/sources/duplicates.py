"""Pictures that are there twice: pixel by pixel, or nearly."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

# Bits, of 128, in which two pictures may differ and still be called nearly the same.
_NEAR_BITS = 10
# Mean difference of colour, in levels of 255 on an 8 x 8 thumbnail, from which they are not.
_NEAR_LEVELS = 10.0
_MOST_NAMED = 5


def duplicate_notes(pixels: Sequence[np.ndarray] | np.ndarray, names: Sequence[str]) -> list[str]:
    """Return at most one line, which names the pictures that are there twice; they are only noted.

    Args:
      pixels: of each picture `[height, width, 3]` uint8.
      names: of the pictures.
    """
    pairs = duplicate_pairs(pixels)
    if not pairs:
        return []
    said = [
        f"{names[late]} is {'the same as' if same else 'nearly'} {names[early]}"
        for early, late, same in pairs[:_MOST_NAMED]
    ]
    more = f", and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
    return [f"pictures that are there twice: {', '.join(said)}{more}"]


def duplicate_pairs(pixels: Sequence[np.ndarray] | np.ndarray) -> list[tuple[int, int, bool]]:
    """Return the index of an earlier picture, of one like it, and whether they have the same pixels.

    A picture is named once as the later of a pair, beside the first that it is the same as or like.

    Args:
      pixels: of each picture `[height, width, 3]` uint8.
    """
    hashes = np.stack([difference_hash(picture) for picture in pixels])
    thumbnails = np.stack([_thumbnail(picture) for picture in pixels])
    pairs = []
    for late in range(1, len(hashes)):
        bits = np.bitwise_count(hashes[:late] ^ hashes[late]).sum(axis=1)
        alike = np.flatnonzero(bits <= _NEAR_BITS)  # colours of the few that have the same shapes
        levels = np.abs(thumbnails[alike] - thumbnails[late]).mean(axis=(1, 2, 3))
        near = alike[levels < _NEAR_LEVELS]
        same = [early for early in near.tolist() if np.array_equal(pixels[early], pixels[late])]
        if near.size:
            pairs.append((same[0] if same else int(near[0]), late, bool(same)))
    return pairs


def difference_hash(picture: np.ndarray) -> np.ndarray:
    """Return 128 bits that say where a small gray copy gets brighter, `[2]` uint64.

    Of 9 x 8 gray values each is compared with its right neighbour, and of 8 x 9 with the lower one (the
    difference hash of N. Krawetz, "Kind of like that", hackerfactor.com, 2013, in both directions).

    Args:
      picture: `[height, width, 3]` uint8.
    """
    gray = Image.fromarray(picture).convert("L")
    across = np.asarray(gray.resize((9, 8), Image.Resampling.BOX), np.int16)
    down = np.asarray(gray.resize((8, 9), Image.Resampling.BOX), np.int16)
    brighter = np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    return np.packbits(brighter).view(np.uint64)


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    """Return `[8, 8, 3]` float32."""
    return np.asarray(Image.fromarray(picture).resize((8, 8), Image.Resampling.BOX), np.float32)
