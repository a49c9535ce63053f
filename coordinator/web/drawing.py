"""Small drawings inside tables, as SVG text: no script needed, colors come from classes.

Invariant: only numbers that were computed here reach the text, so nothing has to be escaped.
"""

from collections.abc import Sequence
from typing import Final

Line = Sequence[tuple[float, float]]
_EDGE: Final = 2.0


def sparkline(under: Line, over: Line, width: int = 150, height: int = 32) -> str:
    """Two lines over the same axes: `under` quiet, `over` with a dot at its end."""
    points = [*under, *over]
    if not points:
        return ""
    place = _Place(points, width, height)
    parts = [_polyline(line, place, name) for line, name in ((under, "u"), (over, "o"))]
    if over:
        x, y = place.at(over[-1])
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>')
    return _svg("spark", width, height, parts)


class _Place:
    """Maps points into a box, with a little room around."""

    def __init__(self, points: Line, width: int, height: int) -> None:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self._x0, self._y0 = min(xs), min(ys)
        self._wide, self._high = max(xs) - self._x0, max(ys) - self._y0
        self._width, self._height = width - 3 * _EDGE, height - 3 * _EDGE

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        x = (point[0] - self._x0) / self._wide if self._wide else 1.0
        y = (point[1] - self._y0) / self._high if self._high else 0.5
        return _EDGE + x * self._width, 1.5 * _EDGE + (1 - y) * self._height


def _polyline(line: Line, place: _Place, name: str) -> str:
    if len(line) < 2:
        return ""
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place.at, line))
    return f'<polyline class="{name}" points="{text}"/>'


def strip(stretches: Line, width: int = 132, height: int = 12) -> str:
    """When a link was up, as fractions of the whole width."""
    parts = [f'<rect class="off" width="{width}" height="{height}" rx="2"/>']
    parts += [
        f'<rect class="on" x="{first * width:.1f}" width="{max(last - first, 0.004) * width:.1f}"'
        f' height="{height}"/>'
        for first, last in stretches
    ]
    return _svg("strip", width, height, parts)


def bar(share: float, name: str = "bar", width: int = 200, height: int = 12) -> str:
    """A bar of a share in [0, 1]; what is not nothing is seen."""
    length = max(min(share, 1.0) * width, 1.5 if share > 0 else 0.0)
    parts = [
        f'<rect class="rail" width="{width}" height="{height}" rx="2"/>',
        f'<rect class="fill" width="{length:.1f}" height="{height}" rx="2"/>',
    ]
    return _svg(name, width, height, parts, stretch=True)


def whisker(value: float, error: float, most: float, width: int = 120, height: int = 18) -> str:
    """A figure with its error bar (two sigma) around a zero line; `most` is the axis' end."""
    scale = (width / 2 - 3) / most if most > 0 else 0.0
    middle, half = width / 2, height / 2
    x = middle + value * scale
    low, high = (max(1.0, min(width - 1.0, x + sign * 2 * error * scale)) for sign in (-1, 1))
    name = "plus" if value - 2 * error > 0 else "minus" if value + 2 * error < 0 else "even"
    left, wide = min(x, middle), abs(x - middle)
    end, other_end = (f"M{at:.1f} {half - 3}v6" for at in (low, high))
    parts = [
        f'<line class="zero" x1="{middle}" x2="{middle}" y1="0" y2="{height}"/>',
        f'<rect class="{name}" x="{left:.1f}" y="{half - 4}" width="{wide:.1f}" height="8"/>',
        f'<path class="error" d="M{low:.1f} {half}H{high:.1f}{end}{other_end}"/>',
    ]
    return _svg("whisker", width, height, parts)


def _svg(name: str, width: int, height: int, parts: Sequence[str], *, stretch: bool = False) -> str:
    aspect = ' preserveAspectRatio="none"' if stretch else ""
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f'{aspect} aria-hidden="true">{"".join(parts)}</svg>'
    )
