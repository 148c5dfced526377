"""ICC profiles that the tests make byte by byte, and the conversion to sRGB by the colours' definitions."""

import struct

import numpy as np

# Chromaticities of red, green, blue and of the white, D65.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_D65 = (0.3127, 0.3290)
_D50 = np.array((0.9642, 1.0, 0.8249))
_BRADFORD = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))


def to_xyz(primaries):
    """The matrix from linear RGB to XYZ, `[3, 3]` float64."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    white = np.array((_D65[0] / _D65[1], 1, (1 - _D65[0] - _D65[1]) / _D65[1]))
    return columns * np.linalg.solve(columns, white)


def srgb_decoded(values):
    values = np.asarray(values, float)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_encoded(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def in_srgb(pixels, primaries, gamma=None):
    """Colours `[..., 3]` of a space with these primaries and this gamma (None: sRGB's curve) in sRGB."""
    values = np.asarray(pixels) / 255
    linear = srgb_decoded(values) if gamma is None else values**gamma
    matrix = np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)
    return np.rint(255 * srgb_encoded(linear @ matrix.T)).astype(np.uint8)


def lab_in_srgb(lab):
    """What a colour in CIELAB (D50) is in sRGB, `[3]`."""
    light = (lab[0] + 16) / 116
    ratios = np.array((light + lab[1] / 500, light, light - lab[2] / 200))
    xyz = _D50 * np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29))
    linear = np.linalg.solve(_to_d50() @ to_xyz(SRGB), xyz)
    return np.rint(255 * srgb_encoded(linear)).astype(np.uint8)


def rgb_profile(primaries, gamma=None):
    """A profile of matrix and curve, ICC version 4."""
    matrix = _to_d50() @ to_xyz(primaries)
    tags = {f"{name}XYZ": _xyz(matrix[:, index]) for index, name in enumerate("rgb")}
    return _profile("mntr", "RGB ", "XYZ ", tags | {f"{name}TRC": _curve(gamma) for name in "rgb"})


def gray_profile(gamma):
    return _profile("mntr", "GRAY", "XYZ ", {"kTRC": _curve(gamma)})


def cmyk_profile(labs):
    """A profile of a table with two nodes an ink; `labs` gives CIELAB for its 16 nodes, black the fastest."""
    ramp = bytes(range(256))
    nodes = bytes(round(value) for light, a, b in labs for value in (light * 2.55, a + 128, b + 128))
    unit = b"".join(struct.pack(">i", 0x10000 * (index % 4 == 0)) for index in range(9))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + unit + ramp * 4 + nodes + ramp * 3
    return _profile("prtr", "CMYK", "Lab ", {"A2B0": table}, version=2)


def _to_d50():
    white = np.array((_D65[0] / _D65[1], 1, (1 - _D65[0] - _D65[1]) / _D65[1]))
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.linalg.solve(_BRADFORD, scale[:, None] * _BRADFORD)


def _fixed(*values):
    return b"".join(struct.pack(">i", round(value * 0x10000)) for value in values)


def _xyz(values):
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma):
    if gamma is not None:
        return b"para\0\0\0\0\0\0\0\0" + _fixed(gamma)
    return b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _text(words, version):
    if version == 2:
        return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words.encode() + bytes(79)
    encoded = words.encode("utf-16-be")
    return (
        b"mluc\0\0\0\0" + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(encoded), 28) + encoded
    )


def _profile(kind, space, connection, tags, version=4):
    white = {"desc": _text("made by a test", version), "cprt": _text("none", version), "wtpt": _xyz(_D50)}
    tags = white | tags
    start = 128 + 4 + 12 * len(tags)
    entries, body = b"", b""
    for name, content in tags.items():
        entries += name.encode() + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    whole = struct.pack(">I", len(tags)) + entries + body
    head = struct.pack(">I", 128 + len(whole)) + bytes(4) + bytes((version, 0, 0, 0))
    head += f"{kind}{space}{connection}".encode() + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head += bytes(28) + _fixed(*_D50)
    return head.ljust(128, b"\0") + whole
