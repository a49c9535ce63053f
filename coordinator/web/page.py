"""The page: a view as HTML, section by section, and what changed of it since it was last shown.

The chart of quality is drawn in the browser (`static/chart.js`) from `chart_of`; everything else
is text (`sections.py`, `tiles.py`) and needs no script.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from string import Template
from typing import Any

import msgspec

from coordinator.view import View
from coordinator.web import sections, tiles
from coordinator.web.markup import e
from coordinator.words import metric_name
from wire.figures import RELATIVE


@dataclass(frozen=True)
class Page:
    """What a browser shows.

    Attributes:
      now: the server's wall clock, for "3 min ago".
      chart: figures for `static/chart.js`.
      sections: HTML by the id of the element that holds it.
    """

    title: str
    now: float
    chart: dict[str, Any]
    sections: dict[str, str]

    def changed_since(self, shown: "Page | None") -> dict[str, Any] | None:
        """What a browser that shows `shown` has to be told; None where that is nothing."""
        sections = {
            name: html
            for name, html in self.sections.items()
            if shown is None or shown.sections.get(name) != html
        }
        changed: dict[str, Any] = {"title": self.title, "now": self.now, "sections": sections}
        if shown is None or shown.chart != self.chart:
            changed["chart"] = self.chart
        return changed if sections or "chart" in changed else None


def page_of(view: View, *, may_act: bool) -> Page:
    """Render a view; `may_act` where the server takes actions."""
    title = f"v{view.serve} served, v{view.version} training" if view.version is not None else "new"
    shown = {
        "state": tiles.state(view),
        "tiles": tiles.tiles(view),
        "caption": sections.caption(view),
        "points": sections.points(view),
        "decisions": sections.decisions(view),
        "sites": sections.sites(view),
        "staleness": sections.staleness(view),
        "updates": sections.updates(view),
        "alarms": sections.alarms(view),
        "agents": sections.agents(view, may_act=may_act),
    }
    if may_act:
        shown["actions"] = sections.actions(view)
    return Page(f"{title} · {view.about.federation}", view.read_at, chart_of(view), shown)


def html_of(page: Page) -> str:
    """The whole document."""
    shown = dict(page.sections)
    actions = shown.pop("actions", None)
    panel = _template("panel.html").substitute(actions=actions) if actions is not None else ""
    return _template("page.html").substitute(
        shown,
        title=e(page.title),
        now=f"{page.now:.3f}",
        time=f"{datetime.fromtimestamp(page.now, UTC):%Y-%m-%d %H:%M:%S} UTC",
        chart=e(msgspec.json.encode(page.chart).decode()),
        panel=panel,
    )


def _template(name: str) -> Template:
    here = files("coordinator.web").joinpath("templates", name)
    return Template(here.read_text(encoding="utf-8"))


def chart_of(view: View) -> dict[str, Any]:
    """Figures for the chart; x is the version of `train`."""
    quality = view.quality
    lines = {
        model: [
            [point.version, point.value, point.sites]
            for point in quality.points
            if point.model == model
        ]
        for model in ("train", "candidate")
    }
    values = {point.version: point.value for point in quality.points if point.model == "serve"}
    judged = {point.version: point.value for point in quality.points if point.model == "candidate"}
    served = [
        [
            max(entry.since_version, quality.first_version),
            entry.version,
            values.get(entry.version, judged.get(entry.version)),
        ]
        for entry in quality.served
    ]
    while len(served) > 1 and served[1][0] == quality.first_version:
        del served[0]  # was served before the chart begins
    marks = [
        [
            decision.at_version,
            decision.version,
            decision.verdict,
            decision.served if decision.is_turning_back else None,
        ]
        for decision in reversed(view.decisions)
        if decision.at_version >= quality.first_version
    ]
    return {
        "metric": metric_name(quality.metric),
        "isRelative": quality.metric in RELATIVE,
        "first": quality.first_version,
        "last": view.version or 0,
        "lines": lines,
        "served": served,
        "marks": marks,
        "abandoned": [[span.first, span.last, span.lineage] for span in quality.abandoned],
    }
