"""The top of the page: one sentence, and the figures of the moment."""

from dataclasses import dataclass

from coordinator.view import Point, View
from coordinator.web.drawing import bar
from coordinator.web.markup import e, when
from coordinator.words import count, figure, headline, metric_name, several


@dataclass(frozen=True)
class _Tile:
    """A box: class, and HTML of its title, its figure and what is said of it."""

    name: str
    title: str
    value: str
    text: str


def state(view: View) -> str:
    """What is learned, and the one sentence to read."""
    about = view.about
    what = f"<b>{e(about.federation)}</b> {e(about.bundle)} revision {about.revision}"
    # "PR-AUC" is one word where lines break.
    first = e(headline(view)).replace("-", "\N{NON-BREAKING HYPHEN}")
    return f'<p class="run">{what} &middot; {e(about.strategy)}</p><h1>{first}</h1>'


def tiles(view: View) -> str:
    """The figures of the moment, each in a box."""
    if view.version is None:
        return ""
    boxes = (_served, _training, _candidate, _buffer, _agents, _updates, _alarms)
    items = (
        f'<li class="{tile.name}"><span>{tile.title}</span><b>{tile.value}</b>'
        f"<p>{tile.text}</p></li>"
        for tile in (box(view) for box in boxes)
    )
    return f'<ul class="tiles">{"".join(items)}</ul>'


def _served(view: View) -> _Tile:
    quality = view.quality
    at = quality.served[-1].at if quality.served else None
    judged = _figure(view, quality.newest("serve", view.serve)) or "not judged yet"
    return _Tile("", "Served", f"v{view.serve}", f"{judged}<br>{when(at, view.read_at)}")


def _figure(view: View, point: Point | None) -> str:
    metric = view.quality.metric
    return f"{e(metric_name(metric))} {figure(metric, point.value)}" if point else ""


def _training(view: View) -> _Tile:
    name = "training-closed" if view.training == "closed" else ""
    made = f"{several(view.version_members, 'update')}, {when(view.version_at, view.read_at)}"
    text = f"lineage {view.lineage}<br>{made}"
    return _Tile(name, f"Training {e(view.training)}", f"v{view.version}", text)


def _candidate(view: View) -> _Tile:
    if view.candidate is None:
        return _Tile("quiet", "Candidate", "none", "nothing to judge")
    point = view.quality.newest("candidate", view.candidate)
    judged = f"{_figure(view, point)}, {several(point.sites, 'site')}" if point else "no report"
    return _Tile("", "Candidate", f"v{view.candidate}", f"being judged<br>{judged}")


def _buffer(view: View) -> _Tile:
    buffer = view.buffer
    oldest = f"oldest {when(buffer.oldest_at, view.read_at)}" if buffer.members else "empty"
    filled = bar(buffer.members / max(buffer.goal, 1))
    value = f"{count(buffer.members)}<small>/{count(buffer.goal)}</small>"
    return _Tile("", "Buffer", value, f"{filled}{oldest}, {several(buffer.sites, 'site')}")


def _agents(view: View) -> _Tile:
    online = count(view.statuses.get("online", 0))
    value = f"{online}<small>/{count(view.agent_count)}</small>"
    return _Tile("", "Agents online", value, several(view.site_count, "site"))


def _updates(view: View) -> _Tile:
    outcomes = view.updates.outcomes
    lost = ", ".join(
        f"{count(outcomes[name])} {name}"
        for name in ("refused", "void", "dropped")
        if outcomes.get(name)
    )
    text = f"{lost or 'none refused'}<br>{several(view.updates.duplicates, 'duplicate')}"
    return _Tile("", "Updates folded", count(outcomes.get("folded", 0)), text)


def _alarms(view: View) -> _Tile:
    number = sum(view.alarm_counts.values())
    newest = e(view.alarms[0].kind) if view.alarms else ""
    return _Tile(
        "alarmed" if number else "quiet", "Alarms", count(number) if number else "none", newest
    )
