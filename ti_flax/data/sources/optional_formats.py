"""Image formats that Pillow reads with the help of another package, where that is installed."""

import importlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ti_flax.errors import DataError
from ti_flax.files.regular import open_regular

# Bytes of a file's beginning that tell its format.
_HEAD = 64


@dataclass(frozen=True)
class OptionalFormat:
    """A format and the package that reads it.

    Attributes:
      name: that people know.
      format: Pillow's name of it.
      module: to import.
      package: to install.
      opener: of the module, registers the format; empty if the import does.
    """

    name: str
    format: str
    module: str
    package: str
    opener: str = ""


_HEIC = OptionalFormat("HEIC", "HEIF", "pillow_heif", "pillow-heif", "register_heif_opener")
_JXL = OptionalFormat("JPEG XL", "JXL", "pillow_jxl", "pillow-jxl-plugin")
# Of Pillow itself, where it was built with libavif.
_AVIF = OptionalFormat("AVIF", "AVIF", "pillow_avif", "pillow-avif-plugin")
_FORMATS = (_HEIC, _JXL, _AVIF)

OPTIONAL_NAMES = tuple(each.format for each in _FORMATS)
OPTIONAL_SUFFIXES = frozenset((".heic", ".heif", ".hif", ".jxl", ".avif"))
# Major brands of ISO/IEC 23008-12 (HEIF).
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_JXL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


def optional_format(content: Path | str | bytes) -> OptionalFormat | None:
    """Return the format, of those that need a package, which a file's beginning shows; None: another.

    Raises:
      OSError: it cannot be read.
    """
    if isinstance(content, bytes):
        head = content[:_HEAD]
    else:
        with open_regular(content) as file:
            head = file.read(_HEAD)
    if head.startswith(_JXL_STARTS):
        return _JXL
    if head[4:8] != b"ftyp":
        return None
    if head[8:12] in _AVIF_BRANDS or any(brand in head[16:] for brand in _AVIF_BRANDS):
        return _AVIF
    return _HEIC if head[8:12] in _HEIC_BRANDS else None


def require_reader(content: str | bytes, where: str) -> None:
    """Make Pillow read an image's format, by importing the package that reads it.

    Raises:
      DataError: it is not installed, or does not work here.
      OSError: the image cannot be read.
    """
    wanted = optional_format(content)
    if wanted is None:
        return
    Image.init()
    if wanted.format in Image.OPEN:
        return
    try:
        module = importlib.import_module(wanted.module)
        if wanted.opener:
            getattr(module, wanted.opener)()
    except Exception as error:  # a package that is there, but for another Pillow, raises what it likes
        missing = isinstance(error, ImportError) and error.name == wanted.module
        raise DataError(
            where,
            expected=f"the package {wanted.package}, which reads {wanted.name}",
            found="none" if missing else f"one that cannot be used ({type(error).__name__}: {error})",
            remedy=f"Run `pip install {wanted.package}`, or save the image as PNG or JPEG.",
        ) from None
