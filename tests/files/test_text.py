"""Text in any Unicode encoding is read; another encoding is one line with its place."""

import pytest

from ti_flax.errors import DataError
from ti_flax.files.text import read_text

TEXT = "café, 猫\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_encodings(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT


def test_utf_16_of_either_byte_order(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_text(path) == TEXT


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("café".encode("latin1"), "byte 0xE9 at offset 3, which is not utf-8"),
        ("cat".encode("utf-16-le"), "a zero byte at offset 1"),
        ("猫".encode("shift-jis"), "byte 0x94 at offset 0"),
        (b"\xff\xfe" + b"c\0a", "byte 0x61 at offset 4, which is not utf-16"),
        (b"\xef\xbb\xbf" + "café".encode("latin1"), "byte 0xE9 at offset 6, which is not utf-8"),
    ],
)
def test_other_encodings_name_the_byte_and_a_remedy(tmp_path, content, found):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_text(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected text in UTF-8") and found in message
    assert "Save it as UTF-8" in message and "\n" not in message


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(DataError, match="template_file x: expected a text file, found No such file"):
        read_text(tmp_path / "none", "template_file x")
    with pytest.raises(DataError, match="expected a text file, found Is a directory"):
        read_text(tmp_path)
