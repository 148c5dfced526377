"""The size of pictures as people write it, 512x768."""

import re

# Sides that a VAE has latents for, and the longest of a picture.
STEP, LONGEST = 8, 16384
_SIZE = re.compile(r"([1-9]\d{0,4})\s*[xX]\s*([1-9]\d{0,4})", re.ASCII)


def picture_size(text: str) -> tuple[int, int] | None:
    """Return height and width in pixels of a text such as 512x768, which has the width first.

    None of any other text: sides are multiples of 8 up to 16,384.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    width, height = int(match[1]), int(match[2])
    fits = all(side <= LONGEST and side % STEP == 0 for side in (width, height))
    return (height, width) if fits else None
