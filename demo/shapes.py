"""Outlines of the world's objects as signed distances: negative inside, in units of the object's radius.

Distances to polygons are exact; the others are unions and differences of circles. Every shape fits into the
unit circle, points up, and has y growing downwards, as images have.
"""

from collections.abc import Callable

import numpy as np

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def circle(x: np.ndarray, y: np.ndarray, *, centre=(0.0, 0.0), radius=1.0) -> np.ndarray:
    """Signed distance to a circle."""
    return np.hypot(x - centre[0], y - centre[1]) - radius


def polygon(vertices: list[tuple[float, float]]) -> Outline:
    """Makes the signed distance to a closed polygon, convex or not."""
    starts = np.asarray(vertices, np.float32)
    ends = np.roll(starts, -1, axis=0)

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        squared, inside = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(starts, ends, strict=True):
            px, py, ex, ey = x - ax, y - ay, bx - ax, by - ay
            along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0.0, 1.0)
            squared = np.minimum(squared, (px - ex * along) ** 2 + (py - ey * along) ** 2)
            # Even-odd rule: count the edges that a ray to the right crosses.
            if ay != by:
                inside ^= ((y >= ay) != (y >= by)) & (px < ex * py / ey)
        return np.where(inside, -1.0, 1.0) * np.sqrt(squared)

    return distance


def _on_circle(count: int, *, radius=1.0, first=-90.0) -> list[tuple[float, float]]:
    angles = np.radians(first + 360.0 / count * np.arange(count))
    return [(float(radius * np.cos(a)), float(radius * np.sin(a))) for a in angles]


def _star() -> Outline:
    outer, inner = _on_circle(5), _on_circle(5, radius=0.42, first=-54.0)
    return polygon([point for pair in zip(outer, inner, strict=True) for point in pair])


def _cross() -> Outline:
    a, b = 0.3, 0.95
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a)]
    return polygon([*corners, (-b, -a), (-a, -a)])


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    lobes = np.minimum(
        circle(x, y, centre=(-0.42, -0.35), radius=0.5), circle(x, y, centre=(0.42, -0.35), radius=0.5)
    )
    return np.minimum(lobes, _HEART_POINT(x, y))


_HEART_POINT = polygon([(-0.86, -0.12), (0.0, -0.45), (0.86, -0.12), (0.0, 0.95)])


def _flower(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    petals = [circle(x, y, centre=centre, radius=0.4) for centre in _on_circle(5, radius=0.6)]
    return np.minimum.reduce([*petals, circle(x, y, radius=0.3)])


OUTLINES: dict[str, Outline] = {
    "circle": lambda x, y: circle(x, y, radius=0.9),
    "square": polygon([(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)]),
    "triangle": polygon(_on_circle(3)),
    "star": _star(),
    "heart": _heart,
    "cross": _cross(),
    "ring": lambda x, y: np.abs(circle(x, y, radius=0.68)) - 0.24,
    "moon": lambda x, y: np.maximum(
        circle(x, y, radius=0.95), -circle(x, y, centre=(0.45, -0.1), radius=0.78)
    ),
    "arrow": polygon(
        [(0, -1), (0.72, -0.15), (0.28, -0.15), (0.28, 0.95), (-0.28, 0.95), (-0.28, -0.15), (-0.72, -0.15)]
    ),
    "bolt": polygon([(0.4, -0.95), (-0.7, 0.2), (-0.1, 0.2), (-0.4, 0.95), (0.75, -0.3), (0.15, -0.3)]),
    "flower": _flower,
    "hourglass": polygon([(-0.7, -0.85), (0.7, -0.85), (0.12, 0), (0.7, 0.85), (-0.7, 0.85), (-0.12, 0)]),
}
