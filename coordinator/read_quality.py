"""Versions, quality, decisions and sites, read from an open `coordinator.db` for a `View`.

A figure of several sites comes from, in this order: the sites' added counts, for what the head
names now; the table `pooled`, where the coordinator noted the same for what earlier heads named;
the mean of the sites' own figures.  Each is left out where fewer sites than `k_min` are behind it.

Every function reads within the caller's transaction.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from coordinator.gate import GateSettings, pooled_figure, sites_of
from coordinator.store import Saved
from coordinator.view import (
    About,
    Choice,
    Contribution,
    Decision,
    Point,
    Quality,
    Served,
    Site,
    Sums,
    abandoned,
    pooled,
)
from wire.messages import Evaluation
from wire.tally import tally_of

VERSIONS: Final = 400
"""Newest versions on the chart, and HISTORY of them behind each site's small line."""
HISTORY: Final = 60
SITES: Final = 200
DECISIONS: Final = 100
_AGENTS: Final = 1000
"""Reports that are added for a figure, and agents whose choices are shown."""

Key = tuple[int, str]
"""Version and model."""
Line = list[tuple[int, float]]


def read_versions(db: sqlite3.Connection) -> list[sqlite3.Row]:
    """The newest versions, oldest first."""
    rows = db.execute(
        "SELECT version, lineage, members, made_at FROM versions ORDER BY version DESC LIMIT ?",
        (VERSIONS,),
    ).fetchall()
    return rows[::-1]


def _version_at(versions: list[sqlite3.Row], at: float) -> int:
    """The newest version at a moment; 0 before the first that is known."""
    made = [int(row["version"]) for row in versions if row["made_at"] <= at]
    return made[-1] if made else 0


# Quality over versions


def read_quality(
    db: sqlite3.Connection,
    about: About,
    gate: GateSettings,
    saved: Saved | None,
    versions: list[sqlite3.Row],
    now: float,
) -> Quality:
    """The chart's figures."""
    first = max(0, (saved.version if saved else 0) - VERSIONS + 1)
    row = db.execute("SELECT metric FROM quality ORDER BY version DESC LIMIT 1").fetchone()
    metric = str(row["metric"]) if row else ""
    points = _means(db, metric, first, about.k_min)
    points |= _noted(db, metric, first, about.k_min)
    points |= _current(db, gate, saved, about.k_min)
    served = _served(db, versions)
    made = [(item["version"], item["lineage"], item["made_at"]) for item in versions]
    spans = abandoned(made, served, saved.lineage if saved else 0, now)
    return Quality(metric, tuple(points[key] for key in sorted(points)), spans, served, first)


def _means(db: sqlite3.Connection, metric: str, first: int, k_min: int) -> dict[Key, Point]:
    rows = db.execute(
        "SELECT version, model, count(DISTINCT site) AS sites, sum(rows) AS n,"
        " sum(value * rows) AS w, sum(value * value * rows) AS s FROM quality"
        " WHERE version >= ? AND metric = ? AND value IS NOT NULL"
        " GROUP BY version, model HAVING sites >= ?",
        (first, metric, k_min),
    )
    found: dict[Key, Point] = {}
    for version, model, sites, number, weighted, squared in rows:
        value = pooled(metric, Sums(number, weighted, squared))
        if value is not None:
            found[version, model] = Point(version, model, value, sites, number)
    return found


def _noted(db: sqlite3.Connection, metric: str, first: int, k_min: int) -> dict[Key, Point]:
    is_there = db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'pooled'").fetchone()
    if is_there is None:  # written by an earlier version of this program
        return {}
    rows: Iterable[tuple[int, str, float, int, int]] = db.execute(
        "SELECT version, model, value, sites, rows FROM pooled"
        " WHERE version >= ? AND metric = ? AND sites >= ? AND value IS NOT NULL",
        (first, metric, k_min),
    )
    return {(row[0], row[1]): Point(*row) for row in rows}


def _current(
    db: sqlite3.Connection, gate: GateSettings, saved: Saved | None, k_min: int
) -> dict[Key, Point]:
    """Of what the head names now, from the counts that the gate itself judges by."""
    if saved is None:
        return {}
    named = {"train": saved.train, "candidate": saved.candidate, "serve": saved.serve}
    found: dict[Key, Point] = {}
    for model, ref in named.items():
        if ref is None:
            continue
        reports = _reports(db, ref.content.digest)
        value = pooled_figure(reports, gate, k_min)
        if value is not None:
            rows = sum(tally_of(report).rows for report in reports.values())
            sites = len(sites_of(reports))
            found[ref.version, model] = Point(ref.version, model, value, sites, rows)
    return found


def _reports(db: sqlite3.Connection, digest: bytes) -> dict[str, Evaluation]:
    rows = db.execute(
        "SELECT agent, body FROM evaluations WHERE digest = ? ORDER BY agent LIMIT ?",
        (digest, _AGENTS),
    )
    return {agent: msgspec.msgpack.decode(body, type=Evaluation) for agent, body in rows}


def _served(db: sqlite3.Connection, versions: list[sqlite3.Row]) -> tuple[Served, ...]:
    rows = db.execute(
        "SELECT number, version, lineage, at FROM served ORDER BY number DESC LIMIT ?", (DECISIONS,)
    ).fetchall()
    return tuple(
        Served(number, version, lineage, _version_at(versions, at), at)
        for number, version, lineage, at in reversed(rows)
    )


def read_decisions(
    db: sqlite3.Connection,
    versions: list[sqlite3.Row],
    history: tuple[Served, ...],
    *,
    show_reasons: bool,
) -> tuple[Decision, ...]:
    """The newest decisions, newest first.

    Args:
      db: open database.
      versions: of `read_versions`.
      history: what was served, oldest first.
      show_reasons: whether the figures in the reasons are of enough sites.
    """
    rows: Iterable[tuple[Any, ...]] = db.execute(
        "SELECT number, version, lineage, verdict, reason, at FROM decisions"
        " ORDER BY number DESC LIMIT ?",
        (DECISIONS,),
    )
    return tuple(
        Decision(
            number=number,
            version=version,
            lineage=lineage,
            verdict=verdict,
            reason=reason if show_reasons else "",
            at=at,
            at_version=_version_at(versions, at),
            served=_served_at(history, at),
        )
        for number, version, lineage, verdict, reason, at in rows
    )


def _served_at(history: tuple[Served, ...], at: float) -> int | None:
    known = [entry.version for entry in history if entry.at <= at]
    return known[-1] if known else None


# Sites


def read_sites(db: sqlite3.Connection, quality: Quality, saved: Saved | None) -> tuple[Site, ...]:
    """The first sites by name, each with figures of its own: not for where `k_min` is above 1."""
    known = db.execute("SELECT DISTINCT site FROM agents ORDER BY site LIMIT ?", (SITES,))
    names = [str(site) for (site,) in known]
    own, _ = _lines(db, quality.metric, "value", quality, names)
    losses, rows = _lines(db, "loss", "loss", quality, names)
    choices, given = _choices_by_site(db), _contributions(db)
    sites: list[Site] = []
    for name in names:
        # Too few rows, or failures, for a figure of its own: its mean loss still says something.
        has_figure = "train" in own.get(name, {})
        lines = (own if has_figure else losses).get(name, {})
        site = Site(
            site=name,
            metric=quality.metric if has_figure else "loss",
            rows=rows.get(name, 0),
            figures=_newest_figures(lines, saved),
            train_history=tuple(lines.get("train", [])[-HISTORY:]),
            serve_history=_in_steps(lines.get("chosen", lines.get("serve", [])), quality, saved),
            choices=tuple(choices.get(name, ())),
            contribution=given.get(name),
        )
        sites.append(site)
    return tuple(sites)


def _newest_figures(lines: Mapping[str, Line], saved: Saved | None) -> dict[str, float]:
    """Of the newest version, and of what is served now, which may be an older one again."""
    wanted = {"train": None, "serve": saved.serve.version if saved else 0}
    wanted["chosen"] = wanted["serve"]
    found: dict[str, float] = {}
    for model, version in wanted.items():
        values = [value for at, value in lines.get(model, []) if version in (None, at)]
        if values:
            found[model] = values[-1]
    return found


def _lines(
    db: sqlite3.Connection, metric: str, column: str, quality: Quality, names: list[str]
) -> tuple[dict[str, dict[str, Line]], dict[str, int]]:
    """Figures over versions by site, then model, and held-out rows behind each site's newest.

    Agents of a site are pooled.
    """
    newest = max((point.version for point in quality.points), default=0)
    rows = db.execute(
        f"SELECT site, model, version, sum(rows) AS n, sum({column} * rows),"  # noqa: S608
        f" sum({column} * {column} * rows) FROM quality WHERE {column} IS NOT NULL"
        " AND model IN ('train', 'serve', 'chosen') AND version >= ?"
        " AND (model != 'train' OR version > ?)"
        " AND (metric = ? OR ? = 'loss') AND site <= ?"
        " GROUP BY site, model, version HAVING n > 0 ORDER BY version",
        (quality.first_version, newest - HISTORY, metric, metric, names[-1] if names else ""),
    )
    lines: dict[str, dict[str, Line]] = {}
    held_out: dict[str, int] = {}
    for site, model, version, number, weighted, squared in rows:
        value = pooled(metric, Sums(number, weighted, squared))
        if value is not None:
            lines.setdefault(site, {}).setdefault(model, []).append((version, value))
            held_out[site] = number
    return lines, held_out


def _in_steps(line: Line, quality: Quality, saved: Saved | None) -> tuple[tuple[int, float], ...]:
    """What a site scored with, over the versions of `train` while it did."""
    values, newest = dict(line), saved.version if saved else 0
    steps: Line = []
    for entry, until in zip(
        quality.served, [*(item.since_version for item in quality.served[1:]), newest], strict=True
    ):
        if entry.version in values:
            steps += [(entry.since_version, values[entry.version]), (until, values[entry.version])]
    return tuple((at, value) for at, value in steps if at > newest - HISTORY)


def _contributions(db: sqlite3.Connection) -> dict[str, Contribution]:
    rows: Iterable[tuple[Any, ...]] = db.execute(
        "SELECT site, value, error, versions, as_of FROM contributions"
    )
    return {row[0]: Contribution(*row) for row in rows}


def _choices_by_site(db: sqlite3.Connection) -> dict[str, list[Choice]]:
    rows = db.execute(
        "SELECT site, agent, model, normalisation, reason FROM choices JOIN agents USING (agent)"
        " ORDER BY site, agent LIMIT ?",
        (_AGENTS,),
    )
    found: dict[str, list[Choice]] = {}
    for site, *choice in rows:
        found.setdefault(site, []).append(Choice(*choice))
    return found


def read_choices(db: sqlite3.Connection, k_min: int) -> tuple[tuple[str, str, int], ...]:
    """Agents by what they serve; nothing where any of the groups has fewer sites than `k_min`.

    Nothing at all, because the groups add up to the agents: one left out could be worked out.
    """
    rows = db.execute(
        "SELECT model, normalisation, count(*), count(DISTINCT site) FROM choices"
        " JOIN agents USING (agent) GROUP BY model, normalisation ORDER BY 3 DESC, 1, 2"
    ).fetchall()
    if any(row[3] < k_min for row in rows):
        return ()
    return tuple((row[0], row[1], row[2]) for row in rows)
