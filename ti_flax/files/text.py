"""Text that people wrote, in the encodings that editors save it in."""

import codecs
import json
import os
import re
from pathlib import Path
from typing import Any

from ti_flax.errors import DataError
from ti_flax.files.regular import read_regular

# The longer mark first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# A million captions take a quarter of it.
LONGEST_TEXT = 2**28
_SILENCE = 10.0
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: str | Path, where: object = None, *, most: int = LONGEST_TEXT) -> str:
    """Read a text file in UTF-8, or in another Unicode encoding that its first bytes announce.

    Args:
      path: the file.
      where: what it is, for messages; None: the path.
      most: bytes that it may have.

    Raises:
      DataError: it cannot be read, or is in another encoding, with the place of the first wrong byte.
    """
    where = path if where is None else where
    try:
        content = read_regular(os.path.expanduser(path), most, silence=_SILENCE)
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


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
      ValueError: it is none, is nested too deeply, or holds half of a character.
    """
    try:
        content = json.loads(text)
        if _HALF_CHARACTER.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("brackets within brackets, too deep") from None
    except UnicodeEncodeError:
        raise ValueError("half of a character, such as \\ud83d alone") from None
    return content


def _other_encoding(where: object, found: str) -> DataError:
    return DataError(
        where,
        expected="text in UTF-8, or in UTF-16 that begins with a byte order mark",
        found=found,
        remedy="Save it as UTF-8: an editor's `Save with encoding`, or `iconv -f latin1 -t utf-8`.",
    )
