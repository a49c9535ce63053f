"""The page's sections, each a view as HTML; they need no script.

Invariant: every word that comes from outside this program goes through `e`.
"""

from typing import Final

from coordinator.view import Agent, Decision, Site, View
from coordinator.web.drawing import bar, sparkline, strip, whisker
from coordinator.web.markup import e, row, table, when
from coordinator.words import (
    OUTCOMES,
    count,
    digits_for,
    direction,
    figure,
    metric_name,
    model_name,
    outcome_name,
    percent,
    served_by,
    several,
    signed,
    verdict,
)

_MARKS: Final = {
    "promoted": "✓",
    "kept back": "=",
    "no quorum": "?",
    "abandoned": "✕",
    "rolled back": "↶",
}
_STALENESS: Final = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, 9), (10, 19), (20, 1 << 60))
_TABLE_ROWS: Final = 25


def caption(view: View) -> str:
    """Title and legend of the chart."""
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
        f"<h2>{e(metric_name(quality.metric))} over versions</h2>"
        f'<p class="note">On held-out rows of all sites that reported, {direction(quality)}.</p>'
        f'<ul class="key">{legend}</ul>'
    )


def points(view: View) -> str:
    """The chart as a table, for who sees no chart."""
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
        rows.append(row(cells))
    names = ("version", "train", "candidate", "served", "sites' own choice")
    return table([("", name) for name in names], rows)


def decisions(view: View) -> str:
    """What the gate and the operator decided, newest first."""
    if not view.decisions:
        return '<p class="note">No candidate has been decided on yet.</p>'
    items = "".join(_decision(item, view.read_at) for item in view.decisions)
    return f'<ol class="events">{items}</ol>'


def _decision(item: Decision, now: float) -> str:
    known = item.verdict.replace(" ", "-") if item.verdict in _MARKS else "other"
    return (
        f'<li class="{known}"><i aria-hidden="true">{_MARKS.get(item.verdict, "·")}</i>'
        f"<div><b>{e(verdict(item))}</b> {when(item.at, now)}<p>{e(item.reason)}</p></div></li>"
    )


# Sites


def sites(view: View) -> str:
    """Figures of each site, or of the cohort."""
    if view.is_cohort_only:
        return _cohort(view)
    of = e(metric_name(view.quality.metric))
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
    return f'<h2>Sites</h2><p class="note">{about}</p>{table(head, rows)}{note}'


def _cohort(view: View) -> str:
    hidden = (
        f"The charter asks for at least {view.about.k_min} sites behind every figure that is shown,"
        " so figures, choices and contributions of single sites are not on this page."
    )
    served = ", ".join(
        f"{several(number, 'agent')} {e(model_name(model, scale))}"
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
    chip = f'<span class="chip {known}">{e(served_by(site.choices))}</span>'
    drawn = ""
    if given:
        worth = signed(given.value, digits_for(most))
        drawn = f"{whisker(given.value, given.error, most)} <span>{worth}</span>"
    other = f"<small>{e(metric_name(site.metric))}</small>" if site.metric != metric else ""
    return row(
        [
            f'<th scope="row">{e(site.site)}{other}</th>',
            f'<td class="line">{sparkline(site.train_history, site.serve_history)}</td>',
            *(f"<td>{text}</td>" for text in figures),
            f'<td class="text">{chip}<small>{e(reasons)}</small></td>',
            f'<td class="minor">{count(site.rows)}</td>',
            f'<td class="line">{drawn}</td>',
        ]
    )


# Updates and alarms


def staleness(view: View) -> str:
    """How old the bases of the newest updates were."""
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
        row(
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


def updates(view: View) -> str:
    """What became of all updates, and why some were not folded."""
    outcomes = view.updates.outcomes
    total = sum(outcomes.values())
    names = [*OUTCOMES, *sorted(set(outcomes) - set(OUTCOMES))]
    rows = "".join(
        row(
            [
                f'<th scope="row">{e(outcome_name(name))}</th>',
                f'<td class="bars">{bar(outcomes.get(name, 0) / max(total, 1), _kind(name))}</td>',
                f"<td>{count(outcomes.get(name, 0))}</td>",
            ]
        )
        for name in names
    )
    reasons = "".join(
        f"<li><b>{count(number)}</b> <span>{e(reason)}</span></li>"
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


def alarms(view: View) -> str:
    """What a person has to look at."""
    if not view.alarms:
        return '<h2>Alarms</h2><p class="note">Nothing for a person to look at.</p>'
    items = "".join(
        f'<li class="alarm"><i aria-hidden="true">!</i><div><b>{e(item.kind)}</b> '
        f"{e(item.agent)}, {several(item.number, 'time')}, {when(item.last_at, view.read_at)}"
        f"<p>{e(item.detail)}</p></div></li>"
        for item in view.alarms
    )
    return f'<h2>Alarms</h2><ol class="events">{items}</ol>'


# Agents


def agents(view: View, *, may_act: bool) -> str:
    """Links and outcomes of each agent."""
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
    return f"<h2>Agents</h2>{table(head, rows)}{note}"


def _agent(agent: Agent, now: float, *, may_act: bool) -> str:
    here = agent.presence
    state = "on" if agent.status == "online" else "off"
    since = ""
    if here.since is not None:
        since = f'<small class="minor">since {when(here.since, now)}</small>'
    paused = ' <span class="chip paused">paused</span>' if agent.is_paused else ""
    order = f'<small class="minor">{e(agent.order)}</small>' if agent.order else ""
    cells = [
        f'<th scope="row">{e(agent.agent)}{paused}{order}</th>',
        f'<td class="text minor">{e(agent.site)}</td>',
        f'<td class="text"><i class="light {state}"></i>{e(agent.status)}{since}</td>',
        f'<td class="line">{strip(here.stretches) if here.share is not None else ""}</td>',
        f"<td>{percent(here.share)}</td>",
        *(f"<td>{count(number)}</td>" for number in (agent.folded, agent.waiting, agent.refused)),
        f"<td>{when(agent.last_seen, now)}</td>",
    ]
    if may_act:
        act = "resume" if agent.is_paused else "pause"
        cells.append(
            f'<td class="act"><button type="button" hidden data-act="agent" data-order="{act}"'
            f' data-agent="{e(agent.agent)}">{act}</button></td>'
        )
    return row(cells)


def actions(view: View) -> str:
    """What an operator can do, but to single agents."""
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
