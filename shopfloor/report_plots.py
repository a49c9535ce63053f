"""The report's plots as inline SVG: quality over time, outages and versions, bytes sent.

Responsible for what the plots show; `drawing.py` has the means.  With it the only module of the
report that imports matplotlib.  Invariant: the same record gives the same bytes, and no series is
told by color alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shopfloor.drawing import (
    COLORS,
    HEIGHT_IN,
    SITE_TOKENS,
    label_ends,
    label_right,
    plain_drawing,
    svg_of,
    time_axes,
)
from shopfloor.record import ModelQuality, QualityPoint, RunRecord
from shopfloor.report_words import bytes_words

SERIES: dict[str, dict[str, Any]] = {
    "own": {"linestyle": (0, (5, 2)), "marker": "s", "markersize": 4.2, "linewidth": 1.8},
    "federated": {"drawstyle": "steps-post", "marker": "o", "markersize": 3.4, "linewidth": 2.2},
    "pooled": {"linestyle": (0, (1, 1.6)), "marker": "^", "markersize": 4.2, "linewidth": 1.8},
}
"""Federated in steps, because a version counts until the next one replaces it."""

SITE_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (10, 3)))
"""One dash for each of `SITE_TOKENS`, so that lines differ without color."""

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
    with plain_drawing():
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
    return svg_of(
        figure,
        f"quality-site{index}",
        f"PR-AUC on the held-out rows of site {site} over {record.wall_s:.0f} s with "
        f"{len(outages)} outages; at the end: {label_ends(axes, ends) or 'not judgeable'}.",
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
    return svg_of(
        figure,
        "quality-all",
        f"PR-AUC on all sites' held-out rows over {record.wall_s:.0f} s; "
        f"at the end: {label_ends(axes, ends)}.",
    )


def _timeline_plot(record: RunRecord) -> str:
    """One lane a site with its outages, and one lane with the versions as they appeared."""
    lanes = [site.site for site in record.sites]
    figure, axes = time_axes(9.8, 0.9 + 0.36 * (len(lanes) + 1), record.wall_s, left_in=0.8)
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
        label_right(axes, lane, words, COLORS["muted"])
        described.append(f"{site.site} {words} in {len(spans)} outages")
    times = [point.t_s for point in record.quality]
    lane = len(lanes)
    axes.plot(
        times, [lane] * len(times), "|", color=COLORS["ink"], markersize=9, markeredgewidth=1.3
    )
    label_right(axes, lane, f"{record.versions} published", COLORS["muted"])
    description = f"Timeline of outages and versions: {', '.join(described)}."
    return svg_of(figure, "timeline", description)


def _traffic_plot(record: RunRecord) -> str:
    """Cumulative bytes sent by each site; flat where the link was down."""
    figure, axes = time_axes(9.8, HEIGHT_IN, record.wall_s, left_in=0.8)
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
    shown = label_ends(axes, ends) or "no sample"
    return svg_of(figure, "traffic", f"Bytes sent by each site over time; at the end: {shown}.")


def _quality_axes(record: RunRecord) -> tuple[Figure, Axes]:
    """An empty plot of PR-AUC; one top for all of them, so that they can be compared by eye."""
    figure, axes = time_axes(5.2, HEIGHT_IN, record.wall_s, left_in=0.55)
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
