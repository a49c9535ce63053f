"""The page: a view as HTML, section by section, and what changed of it since it was last shown.

Responsible for every word and table.  The chart of quality is drawn in the browser
(`static/chart.js`) from `chart_of`; everything else is text and needs no script.

Invariant: every word that comes from outside this file goes through `_e`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Any, Final

import msgspec

from coordinator.view import Agent, Decision, Site, View
from coordinator.web.drawing import bar, sparkline, strip, whisker
from coordinator.words import (
    OUTCOMES,
    ago,
    count,
    digits_for,
    direction,
    figure,
    headline,
    metric_name,
    model_name,
    outcome_name,
    percent,
    served_by,
    several,
    signed,
    verdict,
)
from wire.figures import RELATIVE

_MARKS: Final = {
    "promoted": "✓",
    "kept back": "=",
    "no quorum": "?",
    "abandoned": "✕",
    "rolled back": "↶",
}
_STALENESS: Final = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, 9), (10, 19), (20, 1 << 60))
_TABLE_ROWS: Final = 25


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
    sections = {
        "state": _state(view),
        "tiles": _tiles(view),
        "caption": _caption(view),
        "points": _points(view),
        "decisions": _decisions(view),
        "sites": _sites(view),
        "staleness": _staleness(view),
        "updates": _updates(view),
        "alarms": _alarms(view),
        "agents": _agents(view, may_act=may_act),
    }
    if may_act:
        sections["actions"] = _actions(view)
    return Page(f"{title} · {view.about.federation}", view.read_at, chart_of(view), sections)


def html_of(page: Page) -> str:
    """The whole document."""
    sections = dict(page.sections)
    actions = sections.pop("actions", None)
    panel = _template("panel.html").substitute(actions=actions) if actions is not None else ""
    return _template("page.html").substitute(
        sections,
        title=_e(page.title),
        now=f"{page.now:.3f}",
        time=f"{datetime.fromtimestamp(page.now, UTC):%Y-%m-%d %H:%M:%S} UTC",
        chart=_e(msgspec.json.encode(page.chart).decode()),
        panel=panel,
    )


def _template(name: str) -> Template:
    here = files("coordinator.web").joinpath("templates", name)
    return Template(here.read_text(encoding="utf-8"))


def _e(text: object) -> str:
    return escape(str(text), quote=True)


def _when(at: float | None, now: float) -> str:
    """A moment, which `static/page.js` keeps up to date."""
    if at is None:
        return "never"
    exact = datetime.fromtimestamp(at, UTC)
    return (
        f'<time datetime="{exact:%Y-%m-%dT%H:%M:%SZ}" data-at="{at:.0f}"'
        f' title="{exact:%Y-%m-%d %H:%M:%S} UTC">{ago(at, now)}</time>'
    )


def _row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _table(head: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    """A table; each heading is (class, text)."""
    heads = "".join(f'<th scope="col" class="{name}">{text}</th>' for name, text in head)
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


# The top


def _state(view: View) -> str:
    about = view.about
    what = f"<b>{_e(about.federation)}</b> {_e(about.bundle)} revision {about.revision}"
    # "PR-AUC" is one word where lines break.
    first = _e(headline(view)).replace("-", "\N{NON-BREAKING HYPHEN}")
    return f'<p class="run">{what} &middot; {_e(about.strategy)}</p><h1>{first}</h1>'


def _tiles(view: View) -> str:
    if view.version is None:
        return ""
    quality, buffer, now = view.quality, view.buffer, view.read_at
    served_at = quality.served[-1].at if quality.served else None
    point = quality.newest("serve", view.serve)
    of = _e(metric_name(quality.metric))
    served = f"{of} {figure(quality.metric, point.value)}" if point else "not judged yet"
    judged = quality.newest("candidate", view.candidate) if view.candidate is not None else None
    asked = (
        f"{of} {figure(quality.metric, judged.value)}, {several(judged.sites, 'site')}"
        if judged
        else "no report"
    )
    online = view.statuses.get("online", 0)
    outcomes = view.updates.outcomes
    lost = ", ".join(
        f"{count(outcomes[name])} {name}"
        for name in ("refused", "void", "dropped")
        if outcomes.get(name)
    )
    oldest = f"oldest {_when(buffer.oldest_at, now)}" if buffer.members else "empty"
    alarms = sum(view.alarm_counts.values())
    tiles = [
        ("", "Served", f"v{view.serve}", f"{served}<br>{_when(served_at, now)}"),
        (
            f"training-{_e(view.training)}",
            f"Training {_e(view.training)}",
            f"v{view.version}",
            f"lineage {view.lineage}<br>{several(view.version_members, 'update')}, "
            + _when(view.version_at, now),
        ),
        ("", "Candidate", f"v{view.candidate}", f"being judged<br>{asked}")
        if view.candidate is not None
        else ("quiet", "Candidate", "none", "nothing to judge"),
        (
            "",
            "Buffer",
            f"{buffer.members}<small>/{buffer.goal}</small>",
            f"{bar(buffer.members / max(buffer.goal, 1))}{oldest}, {several(buffer.sites, 'site')}",
        ),
        (
            "",
            "Agents online",
            f"{count(online)}<small>/{count(view.agent_count)}</small>",
            several(view.site_count, "site"),
        ),
        (
            "",
            "Updates folded",
            count(outcomes.get("folded", 0)),
            f"{lost or 'none refused'}<br>{several(view.updates.duplicates, 'duplicate')}",
        ),
        (
            "alarmed" if alarms else "quiet",
            "Alarms",
            count(alarms) if alarms else "none",
            _e(view.alarms[0].kind) if view.alarms else "",
        ),
    ]
    items = (
        f'<li class="{name}"><span>{title}</span><b>{value}</b><p>{text}</p></li>'
        for name, title, value, text in tiles
    )
    return f'<ul class="tiles">{"".join(items)}</ul>'


# Quality


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


def _caption(view: View) -> str:
    quality = view.quality
    if not quality.points:
        return "<h2>Quality over versions</h2><p class='note'>No site has judged a model yet.</p>"
    keys = (
        ("train", "newest version"),
        ("served", "served"),
        ("candidate", "candidate"),
        ("promoted", "promoted"),
        ("gone", "abandoned lineage"),
        ("back", "back to an earlier one"),
    )
    legend = "".join(f'<li class="{name}"><i></i>{text}</li>' for name, text in keys)
    return (
        f"<h2>{_e(metric_name(quality.metric))} over versions</h2>"
        f'<p class="note">On held-out rows of all sites that reported, {direction(quality)}.</p>'
        f'<ul class="key">{legend}</ul>'
    )


def _points(view: View) -> str:
    quality = view.quality
    versions = sorted({point.version for point in quality.points}, reverse=True)[:_TABLE_ROWS]
    found = {(point.version, point.model): point for point in quality.points}
    rows = []
    for version in versions:
        cells = [f'<th scope="row">v{version}</th>']
        for model in ("train", "candidate", "serve", "chosen"):
            point = found.get((version, model))
            sites = f"<small>{several(point.sites, 'site')}</small>" if point else ""
            cells.append(f"<td>{figure(quality.metric, point.value) if point else ''}{sites}</td>")
        rows.append(_row(cells))
    names = ("version", "train", "candidate", "served", "sites' own choice")
    return _table([("", name) for name in names], rows)


def _decisions(view: View) -> str:
    if not view.decisions:
        return '<p class="note">No candidate has been decided on yet.</p>'
    items = "".join(_decision(item, view.read_at) for item in view.decisions)
    return f'<ol class="events">{items}</ol>'


def _decision(item: Decision, now: float) -> str:
    known = item.verdict.replace(" ", "-") if item.verdict in _MARKS else "other"
    return (
        f'<li class="{known}"><i aria-hidden="true">{_MARKS.get(item.verdict, "·")}</i>'
        f"<div><b>{_e(verdict(item))}</b> {_when(item.at, now)}<p>{_e(item.reason)}</p></div></li>"
    )


# Sites


def _sites(view: View) -> str:
    if view.is_cohort_only:
        return _cohort(view)
    of = _e(metric_name(view.quality.metric))
    if not view.sites:
        return '<h2>Sites</h2><p class="note">No site is known yet.</p>'
    most = max((_reach(site) for site in view.sites), default=0.0)
    head = [
        ("", "site"),
        ("line", f"{of} of <i class='u'>newest</i> and <i class='o'>what it serves</i>"),
        ("", "newest"),
        ("", "global"),
        ("", "own choice"),
        ("text", "serves"),
        ("minor", "held-out rows"),
        ("line", "contribution &plusmn; 2&sigma;"),
    ]
    of_metric = view.quality.metric
    rows = (_site(site, of_metric, most) for site in view.sites)
    more = view.site_count - len(view.sites)
    note = f'<p class="note">and {several(more, "more site")}</p>' if more > 0 else ""
    about = (
        "Each site judges on rows of its own and serves whichever model is best on them."
        " One with few rows or failures held out shows its mean loss instead. Contribution: what a"
        " site's updates take off the loss, against the average of all."
    )
    return f'<h2>Sites</h2><p class="note">{about}</p>{_table(head, rows)}{note}'


def _cohort(view: View) -> str:
    hidden = (
        f"The charter asks for at least {view.about.k_min} sites behind every figure that is shown,"
        " so figures, choices and contributions of single sites are not on this page."
    )
    served = ", ".join(
        f"{several(number, 'agent')} {_e(model_name(model, scale))}"
        for model, scale, number in view.choices
    )
    note = f'<p class="note">They serve: {served}.</p>' if served else ""
    return f'<h2>{several(view.site_count, "site")}</h2><p class="note">{hidden}</p>{note}'


def _reach(site: Site) -> float:
    given = site.contribution
    return abs(given.value) + 2 * given.error if given else 0.0


def _site(site: Site, metric: str, most: float) -> str:
    given = site.contribution
    figures = [figure(site.metric, site.figures.get(name)) for name in ("train", "serve", "chosen")]
    reasons = "; ".join(choice.reason for choice in site.choices if choice.reason)
    model = (
        site.choices[0].model if len({choice.model for choice in site.choices}) == 1 else "mixed"
    )
    known = model if model in ("global", "fine_tuned", "ditto", "local") else "mixed"
    chip = f'<span class="chip {known}">{_e(served_by(site.choices))}</span>'
    drawn = ""
    if given:
        worth = signed(given.value, digits_for(most))
        drawn = f"{whisker(given.value, given.error, most)} <span>{worth}</span>"
    other = f"<small>{_e(metric_name(site.metric))}</small>" if site.metric != metric else ""
    return _row(
        [
            f'<th scope="row">{_e(site.site)}{other}</th>',
            f'<td class="line">{sparkline(site.train_history, site.serve_history)}</td>',
            *(f"<td>{text}</td>" for text in figures),
            f'<td class="text">{chip}<small>{_e(reasons)}</small></td>',
            f'<td class="minor">{count(site.rows)}</td>',
            f'<td class="line">{drawn}</td>',
        ]
    )


# Updates and alarms


def _staleness(view: View) -> str:
    recent = view.updates.recent_staleness
    total = sum(recent.values())
    title = "<h2>Staleness</h2>"
    if not total:
        return f'{title}<p class="note">Nothing has been folded yet.</p>'
    mean = sum(staleness * number for staleness, number in recent.items()) / total
    bins = [
        (low, high, sum(number for age, number in recent.items() if low <= age <= high))
        for low, high in _STALENESS
    ]
    while bins and not bins[-1][2]:
        bins.pop()
    most = max(number for _, _, number in bins)
    rows = (
        _row(
            [
                f'<th scope="row">{_bin(low, high)}</th>',
                f'<td class="bars">{bar(number / most)}</td>',
                f"<td>{count(number)}</td>",
            ]
        )
        for low, high, number in bins
    )
    note = f"Versions between base and folding, of the newest {several(total, 'update')};"
    return (
        f'{title}<p class="note">{note} mean {mean:.1f}.</p>'
        f'<table class="histogram"><tbody>{"".join(rows)}</tbody></table>'
    )


def _bin(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"{low}&ndash;{high}" if high < 1 << 60 else f"{low} and more"


def _updates(view: View) -> str:
    outcomes = view.updates.outcomes
    total = sum(outcomes.values())
    names = [*OUTCOMES, *sorted(set(outcomes) - set(OUTCOMES))]
    rows = "".join(
        _row(
            [
                f'<th scope="row">{_e(outcome_name(name))}</th>',
                f'<td class="bars">{bar(outcomes.get(name, 0) / max(total, 1), _kind(name))}</td>',
                f"<td>{count(outcomes.get(name, 0))}</td>",
            ]
        )
        for name in names
    )
    reasons = "".join(
        f"<li><b>{count(number)}</b> <span>{_e(reason)}</span></li>"
        for reason, number in view.updates.reasons
    )
    why = f'<h3>Why not</h3><ul class="reasons">{reasons}</ul>' if reasons else ""
    note = f"Every update has one outcome; {several(view.updates.duplicates, 'copy', 'copies')}"
    return (
        f'<h2>Updates</h2><p class="note">{note} came again and counted once.</p>'
        f'<table class="histogram"><tbody>{rows}</tbody></table>{why}'
    )


def _kind(outcome: str) -> str:
    return f"bar {outcome}" if outcome in OUTCOMES else "bar"


def _alarms(view: View) -> str:
    if not view.alarms:
        return '<h2>Alarms</h2><p class="note">Nothing for a person to look at.</p>'
    items = "".join(
        f'<li class="alarm"><i aria-hidden="true">!</i><div><b>{_e(item.kind)}</b> '
        f"{_e(item.agent)}, {several(item.number, 'time')}, {_when(item.last_at, view.read_at)}"
        f"<p>{_e(item.detail)}</p></div></li>"
        for item in view.alarms
    )
    return f'<h2>Alarms</h2><ol class="events">{items}</ol>'


# Agents


def _agents(view: View, *, may_act: bool) -> str:
    if not view.agents:
        return '<h2>Agents</h2><p class="note">No agent has been seen yet.</p>'
    head = [
        ("", "agent"),
        ("text minor", "site"),
        ("text", "link"),
        ("line", "last hour"),
        ("", "online"),
        ("", "folded"),
        ("", "waiting"),
        ("", "refused"),
        ("", "last seen"),
    ]
    head += [("act", "")] if may_act else []
    rows = (_agent(agent, view.read_at, may_act=may_act) for agent in view.agents)
    more = view.agent_count - len(view.agents)
    note = f'<p class="note">and {several(more, "more agent")}</p>' if more > 0 else ""
    return f"<h2>Agents</h2>{_table(head, rows)}{note}"


def _agent(agent: Agent, now: float, *, may_act: bool) -> str:
    here = agent.presence
    state = "on" if agent.status == "online" else "off"
    since = ""
    if here.since is not None:
        since = f'<small class="minor">since {_when(here.since, now)}</small>'
    paused = ' <span class="chip paused">paused</span>' if agent.order == "pause" else ""
    cells = [
        f'<th scope="row">{_e(agent.agent)}{paused}</th>',
        f'<td class="text minor">{_e(agent.site)}</td>',
        f'<td class="text"><i class="light {state}"></i>{_e(agent.status)}{since}</td>',
        f'<td class="line">{strip(here.stretches) if here.share is not None else ""}</td>',
        f"<td>{percent(here.share)}</td>",
        *(f"<td>{count(number)}</td>" for number in (agent.folded, agent.waiting, agent.refused)),
        f"<td>{_when(agent.last_seen, now)}</td>",
    ]
    if may_act:
        order = "resume" if agent.order == "pause" else "pause"
        cells.append(
            f'<td class="act"><button type="button" hidden data-act="agent" data-order="{order}"'
            f' data-agent="{_e(agent.agent)}">{order}</button></td>'
        )
    return _row(cells)


def _actions(view: View) -> str:
    turn = ("closed", "Close training") if view.training == "open" else ("open", "Open training")
    options = "".join(f'<option value="{n}">v{n}</option>' for n in view.servable)
    back = ""
    if options:
        back = (
            f'<label>Go back to <select id="version">{options}</select></label> '
            '<button type="button" data-act="rollback">Roll back</button>'
        )
    return (
        f'<button type="button" data-act="training" data-training="{turn[0]}">{turn[1]}</button>'
        f" {back}"
    )
