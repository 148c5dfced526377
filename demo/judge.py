"""Says what is on an image of the world, by measuring: no neural network, nothing learned.

The background comes from the frame of the image; what differs from it is the object. The object's colour is
the one whose two tones explain its pixels best (CIELAB, CIE76), its texture comes from patterns of the
second tone over rotation and phase, its shape from overlap with drawn templates over rotation, at equal area
and centre.
"""

import functools
from dataclasses import dataclass

import numpy as np
from shapes import OUTLINES
from world import (
    BACKGROUNDS,
    CHECK_PERIOD,
    DOT_PERIOD,
    RGB,
    SIDE,
    STRIPE_PERIOD,
    lab,
    second_tone,
    second_tone_share,
)

NONE = "none"
# Further than this from every known background, in CIELAB, the frame is no background.
_BACKGROUND_LIMIT = 16.0
_FOREGROUND_DISTANCE = 14.0
_LEAST_AREA = 50
# Mean distance of the object's pixels to its colour's tones beyond which the colour is unknown.
_COLOUR_LIMIT = 20.0
_LEAST_OVERLAP = 0.6
# A pattern has to explain this share of the second tone's squares, or the object is plain with some noise.
# Dots that the model draws a little out of line explain 0.2 to 0.8, the noise of plain objects nothing.
_LEAST_EXPLAINED = 0.15
_GRID = 40
_ANGLES = np.arange(-36, 37, 4)
_MIXES = np.linspace(0.0, 1.0, 7)


@dataclass(frozen=True)
class Verdict:
    """What an image shows; an attribute that cannot be told is "none".

    Attributes:
      background: of `world.BACKGROUNDS`.
      shape: of `shapes.OUTLINES`.
      colour: of `world.RGB`.
      texture: of `world.TEXTURES`.
      overlap: intersection over union with the shape's best template, 0 to 1.
      colour_error: mean CIELAB distance of the object's pixels to the colour's tones.
    """

    background: str
    shape: str = NONE
    colour: str = NONE
    texture: str = NONE
    overlap: float = 0.0
    colour_error: float = float("inf")


def judge(image: np.ndarray) -> Verdict:
    """Measures one image, `[64, 64, 3]` uint8."""
    tones = lab(image)
    background, distance = _background(tones)
    if background == NONE:
        return Verdict(NONE)
    mask = _largest_part(distance > _FOREGROUND_DISTANCE)
    if mask.sum() < _LEAST_AREA:
        return Verdict(background)
    inside = _eroded(mask) if _eroded(mask).sum() >= 20 else mask
    colour, error, share = _colour(tones, inside)
    shape, overlap = _shape(_trimmed(mask, distance))
    texture = _texture(share, inside) if colour != NONE else NONE
    return Verdict(background, shape, colour, texture, overlap, error)


@functools.cache
def _background_tones(name: str) -> np.ndarray:
    """The tones of a background and their mixtures, `[tones, 3]` in CIELAB."""
    ends = np.asarray(BACKGROUNDS[name], np.float64)
    return lab(
        np.stack([ends[0] * (1 - mix) + ends[-1] * mix for mix in _MIXES[:: 1 if len(ends) > 1 else 6]])
    )


def _nearest(tones: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to, and index of, the nearest palette entry of each pixel."""
    distances = np.linalg.norm(tones[..., None, :] - palette, axis=-1)
    return distances.min(axis=-1), distances.argmin(axis=-1)


def _background(tones: np.ndarray) -> tuple[str, np.ndarray]:
    """The background that explains the frame best, and every pixel's distance to it."""
    frame = np.concatenate([tones[:2].reshape(-1, 3), tones[-2:].reshape(-1, 3)])
    frame = np.concatenate([frame, tones[2:-2, :2].reshape(-1, 3), tones[2:-2, -2:].reshape(-1, 3)])
    errors = {}
    for name in BACKGROUNDS:
        distance, index = _nearest(frame, _background_tones(name))
        # A background of two tones must show both, or every sky would be a beach.
        missing = 6.0 * (len(BACKGROUNDS[name]) > 1 and len(set((index > 0).tolist())) == 1)
        errors[name] = float(distance.mean()) + missing
    best = min(errors, key=errors.__getitem__)
    if errors[best] > _BACKGROUND_LIMIT:
        return NONE, np.zeros(tones.shape[:2])
    # Stars are small, and light as some textures are: they are left to the choice of the largest part.
    palette = _background_tones(best)[: 1 if best == "night" else None]
    return best, _nearest(tones, palette)[0]


def _shifts(mask: np.ndarray) -> list[np.ndarray]:
    """A mask or map moved by one pixel in each of the four directions."""
    padded = np.zeros((SIDE + 2, SIDE + 2), mask.dtype)
    padded[1:-1, 1:-1] = mask
    return [
        padded[1 + dy : 1 + dy + SIDE, 1 + dx : 1 + dx + SIDE]
        for dy, dx in [(0, 1), (1, 0), (0, -1), (-1, 0)]
    ]


def _eroded(mask: np.ndarray) -> np.ndarray:
    return functools.reduce(np.logical_and, _shifts(mask), mask)


def _trimmed(mask: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """A mask without the rim that blur adds: what is less than half as far off as the object near it."""
    reach = np.where(mask, distance, 0.0)
    for _ in range(2):
        reach = functools.reduce(np.maximum, _shifts(reach), reach)
    for _ in range(2):
        rim = mask & ~_eroded(mask)
        mask = mask & ~(rim & (distance < 0.5 * reach))
    return mask


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected part of a mask."""
    best, rest = np.zeros_like(mask), mask.copy()
    while rest.sum() > best.sum():
        part = np.zeros_like(mask)
        part.flat[np.flatnonzero(rest)[0]] = True
        size = 0
        while part.sum() > size:
            size = part.sum()
            for _ in range(4):
                part = functools.reduce(np.logical_or, _shifts(part), part) & rest
        rest &= ~part
        best = part if part.sum() > best.sum() else best
    return best


@functools.cache
def _colour_tones(name: str) -> np.ndarray:
    """Mixtures of a colour's fill and second tone, `[mixes, 3]` in CIELAB."""
    fill, second = np.asarray(RGB[name], np.float64), second_tone(name).astype(np.float64)
    return lab(np.stack([fill * (1 - mix) + second * mix for mix in _MIXES]))


def _colour(tones: np.ndarray, inside: np.ndarray) -> tuple[str, float, np.ndarray]:
    """The colour that explains the object best, its mean error, and each pixel's share of second tone."""
    pixels, best = tones[inside], (NONE, np.inf, np.zeros(inside.shape))
    for name in RGB:
        distance, index = _nearest(pixels, _colour_tones(name))
        # The fill is the larger part of every texture but dots and checks, where it is about half.
        error = float(distance.mean()) + 20.0 * float(np.mean(_MIXES[index]) > 0.75)
        if error < best[1]:
            share = np.zeros(inside.shape)
            share[inside] = _MIXES[index]
            best = (name, error, share)
    return best if best[1] <= _COLOUR_LIMIT else (NONE, best[1], best[2])


def _texture(share: np.ndarray, inside: np.ndarray) -> str:
    """The texture whose pattern, over rotation and phase, comes closest to the second tone's."""
    found = share[inside]
    names, patterns = _patterns()
    chosen = patterns[np.flatnonzero(inside)].T
    # Squared differences, less the term that all patterns share.
    errors = np.einsum("kp,kp->k", chosen, chosen) - 2.0 * (chosen @ found.astype(np.float32))
    best = int(errors.argmin())
    return names[best] if -errors[best] >= _LEAST_EXPLAINED * float(found @ found) else "plain"


@functools.cache
def _patterns() -> tuple[list[str], np.ndarray]:
    """Every texture at every angle and phase: names, and shares of second tone `[64 x 64, patterns]`."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2 + 0.5
    names, patterns = ["plain"], [np.zeros(SIDE * SIDE, np.float32)]
    for angle in np.radians(_ANGLES):
        u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        for texture, a, b in _phases():
            names.append(texture)
            patterns.append(second_tone_share(texture, u + a, v + b).astype(np.float32).ravel())
    # Pixels first, so that those inside an object are copied row by row.
    return names, np.stack(patterns, axis=1)


def _phases() -> list[tuple[str, float, float]]:
    """Textures with phases a pixel or so apart; stripes need one number, the others two."""
    dots, checks = np.arange(0.0, DOT_PERIOD, 1.0), np.arange(0.0, CHECK_PERIOD, 1.5)
    phases = [("striped", float(a), 0.0) for a in np.arange(0.0, STRIPE_PERIOD, 0.5)]
    phases += [("dotted", float(a), float(b)) for a in dots for b in dots]
    return phases + [("checked", float(a), float(b)) for a in checks for b in checks]


def _normalised(mask: np.ndarray) -> np.ndarray:
    """A mask moved to its centre and scaled to a fixed area, `[grid x grid]` from 0 to 1."""
    total = mask.sum()
    y, x = np.mgrid[:SIDE, :SIDE]
    centre_y, centre_x = (mask * y).sum() / total, (mask * x).sum() / total
    scale = np.sqrt(total) / (0.45 * _GRID)
    steps = (np.arange(_GRID) - (_GRID - 1) / 2) * scale
    return _bilinear(mask.astype(np.float32), centre_y + steps[:, None], centre_x + steps[None, :]).ravel()


def _bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    padded = np.pad(image, 1)
    y, x = np.broadcast_arrays(np.clip(y + 1, 0, SIDE), np.clip(x + 1, 0, SIDE))
    top, left = y.astype(int), x.astype(int)
    fy, fx = y - top, x - left
    upper = padded[top, left] * (1 - fx) + padded[top, left + 1] * fx
    lower = padded[top + 1, left] * (1 - fx) + padded[top + 1, left + 1] * fx
    return upper * (1 - fy) + lower * fy


@functools.cache
def _templates() -> tuple[list[str], np.ndarray]:
    """Every shape at every angle: their names, and masks `[templates, grid x grid]`."""
    names, masks = [], []
    axis = np.arange(SIDE) - SIDE / 2 + 0.5
    y, x = np.meshgrid(axis, axis, indexing="ij")
    for name, outline in OUTLINES.items():
        for angle in np.radians(_ANGLES):
            u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
            masks.append(_normalised(np.clip(0.5 - 22.0 * outline(u / 22.0, v / 22.0), 0, 1)))
            names.append(name)
    return names, np.stack(masks)


def _shape(mask: np.ndarray) -> tuple[str, float]:
    """The shape with the largest overlap, and that overlap."""
    names, templates = _templates()
    found = _normalised(mask)
    shared = np.minimum(templates, found).sum(axis=1)
    overlaps = shared / (templates.sum(axis=1) + found.sum() - shared)
    best = int(overlaps.argmax())
    return (names[best] if overlaps[best] >= _LEAST_OVERLAP else NONE), float(overlaps[best])
