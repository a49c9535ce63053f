"""How the reports draw: matplotlib to inline SVG that follows the page's colors.

Responsible for axes, labels at the right edge and the SVG itself.  Refuses to depend on a
matplotlibrc, on the clock or on chance.  Invariant: the same drawing gives the same bytes; colors
are CSS variables (report_style.css has them for light and for dark pages), and every drawing
carries its content as text for screen readers.  Only what draws imports this module: it loads
matplotlib.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO

from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TOKENS = ("ink", "muted", "grid", "outage", "own", "federated", "pooled", "personal")
SITE_TOKENS = ("site0", "site1", "site2", "site3", "site4")
COLORS = {name: f"#0000{1 + index:02x}" for index, name in enumerate(TOKENS + SITE_TOKENS)}
"""Stand-ins that matplotlib writes and `svg_of` turns into CSS variables."""

HEIGHT_IN = 2.9
LABELS_IN, TOP_IN, BOTTOM_IN = 1.3, 0.12, 0.46
"""Margins in inches, so that plots of different height and width align."""


@contextmanager
def plain_drawing() -> Iterator[None]:
    """Draw from matplotlib's defaults: no matplotlibrc counts, and a "$" is no formula."""
    with style.context("default"), rc_context({"font.size": 10, "text.parse_math": False}):
        yield


def add_axes(figure: Figure, left_in: float, bottom_in: float, top_in: float) -> Axes:
    """Empty axes with these margins, and `LABELS_IN` at the right for words."""
    width_in, height_in = figure.get_size_inches()
    axes = figure.add_axes(
        (
            left_in / width_in,
            bottom_in / height_in,
            (width_in - left_in - LABELS_IN) / width_in,
            (height_in - bottom_in - top_in) / height_in,
        )
    )
    axes.tick_params(colors=COLORS["muted"], length=0, pad=5)
    axes.grid(axis="y", color=COLORS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(COLORS["muted"])
    return axes


def time_axes(
    width_in: float, height_in: float, wall_s: float, left_in: float
) -> tuple[Figure, Axes]:
    """An empty plot over the run's time."""
    figure = Figure(figsize=(width_in, height_in), dpi=72)
    axes = add_axes(figure, left_in, BOTTOM_IN, TOP_IN)
    axes.set_xlim(0, wall_s)
    axes.set_xlabel("time, s", color=COLORS["muted"])
    return figure, axes


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> str:
    """Write (value, words, color) at the right edge, moved apart; returns all words."""
    low, high = axes.get_ylim()
    figure = axes.get_figure(root=True)
    height_in = HEIGHT_IN if figure is None else figure.get_figheight()
    gap = (high - low) * 0.17 / (axes.get_position().height * height_in)
    ranked = sorted(ends)
    places: list[float] = []
    for value, _, _ in ranked:
        places.append(max(value, places[-1] + gap) if places else value)
    ceiling = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    for place, (_, words, color) in zip(places, ranked, strict=True):
        label_right(axes, place, words, color)
    return ", ".join(words for _, words, _ in ends)


def label_right(axes: Axes, place: float, words: str, color: str) -> None:
    """Write words at the right edge of the axes, at `place` on the y axis."""
    axes.annotate(
        words,
        (1, place),
        xycoords=("axes fraction", "data"),
        xytext=(7, 0),
        textcoords="offset points",
        color=color,
        va="center",
        annotation_clip=False,
    )


def svg_of(figure: Figure, name: str, description: str) -> str:
    """Draw as inline SVG: stable ids of its own, text as text, colors as CSS variables.

    Args:
      figure: drawn within `plain_drawing`.
      name: beginning of its ids: one of its own in the page, safe in HTML.
      description: what it shows, for screen readers.
    """
    drawn = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for token, color in COLORS.items():
        svg = svg.replace(color, f"var(--{token})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
