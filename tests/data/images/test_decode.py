"""Images of every mode, brought over a ground in strips."""

import io
import struct
import zlib

import numpy as np
import pytest
from made_images import checksum
from PIL import Image

from ti_flax.data.images import decode as decoding

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 17, 4)).astype(np.uint8)


def image(mode):
    made = Image.fromarray(PIXELS)
    if mode == "P":
        made = made.convert("RGB").convert("P")
        made.info["transparency"] = bytes(range(256))
        return made
    return made.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGBa"])
@pytest.mark.parametrize("strip", [1, 40, 17 * 23, 10**6])
def test_strips_are_the_whole(mode, strip, monkeypatch):
    monkeypatch.setattr(decoding, "_STRIP", strip)
    whole = Image.new("RGBA", (17, 23), "white")
    whole.alpha_composite(image(mode).convert("RGBA"))
    assert np.array_equal(decoding._over(image(mode), "white", "RGB"), whole.convert("RGB"))
    whole = Image.new("RGBA", (17, 23), "black")
    whole.alpha_composite(image(mode).convert("RGBA"))
    assert np.array_equal(decoding._over(image(mode), "black", "L"), whole.convert("L"))


def test_deep_gray_row_by_row_is_the_whole():
    values = np.random.default_rng(0).integers(-500, 90_000, (23, 17)).astype(np.int32)
    low, high = min(values.min(), 0), values.max()
    whole = np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
    assert np.array_equal(decoding._eight_bit(Image.fromarray(values))[0], whole)


def png(values):
    made = io.BytesIO()
    Image.fromarray(values).save(made, "PNG")
    return made.getvalue()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_gray_of_fewer_bits_than_its_file_fills_its_own_range(bits, kind):
    top = 2**bits - 1
    values = np.linspace(0, top, 64).round().astype(kind).reshape(8, 8)
    made = io.BytesIO()
    Image.fromarray(values).save(made, "TIFF")
    found = decoding.decoded(made.getvalue(), "a.tif", decoding.upright_alone)
    wanted = np.rint(values.astype(np.float64) * 255 / top)
    np.testing.assert_array_equal(np.asarray(found.image)[..., 0], wanted)
    words = f"gray of {bits} bits in a file of 16, brought to full brightness"
    assert found.notes == ((words,) if bits < 16 else ())


def test_black_stays_black():
    found = decoding.decoded(png(np.zeros((8, 8), np.uint16)), "a.png", decoding.upright_alone)
    assert not np.asarray(found.image).any() and found.notes == ()


@pytest.mark.parametrize(("level", "dark"), [(4095, True), (65535, False)])
def test_colours_of_twelve_bits_are_noted(level, dark):
    """Pillow reads the upper 8 of 16 bits, so that they cannot be brought to full brightness."""
    found = decoding.decoded(deep_colours(level), "a.png", decoding.upright_alone)
    assert [note.partition(",")[0] for note in found.notes] == ["nearly black"] * dark


def deep_colours(level):
    """A PNG of 8 x 8 in 16 bits a colour, all of one level."""
    row = b"\0" + struct.pack(">H", level) * 3 * 8
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(row * 8)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + checksum(kind, data) for kind, data in parts
    )


def test_notes_are_one_line_a_kind():
    noted = [("a", ["x"]), ("b", ["x", "y"]), ("c", [])]
    assert decoding.notes_on_images(noted) == ["x: 2 images, such as a", "y: b"]
