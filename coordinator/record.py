"""The record for people: decisions, quality, choices, links, contributions.

Tables of the coordinator's file that the page, the metrics and `status` read
(`coordinator/view.py`), and that drift, statistics and contribution are computed from.  Every
method writes inside the caller's transaction.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wire.messages import Choice, Statistics

RECORD_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
  number INTEGER PRIMARY KEY, version INTEGER NOT NULL, lineage INTEGER NOT NULL,
  verdict TEXT NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS quality (
  version INTEGER NOT NULL, model TEXT NOT NULL, agent TEXT NOT NULL, site TEXT NOT NULL,
  metric TEXT NOT NULL, value REAL, loss REAL, rows INTEGER NOT NULL, at REAL NOT NULL,
  PRIMARY KEY (version, model, agent)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pooled (
  version INTEGER NOT NULL, model TEXT NOT NULL, metric TEXT NOT NULL, value REAL,
  sites INTEGER NOT NULL, rows INTEGER NOT NULL, PRIMARY KEY (version, model)
) STRICT;
CREATE TABLE IF NOT EXISTS choices (
  agent TEXT PRIMARY KEY, model TEXT NOT NULL, normalisation TEXT NOT NULL, reason TEXT NOT NULL,
  at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS served (
  number INTEGER PRIMARY KEY, version INTEGER NOT NULL, lineage INTEGER NOT NULL,
  digest BLOB NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS link_events (
  number INTEGER PRIMARY KEY, agent TEXT NOT NULL, status TEXT NOT NULL, at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS site_statistics (
  agent TEXT PRIMARY KEY, site TEXT NOT NULL, bundle BLOB NOT NULL, count INTEGER NOT NULL,
  sums BLOB NOT NULL, squares BLOB NOT NULL    -- float64, little-endian
) STRICT;
CREATE TABLE IF NOT EXISTS contributions (
  site TEXT PRIMARY KEY, value REAL NOT NULL, error REAL NOT NULL, versions INTEGER NOT NULL,
  as_of INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS accounting (
  one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
"""
Verdict = Literal[
    "promoted", "kept back", "no quorum", "abandoned", "rolled back", "alarm threshold"
]
Judged = Literal["train", "candidate", "serve", "chosen"]
_LINK_EVENTS = 20_000
_QUALITY_VERSIONS = 2_000
_KEPT_SERVED = 3
"""Served weights that are kept for a rollback."""


@dataclass(frozen=True)
class Served:
    """Weights that were served."""

    version: int
    lineage: int
    digest: bytes


@dataclass(frozen=True)
class Figure:
    """How some weights did at one site."""

    version: int
    model: Judged
    agent: str
    site: str
    metric: str
    value: float | None
    loss: float | None
    rows: int


@dataclass(frozen=True)
class Pooled:
    """How some weights did over all sites that judged them."""

    version: int
    model: Judged
    metric: str
    value: float | None
    sites: int
    rows: int


class Record:
    """Writer and reader of the record's tables."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    def decide(self, version: int, lineage: int, verdict: Verdict, reason: str, at: float) -> None:
        """Note what became of a candidate, a rollback, or a new threshold of alarms."""
        self._db.execute(
            "INSERT INTO decisions (version, lineage, verdict, reason, at) VALUES (?, ?, ?, ?, ?)",
            (version, lineage, verdict, reason, at),
        )

    def decisions(self) -> list[tuple[int, int, str, str]]:
        """(version, lineage, verdict, reason), the oldest first."""
        return self._db.execute(
            "SELECT version, lineage, verdict, reason FROM decisions ORDER BY number"
        ).fetchall()

    def note_figure(self, figure: Figure, at: float) -> None:
        """Note a site's figure; a newer one of the same weights replaces it."""
        self._db.execute(
            "INSERT OR REPLACE INTO quality VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                figure.version,
                figure.model,
                figure.agent,
                figure.site,
                figure.metric,
                figure.value,
                figure.loss,
                figure.rows,
                at,
            ),
        )

    def note_pooled(self, figure: Pooled) -> None:
        """Note how weights did over all sites that judged them; their counts are gone after."""
        self._db.execute(
            "INSERT OR REPLACE INTO pooled VALUES (?, ?, ?, ?, ?, ?)",
            (figure.version, figure.model, figure.metric, figure.value, figure.sites, figure.rows),
        )

    def forget_old_quality(self, version: int) -> None:
        """Keep each site's figures of the newest versions; the pooled ones stay."""
        self._db.execute("DELETE FROM quality WHERE version < ?", (version - _QUALITY_VERSIONS,))

    def losses(self, version: int) -> dict[str, tuple[float, int]]:
        """Mean loss and rows of a version (`train`), by agent."""
        rows = self._db.execute(
            "SELECT agent, loss, rows FROM quality WHERE version = ? AND model = 'train'"
            " AND loss IS NOT NULL AND rows > 0",
            (version,),
        )
        return {str(agent): (float(loss), int(number)) for agent, loss, number in rows}

    def note_choice(self, agent: str, choice: Choice, at: float) -> None:
        """Note which model an agent serves."""
        self._db.execute(
            "INSERT OR REPLACE INTO choices VALUES (?, ?, ?, ?, ?)",
            (agent, choice.model, choice.normalisation, choice.reason, at),
        )

    def note_served(self, served: Served, at: float) -> None:
        """Note what is served from here on."""
        self._db.execute(
            "INSERT INTO served (version, lineage, digest, at) VALUES (?, ?, ?, ?)",
            (served.version, served.lineage, served.digest, at),
        )

    def served(self) -> list[Served]:
        """The newest weights that were served and are kept, the newest first, each once."""
        rows = self._db.execute(
            "SELECT version, lineage, digest FROM served ORDER BY number DESC LIMIT 100"
        )
        found = {bytes(row[2]): Served(row[0], row[1], bytes(row[2])) for row in rows}
        return list(found.values())[:_KEPT_SERVED]

    def note_link(self, agent: str, status: str, at: float) -> None:
        """Note a birth or a will."""
        self._db.execute(
            "INSERT INTO link_events (agent, status, at) VALUES (?, ?, ?)", (agent, status, at)
        )
        self._db.execute(
            "DELETE FROM link_events WHERE number <= (SELECT max(number) FROM link_events) - ?",
            (_LINK_EVENTS,),
        )

    def keep_statistics(self, agent: str, site: str, statistics: Statistics) -> None:
        """Remember a site's newest sums."""
        self._db.execute(
            "INSERT OR REPLACE INTO site_statistics VALUES (?, ?, ?, ?, ?, ?)",
            (
                agent,
                site,
                statistics.bundle,
                statistics.count,
                np.array(statistics.sums, "<f8").tobytes(),
                np.array(statistics.squares, "<f8").tobytes(),
            ),
        )

    def statistics(self, bundle: bytes) -> dict[tuple[str, str], Statistics]:
        """Sums for a bundle, by (agent, site)."""
        rows = self._db.execute(
            "SELECT agent, site, count, sums, squares FROM site_statistics WHERE bundle = ?"
            " ORDER BY agent",
            (bundle,),
        )
        return {
            (agent, site): Statistics(
                bundle=bundle,
                count=count,
                sums=tuple(np.frombuffer(sums, "<f8").tolist()),
                squares=tuple(np.frombuffer(squares, "<f8").tolist()),
            )
            for agent, site, count, sums, squares in rows
        }

    def memberships_of(self, version: int) -> list[tuple[str, int]]:
        """(site, weight) of each update that a version was made of."""
        return self._db.execute(
            "SELECT agents.site, updates.weight FROM updates JOIN agents USING (agent)"
            " WHERE updates.status = 'folded' AND updates.version = ?",
            (version,),
        ).fetchall()

    def accounting(self) -> tuple[int, bytes]:
        """Newest version that contributions account for, and their sums; (0, b"") before."""
        row = self._db.execute("SELECT version, body FROM accounting").fetchone()
        return (int(row[0]), bytes(row[1])) if row else (0, b"")

    def keep_accounting(
        self, version: int, body: bytes, values: Mapping[str, tuple[float, float, int]]
    ) -> None:
        """Replace the sums, and the estimates: (value, error, versions) by site."""
        self._db.execute("INSERT OR REPLACE INTO accounting VALUES (1, ?, ?)", (version, body))
        self._db.executemany(
            "INSERT OR REPLACE INTO contributions VALUES (?, ?, ?, ?, ?)",
            [(site, *numbers, version) for site, numbers in values.items()],
        )
