"""The report's plots as inline SVG: quality over time, outages and versions, bytes sent.

Responsible for drawing with matplotlib, and the only module of the report that imports it.  Refuses
to depend on a matplotlibrc, on the clock or on chance.  Invariant: the same record gives the same
bytes; colors are CSS variables (report_style.css has them for light and for dark pages), no series
is told by color alone, and every drawing carries its content as text for screen readers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shopfloor.record import ModelQuality, QualityPoint, RunRecord
from shopfloor.report_words import bytes_words

TOKENS = ("ink", "muted", "grid", "outage", "own", "federated", "pooled")
SITE_TOKENS = ("site0", "site1", "site2", "site3", "site4")
COLORS = {name: f"#0000{1 + index:02x}" for index, name in enumerate(TOKENS + SITE_TOKENS)}
"""Stand-ins that matplotlib writes and `_svg` turns into CSS variables."""

SERIES: dict[str, dict[str, Any]] = {
    "own": {"linestyle": (0, (5, 2)), "marker": "s", "markersize": 4.2, "linewidth": 1.8},
    "federated": {"drawstyle": "steps-post", "marker": "o", "markersize": 3.4, "linewidth": 2.2},
    "pooled": {"linestyle": (0, (1, 1.6)), "marker": "^", "markersize": 4.2, "linewidth": 1.8},
}
"""Federated in steps, because a version counts until the next one replaces it."""

SITE_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (10, 3)))
"""One dash for each of `SITE_TOKENS`, so that lines differ without color."""

HEIGHT_IN = 2.9
LABELS_IN, TOP_IN, BOTTOM_IN = 1.3, 0.12, 0.46
"""Margins in inches, so that plots of different height and width align."""

Points = Sequence[tuple[float, float]]
"""(seconds since the run began, quality 0..1) in time order."""


@dataclass(frozen=True)
class Plots:
    """SVG elements, ready to stand in a page; `per_site` in the record's order of sites."""

    per_site: list[str]
    all_sites: str
    timeline: str
    traffic: str


def draw_plots(record: RunRecord) -> Plots:
    """Every plot of the report."""
    # From the defaults, so that no matplotlibrc changes the page; a "$" in a name is no formula.
    with style.context("default"), rc_context({"font.size": 10, "text.parse_math": False}):
        return Plots(
            per_site=[_site_plot(record, index) for index in range(len(record.sites))],
            all_sites=_all_sites_plot(record),
            timeline=_timeline_plot(record),
            traffic=_traffic_plot(record),
        )


def _site_plot(record: RunRecord, index: int) -> str:
    """PR-AUC on one site's own held-out rows over time, its outages shaded."""
    site = record.sites[index].site
    figure, axes = _quality_axes(record)
    outages = [outage for outage in record.outages if outage.site == site]
    for outage in outages:
        axes.axvspan(
            outage.down_s, outage.up_s, facecolor=COLORS["outage"], alpha=0.24, linewidth=0
        )
    judged: dict[str, list[tuple[float, ModelQuality | QualityPoint]]] = {
        "own": [(point.t_s, point.local[site]) for point in record.baselines],
        "federated": [(point.t_s, point) for point in record.quality],
        "pooled": [(point.t_s, point.pooled) for point in record.baselines],
    }
    ends = []
    for series, models in judged.items():
        values = [(t_s, model.per_site.get(site)) for t_s, model in models]
        known = [(t_s, v.pr_auc) for t_s, v in values if v is not None and v.pr_auc is not None]
        if known:
            ends.append(_draw(axes, series, series, known))
    # The id must be safe whatever the site is called.
    return _svg(
        figure,
        f"quality-site{index}",
        f"PR-AUC on the held-out rows of site {site} over {record.wall_s:.0f} s with "
        f"{len(outages)} outages; at the end: {_label_ends(axes, ends) or 'not judgeable'}.",
    )


def _all_sites_plot(record: RunRecord) -> str:
    """PR-AUC on all sites' held-out rows over time, every site's own model shown."""
    figure, axes = _quality_axes(record)
    baselines = record.baselines
    ends = [
        _draw(axes, "own", f"{site} alone", [(p.t_s, p.local[site].pr_auc) for p in baselines])
        for site in (summary.site for summary in record.sites)
    ]
    pooled = [(point.t_s, point.pooled.pr_auc) for point in baselines]
    ends.append(_draw(axes, "pooled", "pooled", pooled))
    federated = [(point.t_s, point.pr_auc) for point in record.quality]
    ends.append(_draw(axes, "federated", "federated", federated))
    return _svg(
        figure,
        "quality-all",
        f"PR-AUC on all sites' held-out rows over {record.wall_s:.0f} s; "
        f"at the end: {_label_ends(axes, ends)}.",
    )


def _timeline_plot(record: RunRecord) -> str:
    """One lane a site with its outages, and one lane with the versions as they appeared."""
    lanes = [site.site for site in record.sites]
    figure, axes = _axes(9.8, 0.9 + 0.36 * (len(lanes) + 1), record.wall_s, left_in=0.8)
    axes.grid(visible=False)
    axes.set_ylim(len(lanes) + 0.5, -0.6)
    axes.set_yticks(range(len(lanes) + 1), [*lanes, "versions"], color=COLORS["ink"])
    described = []
    for lane, site in enumerate(record.sites):
        spans = [(o.down_s, o.up_s - o.down_s) for o in record.outages if o.site == site.site]
        axes.plot((0, record.wall_s), (lane, lane), color=COLORS["federated"], linewidth=2.4)
        axes.broken_barh(
            spans, (lane - 0.27, 0.54), facecolor=COLORS["outage"], linewidth=0, zorder=3
        )
        words = f"down {site.link_down_share:.0%}"
        _label(axes, lane, words, COLORS["muted"])
        described.append(f"{site.site} {words} in {len(spans)} outages")
    times = [point.t_s for point in record.quality]
    lane = len(lanes)
    axes.plot(
        times, [lane] * len(times), "|", color=COLORS["ink"], markersize=9, markeredgewidth=1.3
    )
    _label(axes, lane, f"{record.versions} published", COLORS["muted"])
    description = f"Timeline of outages and versions: {', '.join(described)}."
    return _svg(figure, "timeline", description)


def _traffic_plot(record: RunRecord) -> str:
    """Cumulative bytes sent by each site; flat where the link was down."""
    figure, axes = _axes(9.8, HEIGHT_IN, record.wall_s, left_in=0.8)
    top = max((sample.up_bytes for sample in record.traffic), default=0)
    size, unit = (1e6, "MB") if top >= 1e6 else (1e3, "kB")
    axes.set_ylim(0, max(top / size * 1.08, 0.1))
    axes.set_ylabel(f"sent in all, {unit}", color=COLORS["muted"])
    ends = []
    for index, site in enumerate(record.sites):
        samples = [sample for sample in record.traffic if sample.site == site.site]
        if not samples:
            continue
        color = COLORS[SITE_TOKENS[index % len(SITE_TOKENS)]]
        axes.plot(
            [sample.t_s for sample in samples],
            [sample.up_bytes / size for sample in samples],
            color=color,
            linewidth=2,
            linestyle=SITE_DASHES[index % len(SITE_DASHES)],
        )
        sent = samples[-1].up_bytes
        ends.append((sent / size, f"{site.site} {bytes_words(sent)}", color))
    shown = _label_ends(axes, ends) or "no sample"
    return _svg(figure, "traffic", f"Bytes sent by each site over time; at the end: {shown}.")


def _axes(width_in: float, height_in: float, wall_s: float, left_in: float) -> tuple[Figure, Axes]:
    """An empty plot over the run's time."""
    figure = Figure(figsize=(width_in, height_in), dpi=72)
    axes = figure.add_axes(
        (
            left_in / width_in,
            BOTTOM_IN / height_in,
            (width_in - left_in - LABELS_IN) / width_in,
            (height_in - BOTTOM_IN - TOP_IN) / height_in,
        )
    )
    axes.set_xlim(0, wall_s)
    axes.set_xlabel("time, s", color=COLORS["muted"])
    axes.tick_params(colors=COLORS["muted"], length=0, pad=5)
    axes.grid(axis="y", color=COLORS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(COLORS["muted"])
    return figure, axes


def _quality_axes(record: RunRecord) -> tuple[Figure, Axes]:
    """An empty plot of PR-AUC; one top for all of them, so that they can be compared by eye."""
    figure, axes = _axes(5.2, HEIGHT_IN, record.wall_s, left_in=0.55)
    models: list[ModelQuality | QualityPoint] = [*record.quality]
    for point in record.baselines:
        models += (point.pooled, *point.local.values())
    values = [model.pr_auc for model in models]
    values += [
        judged.pr_auc
        for model in models
        for judged in model.per_site.values()
        if judged.pr_auc is not None
    ]
    axes.set_ylim(0, min(1.0, (int(max(values) * 10) + 1) / 10))
    axes.set_ylabel("PR-AUC", color=COLORS["muted"])
    return figure, axes


def _draw(axes: Axes, series: str, name: str, points: Points) -> tuple[float, str, str]:
    """One line of a quality plot; returns where it ends, its label and its color."""
    last = points[-1][1]
    wall_s = axes.get_xlim()[1]
    drawn = [*points, (wall_s, last)] if series == "federated" else points
    axes.plot(
        [t_s for t_s, _ in drawn],
        [value for _, value in drawn],
        color=COLORS[series],
        markevery=range(0, len(points), 1 + len(points) // 40),
        clip_on=False,
        **SERIES[series],
    )
    return last, f"{name} {last:.2f}", COLORS[series]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> str:
    """Write (value, words, color) at the right edge, moved apart; returns all words."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.17 / (HEIGHT_IN - BOTTOM_IN - TOP_IN)
    ranked = sorted(ends)
    places: list[float] = []
    for value, _, _ in ranked:
        places.append(max(value, places[-1] + gap) if places else value)
    ceiling = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    for place, (_, words, color) in zip(places, ranked, strict=True):
        _label(axes, place, words, color)
    return ", ".join(words for _, words, _ in ends)


def _label(axes: Axes, place: float, words: str, color: str) -> None:
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


def _svg(figure: Figure, name: str, description: str) -> str:
    """Draw as inline SVG: stable ids of its own, text as text, colors as CSS variables."""
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
