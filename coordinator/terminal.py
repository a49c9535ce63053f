"""`journeyman-coordinator status`: a view as compact text, aligned, for a terminal of 80 columns.

Says what the page says.  Refuses nothing; every word from the network is printable and on one line,
so that no agent's name can move the cursor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.view import Agent, Site, View
from coordinator.words import (
    NONE,
    OUTCOMES,
    ago,
    count,
    digits_for,
    direction,
    figure,
    headline,
    metric_name,
    outcome_name,
    percent,
    served_by,
    several,
    signed,
    verdict,
)
from wire.errors import one_line

_BOLD, _DIM, _GOOD, _BAD = "1", "2", "32", "31"
_BARS: Final = "▁▂▃▄▅▆▇█"
_COLORS: Final = {
    "promoted": _GOOD,
    "online": _GOOD,
    "abandoned": _BAD,
    "rolled back": _BAD,
    "offline": _DIM,
}
_ROWS: Final = 20
_WIDEST: Final = 32


def status_text(view: View, *, color: bool) -> str:
    """The whole status; ends with a newline.

    Args:
      view: what to say.
      color: whether the terminal shows ANSI colors.
    """
    ink = _Ink(color)
    blocks = [
        _state(view, ink),
        _quality(view, ink),
        _sites(view, ink),
        _agents(view, ink),
        _updates(view, ink),
        _decisions(view, ink),
        _alarms(view, ink),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


@dataclass(frozen=True)
class _Ink:
    """Colors, or none."""

    color: bool

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and code else text

    def title(self, text: str) -> str:
        return self.paint(text, _BOLD)


def _clean(text: str, width: int = _WIDEST) -> str:
    safe = one_line(text)
    return safe if len(safe) <= width else f"{safe[: width - 1]}…"


def _state(view: View, ink: _Ink) -> list[str]:
    about, buffer = view.about, view.buffer
    waiting = f"{buffer.members} of {buffer.goal} updates of {several(buffer.sites, 'site')}"
    if buffer.oldest_at is not None:
        waiting += f", the oldest came {ago(buffer.oldest_at, view.read_at)}"
    candidate = f"version {view.candidate}, being judged" if view.candidate is not None else "none"
    facts = [
        ("training", f"{view.training}, version {view.version}, lineage {view.lineage}"),
        ("served", f"version {view.serve}{_kept(view)}"),
        ("candidate", candidate),
        ("buffer", waiting),
        (
            "newest",
            f"{several(view.version_members, 'update')}, {ago(view.version_at, view.read_at)}",
        ),
        ("agents", _by_number(view.statuses)),
        ("head, run", f"{view.head}, {view.run}"),
    ]
    what = f"{about.federation}  {about.bundle} revision {about.revision}, {about.strategy}"
    first = [ink.title(headline(view)), ink.paint(_clean(what, 80), _DIM)]
    if view.version is None:
        return first
    return first + [f"  {name:<10} {text}" for name, text in facts]


def _kept(view: View) -> str:
    kept = ", ".join(str(version) for version in view.servable)
    return f"; kept for a rollback: {kept}" if kept else ""


def _by_number(counts: dict[str, int]) -> str:
    return ", ".join(f"{count(n)} {_clean(name)}" for name, n in sorted(counts.items())) or "none"


def _quality(view: View, ink: _Ink) -> list[str]:
    quality = view.quality
    if not quality.points:
        return []
    lines = [ink.title(f"{metric_name(quality.metric)} over versions") + f" ({direction(quality)})"]
    for model in ("train", "candidate", "serve", "chosen"):
        points = [point for point in quality.points if point.model == model]
        if points:
            last = points[-1]
            line = _spark([point.value for point in points][-24:])
            at = f"version {last.version}, {several(last.sites, 'site')}"
            lines.append(f"  {model:<10} {figure(quality.metric, last.value):>7}  {line:<24}  {at}")
    return lines


def _spark(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if high <= low:
        return _BARS[3] * len(values)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] for value in values)


def _sites(view: View, ink: _Ink) -> list[str]:
    if view.is_cohort_only:
        served = ", ".join(f"{n} {model} ({scale})" for model, scale, n in view.choices)
        hidden = f"figures of single sites are not shown: the charter asks for {view.about.k_min}"
        return [
            ink.title("Sites"),
            f"  {hidden}",
            *([f"  agents serve {served}"] if served else []),
        ]
    if not view.sites:
        return []
    head = ("site", "train", "served", "own", "rows", "contribution", "serves")
    most = max(
        (abs(site.contribution.value) for site in view.sites if site.contribution), default=0
    )
    rows = [_site(site, view.quality.metric, digits_for(most)) for site in view.sites[:_ROWS]]
    title = f"Sites, {metric_name(view.quality.metric)} on rows of their own"
    return [ink.title(title), *_table(head, rows, "<>>>>><", ink), *_more(view.site_count)]


def _site(site: Site, metric: str, digits: int) -> tuple[str, ...]:
    given = site.contribution
    return (
        _clean(site.site) + ("" if site.metric == metric else f" ({metric_name(site.metric)})"),
        *(figure(site.metric, site.figures.get(model)) for model in ("train", "serve", "chosen")),
        count(site.rows),
        f"{signed(given.value, digits)} ± {given.error:.{digits}f}" if given else NONE,
        _clean(served_by(site.choices)),
    )


def _more(number: int) -> list[str]:
    return [f"  and {number - _ROWS:,} more"] if number > _ROWS else []


def _agents(view: View, ink: _Ink) -> list[str]:
    if not view.agents:
        return []
    head = ("agent", "site", "link", "last hour", "folded", "waiting", "refused", "last seen")
    rows = [_agent(agent, view.read_at) for agent in view.agents[:_ROWS]]
    lines = _table(head, rows, "<<<>>>><", ink)
    told = [f"  {agent.agent} was told to {agent.order}" for agent in view.agents if agent.order]
    return [ink.title("Agents"), *lines, *_more(view.agent_count), *map(_clean, told[:_ROWS])]


def _agent(agent: Agent, now: float) -> tuple[str, ...]:
    return (
        _clean(agent.agent),
        _clean(agent.site),
        _clean(agent.status) + (" (paused)" if agent.is_paused else ""),
        percent(agent.presence.share),
        count(agent.folded),
        count(agent.waiting),
        count(agent.refused),
        ago(agent.last_seen, now),
    )


def _updates(view: View, ink: _Ink) -> list[str]:
    updates = view.updates
    found = [
        f"{count(updates.outcomes[name])} {outcome_name(name)}"
        for name in OUTCOMES
        if updates.outcomes.get(name)
    ]
    lines = [f"  {', '.join(found) or 'none yet'}; {several(updates.duplicates, 'duplicate')}"]
    lines += [f"  {number:>6} x {_clean(reason, 70)}" for reason, number in updates.reasons]
    if updates.recent_staleness:
        total = sum(updates.recent_staleness.values())
        mean = sum(age * n for age, n in updates.recent_staleness.items()) / total
        lines.append(
            f"  staleness of the newest {total}: mean {mean:.1f}, "
            f"largest {max(updates.recent_staleness)} versions"
        )
    return [ink.title("Updates"), *lines]


def _decisions(view: View, ink: _Ink) -> list[str]:
    if not view.decisions:
        return []
    rows = [
        (_clean(verdict(item), 48), ago(item.at, view.read_at), _clean(item.reason, 60))
        for item in view.decisions[:8]
    ]
    return [ink.title("Decisions"), *_table(("what", "when", "why"), rows, "<<<", ink)]


def _alarms(view: View, ink: _Ink) -> list[str]:
    if not view.alarms:
        return [ink.title("Alarms") + "  none"]
    rows = [
        (
            _clean(item.kind),
            _clean(item.agent),
            f"{item.number}",
            ago(item.last_at, view.read_at),
            _clean(item.detail, 60),
        )
        for item in view.alarms[:_ROWS]
    ]
    head = ("kind", "agent", "times", "last", "detail")
    return [ink.paint("Alarms", f"{_BOLD};{_BAD}"), *_table(head, rows, "<<><<", ink)]


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    align: str,
    ink: _Ink,
) -> list[str]:
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(cells: Sequence[str], code: str = "") -> str:
        shown = [
            ink.paint(f"{cell:{side}{width}}", code or _COLORS.get(cell, ""))
            for cell, side, width in zip(cells, align, widths, strict=True)
        ]
        return ("  " + "  ".join(shown)).rstrip()

    return [line(head, _DIM), *(line(row) for row in rows)]
