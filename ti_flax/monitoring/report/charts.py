"""Curves as SVG, drawn for a page that is light or dark: colours come from its style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

# The image's size and the room around the curves, in SVG's units.
WIDTH, HEIGHT = 560, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 10, 30
# More points than this lie on the same pixels.
_MOST_POINTS = 400
# Beyond it there is nothing to see, and products overflow; closer together, values differ by rounding.
_LARGEST, _LEAST_ROOM = 1e30, 1e-9


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
      name: for the legend; empty for none.
      x: `[points]`, rising.
      y: `[points]`; values that are not finite, or too large to be drawn, are left out.
      faint: drawn behind the others, as noise is.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    faint: bool = False


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    explanation: str = "",
    mark: tuple[float, str] | None = None,
    limit: tuple[float, str] | None = None,
) -> str:
    """A figure with a title, a legend and curves over steps; empty where there is nothing to draw.

    Args:
      title: above it.
      curves: those that are not faint take colours in their order.
      explanation: one sentence below the title.
      mark: a step with its name, drawn as an upright line.
      limit: a height with its name, drawn as a level line, and only if the curves come near it.
    """
    drawn = [each for each in map(_finite, curves) if len(each.x)]
    if not drawn or not any(len(each.x) > 1 for each in drawn):
        return ""
    first, last = _range(drawn, "x")
    if last - first <= _LEAST_ROOM * max(abs(first), abs(last)):
        return ""
    x = _Scale(first, last, _LEFT, WIDTH - _RIGHT)
    low, high = _range(drawn, "y")
    if limit is not None and limit[0] <= 1.5 * high:
        high = max(high, 1.05 * limit[0])
    else:
        limit = None
    y = _Scale(*_with_room(low, high), HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(x, y)]
    if limit is not None:
        parts.append(_level(limit, y))
    if mark is not None:
        parts.append(_upright(mark, x))
    colour, legend = 0, []
    for each in sorted(drawn, key=lambda each: not each.faint):
        kind = "faint" if each.faint else f"c{colour % 6}"
        colour += not each.faint
        parts.append(_path(each, x, y, kind))
        if each.name:
            legend.append(f'<span class="{kind}">{escape(each.name)}</span>')
    named = f'<p class="legend">{" ".join(legend)}</p>' if legend else ""
    said = f"<p>{escape(explanation)}</p>" if explanation else ""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{said}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f"{named}</figure>"
    )


def smoothed(values: np.ndarray, half_life: float) -> np.ndarray:
    """The mean of all values so far, in which one counts half as much as another `half_life` later."""
    fade = 0.5 ** (1.0 / half_life)
    result, total, weight = np.empty(len(values)), 0.0, 0.0
    for index, value in enumerate(values):
        if abs(value) <= _LARGEST:
            total, weight = fade * total + value, fade * weight + 1.0
        result[index] = total / weight if weight else math.nan
    return result


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two bounds: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [
        step * number for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


@dataclass(frozen=True)
class _Scale:
    """From values to the image's units."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float | np.ndarray) -> Any:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def _finite(curve: Curve) -> Curve:
    x, y = np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)
    kept = (np.abs(x) <= _LARGEST) & (np.abs(y) <= _LARGEST)
    return Curve(curve.name, x[kept], y[kept], curve.faint)


def _range(curves: Sequence[Curve], axis: str) -> tuple[float, float]:
    values = np.concatenate([getattr(each, axis) for each in curves])
    return float(values.min()), float(values.max())


def _with_room(low: float, high: float) -> tuple[float, float]:
    """A little air above and below, and a height of its own for a level line."""
    size = max(abs(low), abs(high))
    room = 0.06 * (high - low) if high - low > _LEAST_ROOM * size else 0.1 * size
    room = room if room > 1.0 / _LARGEST else 1.0
    return (0.0 if 0.0 <= low < 0.3 * high else low - room), high + room


def _thinned(curve: Curve) -> Curve:
    """At most `_MOST_POINTS` points, each the mean of its neighbours, and always the last."""
    every = math.ceil(len(curve.x) / _MOST_POINTS)
    if every == 1:
        return curve
    edges = np.arange(0, len(curve.x), every)
    counts = np.diff(np.append(edges, len(curve.x)))
    x, y = (np.add.reduceat(values, edges) / counts for values in (curve.x, curve.y))
    return Curve(curve.name, np.append(x, curve.x[-1]), np.append(y, curve.y[-1]), curve.faint)


def _path(curve: Curve, x: _Scale, y: _Scale, kind: str) -> str:
    last = curve.x[-1], curve.y[-1]
    points = _thinned(curve)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x(points.x), y(points.y), strict=True))
    line = f'<polyline class="{kind}" points="{path}"/>'
    if curve.faint:
        return line
    title = f"<title>{escape(curve.name)} {_number(last[1])} at step {last[0]:.0f}</title>"
    return f'{line}<circle class="{kind}" cx="{x(last[0]):.1f}" cy="{y(last[1]):.1f}" r="3">{title}</circle>'


def _grid(x: _Scale, y: _Scale) -> str:
    parts = []
    for value in ticks(y.low, y.high, 4):
        height = y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in ticks(x.low, x.high, 6):
        place = x(value)
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{_number(value)}</text>')
    return "".join(parts)


def _level(limit: tuple[float, str], y: _Scale) -> str:
    height = y(limit[0])
    return (
        f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        f'<text class="limit" x="{_LEFT + 6}" y="{height - 5:.1f}">{escape(limit[1])}</text>'
    )


def _upright(mark: tuple[float, str], x: _Scale) -> str:
    place = x(mark[0])
    right = place > WIDTH / 2
    anchor, beside = ("end", place - 5) if right else ("start", place + 5)
    return (
        f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<text class="mark" x="{beside:.1f}" y="{_TOP + 10}" text-anchor="{anchor}">{escape(mark[1])}</text>'
    )


def _number(value: float) -> str:
    """A number as short as it can be read."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"
