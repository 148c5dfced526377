"""Text that people wrote, in the encodings that editors save it in."""

import codecs
from pathlib import Path

from ti_flax.errors import DataError

# The longer mark first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path, where: object = None) -> str:
    """Read a text file in UTF-8, or in another Unicode encoding that its first bytes announce.

    Args:
      path: the file.
      where: what it is, for messages; None: the path.

    Raises:
      DataError: it cannot be read, or is in another encoding, with the place of the first wrong byte.
    """
    where = path if where is None else where
    try:
        content = Path(path).expanduser().read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(where, expected="a text file", found=reason) from None
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        # The codec that strips the mark counts from behind it.
        offset = error.start + len(content) - len(error.object)
        found = f"byte 0x{content[offset]:02X} at offset {offset}, which is not {encoding}"
        raise _other_encoding(where, found) from None
    if "\0" in text:
        raise _other_encoding(where, f"a zero byte at offset {content.index(0)}")
    return text


def _other_encoding(where: object, found: str) -> DataError:
    return DataError(
        where,
        expected="text in UTF-8, or in UTF-16 that begins with a byte order mark",
        found=found,
        remedy="Save it as UTF-8: an editor's `Save with encoding`, or `iconv -f latin1 -t utf-8`.",
    )
