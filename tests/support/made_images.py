"""Image files that the tests make, most of them byte by byte."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)


def png(width, height, *, depth=1, rows=None, chunks=b""):
    """A PNG of any size that it says it has, all black; `rows` of them are there."""
    row = bytes(1 + (width * depth + 7) // 8)
    packed, level = zlib.compressobj(9), []
    for _ in range(height if rows is None else rows):
        level.append(packed.compress(row))
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", b"".join(level) + packed.flush()), (b"IEND", b""))
    made = [struct.pack(">I", len(data)) + kind + data + checksum(kind, data) for kind, data in parts]
    return b"\x89PNG\r\n\x1a\n" + made[0] + chunks + b"".join(made[1:])


def checksum(kind, data):
    """The checksum at the end of a PNG's chunk, `[4]` bytes."""
    return struct.pack(">I", zlib.crc32(kind + data))


def impossible_png():
    return png(1, 1).replace(struct.pack(">II", 1, 1), struct.pack(">II", 2 * 10**9, 2 * 10**9))


def text_bomb():
    """A PNG whose text unfolds to 8 million letters."""
    unfolded = zlib.compressobj(9)
    data = b"note\0\0" + b"".join(unfolded.compress(bytes(2**20)) for _ in range(8)) + unfolded.flush()
    return png(8, 8, chunks=struct.pack(">I", len(data)) + b"zTXt" + data + checksum(b"zTXt", data))


def gif(width, height):
    image = struct.pack("<BHHHHB", 0x2C, 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + image + b";"


def webp(width, height):
    """A moving WebP of 4 x 4 that says it has this size."""
    made = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(made, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    content = bytearray(made.getvalue())
    for at, side in ((24, width), (27, height)):
        content[at : at + 3] = struct.pack("<I", side - 1)[:3]
    return bytes(content)


def icon_bomb():
    """An icon that says 16 x 16, and holds an image of 20,000 x 20,000."""
    content = png(20_000, 20_000, rows=1)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


def encoded(kind, image=None, **options):
    made = io.BytesIO()
    (Image.fromarray(PIXELS) if image is None else image).save(made, kind, **options)
    return made.getvalue()


def tiff_cycle():
    """A TIFF whose directory names itself as the next one."""
    made = bytearray(encoded("TIFF"))
    (start,) = struct.unpack("<I", made[4:8])
    (count,) = struct.unpack("<H", made[start : start + 2])
    made[start + 2 + 12 * count :][:4] = b""
    made[start + 2 + 12 * count : start + 6 + 12 * count] = struct.pack("<I", start)
    return bytes(made)


def frames(kind, count=200):
    images = [Image.new("RGB", (32, 32), (each, 0, 0)) for each in range(count)]
    return encoded(kind, images[0], save_all=True, append_images=images[1:], duration=10)


def deep_gray():
    """A TIFF of numbers that are none."""
    return encoded("TIFF", Image.fromarray(np.full((8, 8), np.nan, np.float32)))


def history(text):
    """What `ti_flax prepare` says of an image's origin, in EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageHistory] = f"ti_flax prepare: {text}"
    return exif
