"""Reads `coordinator.db` into a `View`, beside the coordinator that writes it.

The file is opened read-only, and in WAL mode a reader never holds up the writer
(sqlite.org/wal.html, "Concurrency"); all of a view comes from one short read transaction.  What is
read is capped: a federation of any size gives a view of at most some hundred kilobytes.

Refuses to write, and to show a figure of fewer sites than the charter's `k_min`.  Invariant: the
same `View` object comes back as long as nobody has written to the file and the last hour's links
have not moved on.
"""

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from coordinator.config import CHARTER, DATABASE, CoordinatorSettings, bundle_of
from coordinator.gate import GateSettings
from coordinator.read_quality import (
    read_choices,
    read_decisions,
    read_quality,
    read_sites,
    read_versions,
)
from coordinator.store import Saved
from coordinator.view import (
    WINDOW_S,
    About,
    Agent,
    Alarm,
    Buffer,
    Presence,
    Updates,
    View,
    presence,
)
from wire.charters import newest_trust
from wire.errors import SettingsError, WireError
from wire.settings import resolve, settings_error
from wire.signing import parse_public_key
from wire.trust import read_charter

AGENTS: Final = 300
ALARMS: Final = 50
RECENT: Final = 500
"""Updates behind the histogram of staleness and the reasons."""
REASONS: Final = 8
MAX_AGE_S: Final = 20.0
"""After which a view is read again although nobody wrote: links age."""
_PLAIN_ALARMS: Final = ("two contents", "new incarnation", "revoked")
"""Alarms whose details hold no figure of a site's data."""
_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)


class ViewError(Exception):
    """The database can not be read now; the message says why and what to do."""


def read_about(path: Path, settings: CoordinatorSettings) -> About:
    """What configuration, charter and bundle say; needs no private key.

    Raises:
      SettingsError: charter or bundle can not be read, or are not the root's.
    """
    where = "trust.root"
    try:
        root = parse_public_key(settings.trust.root)
        where = "trust.charter"
        trust = read_charter(resolve(path, settings.trust.charter).read_bytes(), root)
        state = resolve(path, settings.coordinator.state_dir)
        trust = newest_trust(state / CHARTER, root, trust)
        where = "coordinator.bundle"
        data = resolve(path, settings.coordinator.bundle).read_bytes()
        bundle = bundle_of(data, trust, state / DATABASE)
    except (OSError, ValueError, WireError, SettingsError) as error:
        raise settings_error(path, where, str(error)) from None
    strategy = settings.strategy
    return About(
        federation=trust.federation,
        bundle=bundle.manifest.name,
        revision=bundle.manifest.revision,
        strategy=strategy.name,
        goal=strategy.members,
        k_min=trust.charter.k_min,
    )


class Reader:
    """One database file, read again only when it changed; threads may share it."""

    def __init__(
        self,
        path: Path,
        about: About,
        gate: GateSettings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._about, self._clock = path, about, clock
        self._gate = gate or GateSettings()
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._seen: tuple[int, int] | None = None
        self._view: View | None = None
        self._number = 0

    def view(self) -> View:
        """The newest view.

        Raises:
          ViewError: the file is missing, damaged, or of another version of this program.
        """
        with self._lock:
            try:
                return self._newest()
            except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
                self._close()
                reason = f"can not read {self._path}: {error}"
                if not self._path.exists():
                    reason = f"no state in {self._path.parent} yet; start the coordinator"
                raise ViewError(reason) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db, self._seen, self._view = None, None, None

    def _newest(self) -> View:
        now = self._clock()
        file = self._path.stat().st_ino
        if self._db is None or self._seen is None or self._seen[0] != file:
            # Closed before another is opened: a restored backup has the same name.
            self._close()
            self._db = _open_to_read(self._path)
        with _snapshot(self._db) as db:
            (changes,) = db.execute("PRAGMA data_version").fetchone()
            fresh = self._view is not None and now - self._view.read_at < MAX_AGE_S
            if self._view is None or not fresh or self._seen != (file, changes):
                self._number += 1
                self._view = _read(db, self._about, self._gate, self._number, now)
                self._seen = (file, changes)
        return self._view


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Open read-only; also on a disk that nobody may write to (sqlite.org/wal.html#readonly)."""
    modes = ["mode=ro"]
    log = Path(f"{path}-wal")
    if not log.exists() or log.stat().st_size == 0:
        modes.append("mode=ro&immutable=1")
    for mode in modes:
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=5,
        )
        try:
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error:
            db.close()
            if mode == modes[-1]:
                raise
        else:
            db.row_factory = sqlite3.Row
            return db
    raise sqlite3.OperationalError("unable to open database file")


@contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    db.execute("BEGIN")
    try:
        yield db
    finally:
        with suppress(sqlite3.Error):  # the first error is the one to tell
            db.execute("COMMIT")


def _read(
    db: sqlite3.Connection, about: About, gate: GateSettings, number: int, now: float
) -> View:
    started = time.perf_counter()
    is_cohort_only = about.k_min > 1
    control = db.execute("SELECT boot, training, duplicates FROM control").fetchone()
    state = db.execute("SELECT body FROM state").fetchone()
    saved = msgspec.msgpack.decode(state["body"], type=Saved) if state else None
    versions = read_versions(db)
    newest = versions[-1] if versions else None
    quality = read_quality(db, about, gate, saved, versions, now)
    agents = _agents(db, now)
    return View(
        number=number,
        read_at=now,
        about=about,
        run=control["boot"],
        training=control["training"],
        version=saved.version if saved else None,
        version_at=newest["made_at"] if newest else None,
        version_members=newest["members"] if newest else 0,
        lineage=saved.lineage if saved else 0,
        head=saved.head_sequence if saved else 0,
        serve=saved.serve.version if saved else None,
        threshold=saved.threshold if saved else None,
        candidate=saved.candidate.version if saved and saved.candidate else None,
        quality=quality,
        is_cohort_only=is_cohort_only,
        sites=() if is_cohort_only else read_sites(db, quality, saved),
        site_count=_number(db, "SELECT count(DISTINCT site) FROM agents"),
        choices=read_choices(db, about.k_min),
        buffer=_buffer(db, about),
        updates=_updates(db, control["duplicates"]),
        agents=agents,
        agent_count=_number(db, "SELECT count(*) FROM agents"),
        statuses=_counts(db, "SELECT status, count(*) FROM agents GROUP BY status"),
        decisions=read_decisions(
            db, versions, quality.served, show_reasons=gate.quorum >= about.k_min
        ),
        verdicts=_counts(db, "SELECT verdict, count(*) FROM decisions GROUP BY verdict"),
        alarms=_alarms(db, is_cohort_only=is_cohort_only),
        alarm_counts=_counts(db, "SELECT kind, sum(number) FROM alarms GROUP BY kind"),
        servable=_servable(db, saved),
        read_s=time.perf_counter() - started,
    )


def _number(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])


def _counts(db: sqlite3.Connection, query: str) -> dict[str, int]:
    return {str(key): int(number) for key, number in db.execute(query)}


def _servable(db: sqlite3.Connection, saved: Saved | None) -> tuple[int, ...]:
    """Earlier served versions whose weights are still here."""
    rows = db.execute(
        "SELECT version, max(number) FROM served WHERE digest IN (SELECT digest FROM contents)"
        " GROUP BY version ORDER BY 2 DESC"
    ).fetchall()
    return tuple(row[0] for row in rows if saved and row[0] != saved.serve.version)


# Updates


def _buffer(db: sqlite3.Connection, about: About) -> Buffer:
    row = db.execute(
        "SELECT count(*), count(DISTINCT updates.agent), count(DISTINCT site), min(received_at)"
        " FROM updates LEFT JOIN agents USING (agent) WHERE updates.status = 'committed'"
    ).fetchone()
    return Buffer(row[0], about.goal, row[1], row[2], row[3])


def _updates(db: sqlite3.Connection, duplicates: int) -> Updates:
    outcomes: dict[str, int] = {}
    staleness: dict[int, int] = {}
    # One pass over a table that only grows.
    for status, behind, number in db.execute(
        "SELECT status, CASE status WHEN 'folded' THEN max(version - 1 - base_version, 0) END,"
        " count(*) FROM updates GROUP BY 1, 2 ORDER BY 1, 2"
    ):
        outcomes[status] = outcomes.get(status, 0) + number
        if behind is not None:
            staleness[behind] = number
    recent = db.execute(
        "SELECT max(version - 1 - base_version, 0), count(*) FROM (SELECT version, base_version"
        " FROM updates WHERE status = 'folded' ORDER BY version DESC LIMIT ?)"
        " GROUP BY 1 ORDER BY 1",
        (RECENT,),
    )
    return Updates(
        outcomes=outcomes,
        duplicates=duplicates,
        reasons=_reasons(db),
        staleness=staleness,
        recent_staleness={row[0]: row[1] for row in recent},
    )


def _reasons(db: sqlite3.Connection) -> tuple[tuple[str, int], ...]:
    rows = db.execute(
        "SELECT reason, count(*) FROM (SELECT reason FROM updates"
        " WHERE status IN ('refused', 'void', 'dropped') ORDER BY received_at DESC LIMIT ?)"
        " GROUP BY reason",
        (RECENT,),
    )
    found: dict[str, int] = {}
    for reason, number in rows:
        # Without its numbers one reason is one row, and says nothing about a single site.
        kind = _NUMBER.sub("…", reason) or "no reason given"
        found[kind] = found.get(kind, 0) + number
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return tuple(ordered[:REASONS])


# Agents and alarms


def _agents(db: sqlite3.Connection, now: float) -> tuple[Agent, ...]:
    rows = db.execute(
        "SELECT agents.agent, site, agents.status, coalesce(is_paused, 0) AS is_paused,"
        " coalesce(name, '') AS ordered, coalesce(orders.status, '') AS outcome,"
        " coalesce(reason, '') AS reason FROM agents"
        " LEFT JOIN orders USING (agent) ORDER BY site, agents.agent LIMIT ?",
        (AGENTS,),
    ).fetchall()
    counts: dict[str, dict[str, int]] = {}
    last: dict[str, float] = {}
    for agent, status, number, at in db.execute(
        "SELECT agent, status, count(*), max(received_at) FROM updates WHERE agent IN"
        " (SELECT agent FROM agents ORDER BY site, agent LIMIT ?) GROUP BY agent, status",
        (AGENTS,),
    ):
        counts.setdefault(agent, {})[status] = number
        last[agent] = max(last.get(agent, 0.0), at)
    events = _link_events(db, now)
    return tuple(_agent(row, counts, last, events, now) for row in rows)


def _agent(
    row: sqlite3.Row,
    counts: Mapping[str, Mapping[str, int]],
    last: Mapping[str, float],
    events: Mapping[str, list[tuple[float, str]]],
    now: float,
) -> Agent:
    name = row["agent"]
    link, outcomes = events.get(name, []), counts.get(name, {})
    here = presence(link, now) if link else Presence()
    seen = [link[-1][0]] if link else []
    seen += [last[name]] if name in last else []
    return Agent(
        agent=name,
        site=row["site"],
        status=row["status"],
        presence=here,
        folded=outcomes.get("folded", 0),
        refused=outcomes.get("refused", 0),
        waiting=outcomes.get("committed", 0),
        last_seen=max(seen) if seen else None,
        is_paused=bool(row["is_paused"]),
        order=_order(row),
    )


def _order(row: sqlite3.Row) -> str:
    """The last order and what became of it: `configure: undone: no link`; empty for none."""
    told = row["ordered"], row["outcome"] or "not answered yet", row["reason"]
    return ": ".join(part for part in told if part) if row["ordered"] else ""


def _link_events(db: sqlite3.Connection, now: float) -> dict[str, list[tuple[float, str]]]:
    """Of each agent: the hour's events and the last one before, oldest first."""
    found: dict[str, list[tuple[float, str]]] = {}
    begin = now - WINDOW_S
    for agent, status, at in db.execute("SELECT agent, status, at FROM link_events ORDER BY at"):
        events = found.setdefault(agent, [])
        if at < begin and events and events[-1][1] == status:
            continue  # still the same stretch: what counts is when it began
        if at < begin:
            events.clear()
        events.append((at, status))
    return found


def _alarms(db: sqlite3.Connection, *, is_cohort_only: bool) -> tuple[Alarm, ...]:
    rows: Iterable[tuple[Any, ...]] = db.execute(
        "SELECT agent, kind, detail, number, last_at FROM alarms ORDER BY last_at DESC LIMIT ?",
        (ALARMS,),
    )
    return tuple(
        Alarm(agent, kind, "" if is_cohort_only and kind not in _PLAIN_ALARMS else detail, *rest)
        for agent, kind, detail, *rest in rows
    )
