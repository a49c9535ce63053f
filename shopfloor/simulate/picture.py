"""Accuracy over simulated hours as a picture: SVG or PNG, by the file's name.

Responsible for drawing with matplotlib, and the only module of the simulation that imports it.
Invariant: the same runs give the same bytes; no line is told by color alone.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shopfloor.simulate.outcome import Outcome

_COLORS = ("#0b6e99", "#c2571a", "#4b7f2b", "#7a4ea3", "#8a6d1f", "#a32f4d")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (10, 3)), (0, (3, 1)))
_INK, _MUTED, _GRID = "#1d2329", "#5d6770", "#e3e6e8"
_SMOOTHED = 3
_LABEL_GAP = 0.05
"""Least distance of two labels, as a share of the axis."""


def draw(runs: Sequence[tuple[str, Outcome]], target: float, title: str, file: Path) -> None:
    """Draw each run's accuracy, mean of three evaluations, and when it came to the target.

    Raises:
      OSError: the file can not be written.
      ValueError: its name does not end in a format that matplotlib writes.
    """
    with (
        style.context("default"),
        rc_context({"svg.hashsalt": "simulate", "svg.fonttype": "none", "text.parse_math": False}),
    ):
        figure = Figure(figsize=(9.0, 4.4), dpi=150, facecolor="white")
        axes = figure.add_axes((0.075, 0.125, 0.735, 0.765))
        hours = max(outcome.hours for _, outcome in runs)
        _frame(axes, hours, target, title)
        ends = [_line(axes, place, *run) for place, run in enumerate(runs)]
        _label(axes, ends)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, metadata=nothing if file.suffix == ".svg" else {"Software": None})


def _frame(axes: Axes, hours: float, target: float, title: str) -> None:
    axes.set_xlim(0, hours)
    axes.set_ylim(0, 1)
    axes.set_xlabel("simulated time, hours", color=_MUTED)
    axes.set_ylabel("accuracy on rows that no agent has", color=_MUTED)
    axes.set_title(title, loc="left", color=_INK, fontsize=11, pad=10)
    axes.tick_params(colors=_MUTED, length=0, pad=5)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_MUTED)
    axes.axhline(target, color=_INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.annotate(
        f"target {target:g}",
        (0, target),
        xytext=(4, 3),
        textcoords="offset points",
        color=_INK,
        fontsize=9,
    )


def _line(axes: Axes, place: int, name: str, outcome: Outcome) -> tuple[float, str, str]:
    """Draw one run; returns where it ends, its label and its color."""
    color = _COLORS[place % len(_COLORS)]
    accuracy = [point.accuracy for point in outcome.curve]
    means = [
        sum(accuracy[max(0, at - _SMOOTHED + 1) : at + 1]) / min(at + 1, _SMOOTHED)
        for at in range(len(accuracy))
    ]
    hours = [point.at_s / 3600 for point in outcome.curve]
    axes.plot(hours, means, color=color, linewidth=1.7, linestyle=_DASHES[place % len(_DASHES)])
    words = f"{name} {means[-1]:.2f}"
    if outcome.reached is not None:
        at = outcome.curve.index(outcome.reached)
        axes.plot(hours[at], means[at], "o", color=color, markersize=6)
        words += f"\ntarget at {hours[at]:.1f} h"
    return means[-1], words, color


def _label(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each run's words at the right edge, moved apart."""
    places: list[float] = []
    ranked = sorted(ends)
    needed = [_LABEL_GAP * (1 + words.count("\n")) for _, words, _ in ranked]
    for (value, _, _), height in zip(ranked, needed, strict=True):
        lowest = places[-1] + height if places else height / 2
        places.append(max(value, lowest))
    ceiling = 1.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling - needed[index] / 2)
        ceiling = places[index] - needed[index] / 2
    for place, (_, words, color) in zip(places, ranked, strict=True):
        axes.annotate(
            words,
            (1, place),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            color=color,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )
