"""Image files that the tests make byte by byte."""

import struct
import zlib


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
