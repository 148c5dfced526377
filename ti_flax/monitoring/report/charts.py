"""Curves as SVG, drawn for a page that is light or dark: colours come from its style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

# The image's size and the room around the curves, in SVG's units.
WIDTH, HEIGHT = 480, 264
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 26, 46, 44
# More points than this lie on the same pixels; of no more than the second number each is a dot of its own.
_MOST_POINTS, _MOST_DOTS = 400, 60
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
      dots: whether each point, if they are few, is a dot that says its value.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    faint: bool = False
    dots: bool = False


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    explanation: str = "",
    mark: tuple[float, str] | None = None,
    limit: Limit | None = None,
    unit: str = "",
) -> str:
    """A figure with a title, a legend and curves over steps; empty where there is nothing to draw.

    Args:
      title: above it.
      curves: those that are not faint take colours in their order.
      explanation: one sentence below the title.
      mark: a step with its name, drawn as an upright line.
      limit: a height that they should not pass.
      unit: of their heights, in words.
    """
    drawn = [each for each in map(_finite, curves) if len(each.x)]
    if not drawn or not any(len(each.x) > 1 for each in drawn):
        return ""
    first, last = _range(drawn, "x")
    if last - first <= _LEAST_ROOM * max(abs(first), abs(last)):
        return ""
    x = _Scale(first, last, _LEFT, WIDTH - _RIGHT)
    low, high = _range(drawn, "y")
    if limit is not None and (limit.always or limit.height <= 1.5 * high):
        room = 0.4 * max(high - low, 0.05 * abs(limit.height))  # for the field beyond it
        low = min(low, limit.height - room) if limit.below else low
        high = high if limit.below else max(high, limit.height + 0.05 * limit.height)
    else:
        limit = None
    y = _Scale(*_with_room(low, high), HEIGHT - _BOTTOM, _TOP)
    parts = [_field(limit, y) if limit else "", _grid(x, y, unit)]
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
        f"<figure><figcaption>{escape(title)}</figcaption>{said}{named}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        "</figure>"
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
class Limit:
    """A height that curves should not pass, drawn as a level line over or under a tinted field.

    Attributes:
      height: where it is.
      name: beside it.
      below: whether it is what lies below that is tinted.
      always: whether it is drawn also if the curves stay far from it.
    """

    height: float
    name: str
    below: bool = False
    always: bool = False


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
    return Curve(curve.name, x[kept], y[kept], curve.faint, curve.dots)


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
    points = _thinned(curve)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x(points.x), y(points.y), strict=True))
    line = f'<polyline class="{kind}" points="{path}"/>'
    if curve.faint:
        return line
    every = curve.dots and len(curve.x) <= _MOST_DOTS
    shown = range(len(curve.x)) if every else [len(curve.x) - 1]
    return line + "".join(_dot(curve.name, curve.x[each], curve.y[each], x, y, kind) for each in shown)


def _dot(name: str, step: float, value: float, x: _Scale, y: _Scale, kind: str) -> str:
    title = f"<title>{escape(f'{name} {_number(value)} at step {step:.0f}'.strip())}</title>"
    return f'<circle class="{kind}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="3">{title}</circle>'


def _grid(x: _Scale, y: _Scale, unit: str) -> str:
    """Lines at round heights, round numbers beside both axes, and what they count."""
    parts, heights, places = [], ticks(y.low, y.high, 6), ticks(x.low, x.high, 5)
    for value, text in zip(heights, _numbers(heights), strict=True):
        height = y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{text}</text>'
        )
    foot = HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{foot}" y2="{foot}"/>')
    for value, text in zip(places, _numbers(places), strict=True):
        place = x(value)
        parts.append(
            f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{foot}" y2="{foot + 4}"/>'
            f'<text x="{place:.1f}" y="{foot + 18}" text-anchor="middle">{text}</text>'
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="unit" x="{middle:g}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    if unit:
        parts.append(f'<text class="unit" x="4" y="16">{escape(unit)}</text>')
    return "".join(parts)


def _field(limit: Limit, y: _Scale) -> str:
    """What lies beyond a limit."""
    height = y(limit.height)
    top, foot = (height, HEIGHT - _BOTTOM) if limit.below else (_TOP, height)
    size = f'width="{WIDTH - _RIGHT - _LEFT}" height="{max(0.0, foot - top):.1f}"'
    return f'<rect class="limit" x="{_LEFT}" y="{top:.1f}" {size}/>'


def _level(limit: Limit, y: _Scale) -> str:
    height = y(limit.height)
    beside = HEIGHT - _BOTTOM - 8 if limit.below else height - 5
    return (
        f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        f'<text class="limit" x="{_LEFT + 6}" y="{beside:.1f}">{escape(limit.name)}</text>'
    )


def _upright(mark: tuple[float, str], x: _Scale) -> str:
    place = x(mark[0])
    right = place > WIDTH / 2
    anchor, beside = ("end", place - 5) if right else ("start", place + 5)
    return (
        f'<line class="mark" x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<text class="mark" x="{beside:.1f}" y="{_TOP - 7}" text-anchor="{anchor}">{escape(mark[1])}</text>'
    )


def _numbers(values: Sequence[float]) -> list[str]:
    """The numbers of an axis, all with as many digits after the point as tell two of them apart."""
    if len(values) < 2:
        return [_number(value) for value in values]
    apart, largest = values[1] - values[0], max(map(abs, values))
    if apart < 1e-4 or largest >= 1e7:
        return [_number(value) for value in values]
    digits = max(0, -math.floor(math.log10(apart) + 1e-9))
    return [f"{value + 0.0:,.{digits}f}" for value in values]


def _number(value: float) -> str:
    """A number as short as it can be read."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"
