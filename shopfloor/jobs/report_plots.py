"""Plots of a job's report: the sites' four models as dots, and the course of the served version.

Responsible for what they show; `shopfloor/drawing.py` has the means.  With it the only module of
the report that imports matplotlib.  Invariant: the same record gives the same bytes, and no series
is told by color alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shopfloor.drawing import (
    BOTTOM_IN,
    COLORS,
    HEIGHT_IN,
    TOP_IN,
    add_axes,
    label_ends,
    label_right,
    plain_drawing,
    svg_of,
)
from shopfloor.jobs.record import JobRecord, Qualities
from shopfloor.jobs.report_verdict import WAYS
from shopfloor.jobs.report_words import NAMES, TOO_FEW, number, with_unit

WIDTH_IN, LANE_IN, BAND_IN = 9.8, 0.34, 0.24
_MARKS = {
    "local": ("own", "s", -0.24),
    "federated": ("federated", "o", -0.08),
    "personal": ("personal", "D", 0.08),
    "pooled": ("pooled", "^", 0.24),
}
"""Of each way: its color, its mark, and how far from the middle of the lane it stands."""
_LONGEST_NAME = 24
_SETTLED_FROM = 0.1
"""Part of the versions that may lie outside of the picture, for the first know nothing."""


@dataclass(frozen=True)
class JobPlots:
    """SVG elements, ready to stand in a page.

    Attributes:
      sites: the four models of each site.
      course: quality over time and the outages; empty when no version was judged.
      is_cut: whether the first versions are outside of the course's picture.
    """

    sites: str
    course: str
    is_cut: bool


def draw_job_plots(record: JobRecord) -> JobPlots:
    """Every plot of the report."""
    with plain_drawing():
        points = [(each.t_s, each.quality) for each in record.course if each.quality is not None]
        if not points:
            return JobPlots(_sites_plot(record), "", is_cut=False)
        course, is_cut = _course_plot(record, points)
        return JobPlots(_sites_plot(record), course, is_cut)


def _left_in(record: JobRecord) -> float:
    """Room for the longest name of a lane."""
    longest = max([16, *(len(_short(site.name)) for site in record.sites)])
    return 0.25 + 0.085 * longest


def _short(name: str) -> str:
    return (
        name
        if len(name) <= _LONGEST_NAME
        else f"{name[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
    )


def _sites_plot(record: JobRecord) -> str:
    """One lane a site, each way a mark; the last lanes: mean of the sites, all rows together."""
    lanes: list[tuple[str, Qualities]] = [(site.name, site.quality) for site in record.sites]
    lanes += [("mean of the sites", record.own), ("all rows together", record.overall)]
    figure = Figure(figsize=(WIDTH_IN, BOTTOM_IN + TOP_IN + LANE_IN * len(lanes)), dpi=72)
    axes = add_axes(figure, _left_in(record), BOTTOM_IN, TOP_IN)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_yticks(range(len(lanes)), [_short(name) for name, _ in lanes], color=COLORS["ink"])
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=COLORS["grid"], linewidth=0.8)
    axes.axhline(len(record.sites) - 0.5, color=COLORS["muted"], linewidth=0.8)
    axes.set_xlim(*_span([getattr(quality, way) for _, quality in lanes for way in WAYS]))
    unit = f", {record.unit}" if record.metric == "rmse" and record.unit else ""
    axes.set_xlabel(f"{NAMES[record.metric]}{unit}", color=COLORS["muted"])
    if record.metric == "accuracy":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    described = [_lane(axes, at, *lane, record) for at, lane in enumerate(lanes)]
    words = f"{NAMES[record.metric]} of four models by site: {'; '.join(described)}."
    return svg_of(figure, "job-sites", words)


def _lane(axes: Axes, at: int, name: str, quality: Qualities, record: JobRecord) -> str:
    """Draw one lane; returns it in words."""
    known = {way: getattr(quality, way) for way in WAYS if getattr(quality, way) is not None}
    if not known:
        label_right(axes, at, TOO_FEW, COLORS["muted"])
        return f"{name} {TOO_FEW}"
    ends = (min(known.values()), max(known.values()))
    axes.plot(ends, (at, at), color=COLORS["grid"], linewidth=5, solid_capstyle="butt")
    for way, value in known.items():
        series, mark, aside = _MARKS[way]
        axes.plot(
            [value], [at + aside], mark, color=COLORS[series], markersize=6.4, clip_on=False,
            markeredgewidth=0, zorder=4,
        )  # fmt: skip
    shown = ", ".join(f"{way} {number(record.metric, value)}" for way, value in known.items())
    return f"{name}: {shown}"


def _span(values: Sequence[float | None]) -> tuple[float, float]:
    """Limits around the values that are known, with some room."""
    known = [value for value in values if value is not None] or [0.0, 1.0]
    low, high = min(known), max(known)
    room = max(0.06 * (high - low), 1e-3 * max(abs(high), 1e-6))
    return low - room, high + room


def _course_plot(record: JobRecord, points: list[tuple[float, float]]) -> tuple[str, bool]:
    """Quality over time above, a band for each site below; whether first versions are cut off."""
    bands_in = BAND_IN * len(record.sites)
    below_in = BOTTOM_IN + bands_in
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN + bands_in), dpi=72)
    left_in = _left_in(record)
    axes = add_axes(figure, left_in, below_in + 0.16, TOP_IN)
    end_s = max(record.wall_s, points[-1][0])
    axes.set_xlim(0, end_s)
    axes.tick_params(labelbottom=False)
    settled = points[int(_SETTLED_FROM * len(points)) :]
    lines = (("local", "own", (0, (5, 2)), record.overall.local),
             ("pooled", "pooled", (0, (1, 1.6)), record.overall.pooled))  # fmt: skip
    low, high = _span([value for _, value in settled] + [value for *_, value in lines])
    axes.set_ylim(low, high)
    axes.set_ylabel(NAMES[record.metric], color=COLORS["muted"])
    if record.metric == "accuracy":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    drawn = [*points, (end_s, points[-1][1])]
    axes.plot(
        [t_s for t_s, _ in drawn], [value for _, value in drawn], color=COLORS["federated"],
        linewidth=2.2, drawstyle="steps-post",
    )  # fmt: skip
    last = points[-1][1]
    ends = [(last, f"served {number(record.metric, last)}", COLORS["federated"])]
    for name, series, dash, value in lines:
        if value is not None:
            axes.axhline(value, color=COLORS[series], linestyle=dash, linewidth=1.8)
            ends.append((value, f"{name} {number(record.metric, value)}", COLORS[series]))
    shown = label_ends(axes, ends)
    _bands(figure, record, end_s, left_in, HEIGHT_IN + bands_in - below_in)
    direction = " (smaller is better)" if record.metric == "rmse" else ""
    words = (
        f"{NAMES[record.metric]}{direction} of the served version over {end_s:.0f} s: first "
        f"{with_unit(record, points[0][1])}; at the end: {shown}. Links down: "
        + ", ".join(f"{site.name} {site.down_share:.0%}" for site in record.sites)
    )
    is_cut = any(not low <= value <= high for _, value in points)
    return svg_of(figure, "job-course", f"{words}."), is_cut


def _bands(figure: Figure, record: JobRecord, end_s: float, left_in: float, top_in: float) -> None:
    """A band a site: line while its link is up, block while it is down."""
    axes = add_axes(figure, left_in, BOTTOM_IN, top_in)
    axes.grid(visible=False)
    axes.set_xlim(0, end_s)
    axes.set_xlabel("time, s", color=COLORS["muted"])
    names = [_short(site.name) for site in record.sites]
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names, color=COLORS["ink"])
    for lane, site in enumerate(record.sites):
        spans = [
            (each.down_s, min(each.up_s, end_s) - each.down_s)
            for each in record.outages
            if each.site == site.name and each.down_s < end_s
        ]
        axes.plot((0, end_s), (lane, lane), color=COLORS["federated"], linewidth=1.6)
        axes.broken_barh(
            spans, (lane - 0.3, 0.6), facecolor=COLORS["outage"], linewidth=0, zorder=3
        )
        label_right(axes, lane, f"down {site.down_share:.0%}", COLORS["muted"])
