"""A disk that is full in the middle of an image."""

import contextlib


def save_half(image, file, *args, **kwargs):
    """Stands in for a PIL image's `save`: a few bytes get onto the disk, then it is full."""
    with contextlib.nullcontext(file) if hasattr(file, "write") else open(file, "wb") as opened:
        opened.write(b"half")
    raise OSError(28, "No space left on device")
