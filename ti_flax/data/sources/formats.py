"""Which files are images, told by their suffix or their first bytes."""

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ti_flax.data.sources.optional_formats import OPTIONAL_NAMES, OPTIONAL_SUFFIXES, optional_format

# Formats whose first bytes no text or metadata file shares, so that content alone tells them. The second row
# is tried under an image suffix only. Left out: what runs other programs (EPS) or has no pixels (MPEG, HDF5).
SIGNED_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "QOI", *OPTIONAL_NAMES)
OTHER_FORMATS = ("DIB", "PPM", "TGA", "ICO", "PSD", "PCX", "SGI", "DDS")

# Images that Pillow cannot read, or of which it reads the thumbnail alone (camera raw). Passing
# them over would train on fewer images than were given.
UNREADABLE_SUFFIXES = frozenset((".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"))


def is_named_as_image(path: Path) -> bool:
    """Tell an image by its suffix, whether it can be read or not."""
    suffix = path.suffix.lower()
    known = Image.registered_extensions().get(suffix) in SIGNED_FORMATS + OTHER_FORMATS
    return known or suffix in OPTIONAL_SUFFIXES or suffix in UNREADABLE_SUFFIXES


def is_image(path: Path) -> bool:
    """Tell an image by its suffix, or without an image's suffix by its content."""
    if path.name.startswith("."):  # .DS_Store, and the ._cat.jpg twins that macOS leaves on foreign disks
        return False
    if path.exists() and not path.is_file():  # a pipe, which would be waited for
        return False
    return is_named_as_image(path) or has_image_content(path)


def has_image_content(content: Path | bytes) -> bool:
    """Tell an image by its first bytes."""
    opened = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        if optional_format(content) is not None:
            return True
        with strict_about_size(), Image.open(opened, formats=available(SIGNED_FORMATS)):
            return True
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True
    except Exception:  # Pillow's plugins raise whatever their parser stumbled upon
        return False


@contextlib.contextmanager
def strict_about_size() -> Iterator[None]:
    """Turn Pillow's warning about huge images into an error; its other warnings are about oddities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def available(formats: Iterable[str]) -> list[str]:
    """Return those formats that this Pillow was built with."""
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def cause(error: Exception) -> str:
    """Return what another library's error says, in one line."""
    if isinstance(error, UnidentifiedImageError):  # whose message names the file once more
        return "it is empty, in no known format, or a Git LFS pointer"
    if isinstance(error, OSError) and error.strerror:  # without the name, which is said before
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
