"""A coordinator.db in the middle of its life: 48 versions, five sites, a failed gate, a rollback.

Rows go in through the `Store` where it has a function for them, and by SQL where only the
federation's own decisions write (their numbers are then known to the test).
"""

import functools
import math
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from coordinator.store import KnownAgent, Saved, Store
from coordinator.view import About
from wire.chunks import describe
from wire.messages import VersionRef

NOW = 1_800_000_000.0
VERSIONS = 48
STEP_S = 240.0
SITES = {"L": 1200, "M": 600, "H": 200, "Nordhausen": 900, "Sud-2": 350}
GOAL = 5
BETTER = {"L": 0.06, "M": -0.02, "H": 0.1, "Nordhausen": 0.0, "Sud-2": -0.12}


def about(k_min: int = 1, federation: str = "plant-net") -> About:
    return About(federation, "spindle", 3, "fedbuff", GOAL, k_min)


@dataclass
class Seeded:
    """The file, and a way to write to it as the coordinator does."""

    path: Path

    def insert(self, table: str, values: Mapping[str, object]) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            _insert(db, table, values)

    def execute(self, query: str, *values: object) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(query, values)


def _insert(db: sqlite3.Connection, table: str, values: Mapping[str, object]) -> None:
    marks = ", ".join("?" * len(values))
    names = ", ".join(f'"{name}"' for name in values)
    db.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))


def made_at(version: int) -> float:
    return NOW - 90 - (VERSIONS - version) * STEP_S


def seed(path: Path) -> Seeded:
    """Write the database to `path`; it is made once and copied."""
    path.write_bytes(_made())
    return Seeded(path)


@functools.cache
def _made() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "coordinator.db"
        _make(path)
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


def _make(path: Path) -> None:
    store = Store(path)
    content = describe(b"weights", 256)

    def ref(version: int) -> VersionRef:
        return VersionRef(version=version, content=content)

    saved = Saved(
        version=VERSIONS,
        lineage=2,
        head_sequence=61,
        head=b"",
        bundle=content,
        train=ref(VERSIONS),
        candidate=ref(45),
        serve=ref(40),
        judged=40,
    )
    with store.transaction():
        store.save(saved)
    for number, (site, _) in enumerate(SITES.items()):
        agent = f"{site.lower()}-press-{number + 1}"
        status = "offline" if site == "Sud-2" else "online"
        store.keep_agent(KnownAgent(agent, site, bytes(32), 1, "0" * 16, 1), status)
    store.count_duplicates(7)
    store.raise_alarm("m-press-2", "two contents", "update 18 came with two contents")
    store.order("h-press-3", "pause")
    store.close()
    with closing(sqlite3.connect(path)) as db, db:
        _versions(db)
        _quality(db)
        _updates(db)
        _decisions(db)
        _agents(db)
        db.execute("UPDATE alarms SET last_at = ?", (NOW - 700,))


def lineage_of(version: int) -> int:
    return 0 if version < 19 else 1 if version < 33 else 2


def _versions(db: sqlite3.Connection) -> None:
    for version in range(VERSIONS + 1):
        row = {"lineage": lineage_of(version), "digest": version.to_bytes(32, "big")}
        row |= {"members": 0 if version in (0, 19, 33) else GOAL, "made_at": made_at(version)}
        _insert(db, "versions", {"version": version, **row})


def train_quality(version: int) -> float:
    """Learns, is poisoned from 14 on, goes on from 10 at 19, drifts down, goes on from 25 at 33."""
    learned = {0: version, 1: 10 + (version - 19) * 1.3, 2: 24 + (version - 33) * 1.2}
    value = 0.86 - 0.46 * math.exp(-learned[lineage_of(version)] / 9)
    if 14 <= version <= 18:
        value -= 0.09 * (version - 13) / 1.5
    if 29 <= version <= 32:
        value -= 0.03 * (version - 28)
    return value + (0.012 * math.sin(version * 1.9) if version not in (19, 33) else 0.0)


def _quality(db: sqlite3.Connection) -> None:
    served = 0
    for version in range(VERSIONS + 1):
        judged = {"train": version}
        if version and version % 5 == 0:
            judged["candidate"] = version
        served = {6: 5, 11: 10, 26: 25, 31: 30, 33: 25, 41: 40}.get(version, served)
        judged |= {"serve": served, "chosen": served}
        for number, (site, rows) in enumerate(SITES.items()):
            agent = f"{site.lower()}-press-{number + 1}"
            for model, at in judged.items():
                smoothed = 0.015 if model != "train" and not 14 <= at <= 18 else 0.0
                noise = 0.02 * math.sin(at * (number + 2)) if model == "train" else 0.0
                own = 0.02 - BETTER[site] * 0.15 if model == "chosen" else 0.0
                value = train_quality(at) + smoothed + BETTER[site] * 0.4 + noise + own
                few = site == "H"  # too few failures held out for a figure of its own
                _judge(db, at, model, agent, site, None if few else value, rows, 0.42 - value / 3)


def _judge(
    db: sqlite3.Connection,
    version: int,
    model: str,
    agent: str,
    site: str,
    value: float | None,
    rows: int,
    loss: float,
) -> None:
    row: dict[str, object] = {"version": version, "model": model, "agent": agent, "site": site}
    row |= {"metric": "pr_auc", "value": value, "loss": loss, "rows": rows, "at": made_at(version)}
    _insert(db, "quality", row)


def _updates(db: sqlite3.Connection) -> None:
    sequence = 0
    agents = [f"{site.lower()}-press-{number + 1}" for number, site in enumerate(SITES)]
    for version in range(1, VERSIONS + 1):
        for member in range(GOAL):
            sequence += 1
            agent = agents[(version + member * 2) % (5 if version % 3 else 4)]
            staleness = 0 if member < 2 else (version * (member + 1)) % (member * 2 + 1)
            base = max(0, version - 1 - staleness)
            _update(db, agent, sequence, "folded", "", version, base)
    for number, reason in enumerate(
        ["base version 912 is not one of ours"] * 2
        + [f"lineage {number % 2} was abandoned" for number in range(9)]
        + ["norm 31.5 exceeds 10", "norm 12.25 exceeds 10", "norm 18 exceeds 10"]
    ):
        _update(db, agents[number % 5], 1000 + number, "refused", reason, 0, 17)
    _update(db, agents[4], 2000, "dropped", "quota", 0, 3)
    for number in range(3):
        _update(db, agents[number], 3000 + number, "committed", "", 0, VERSIONS)


def _update(
    db: sqlite3.Connection,
    agent: str,
    sequence: int,
    status: str,
    reason: str,
    version: int,
    base: int,
) -> None:
    at = NOW - 80 + (sequence - 3000) * 20 if sequence >= 3000 else made_at(version or 20) - 30
    row: dict[str, object] = {"agent": agent, "incarnation": "0" * 16, "sequence": sequence}
    row |= {"digest": sequence.to_bytes(32, "big"), "status": status, "reason": reason}
    row |= {"version": version, "base_version": base, "coefficient": 10, "received_at": at}
    row |= {"weight": 10, "bucket": 0}
    _insert(db, "updates", row)


DECIDED = [
    (5, 0, "promoted", "PR-AUC 0.641 against 0.400 on 3,250 held-out rows of 5 sites", 6),
    (10, 0, "promoted", "PR-AUC 0.724 against 0.641 on 3,250 held-out rows of 5 sites", 11),
    (15, 0, "kept back", "PR-AUC 0.583 against 0.724 on 3,250 held-out rows of 5 sites", 19),
    (19, 0, "abandoned", "PR-AUC 0.583 against 0.724 on 3,250 held-out rows of 5 sites", 19),
    (20, 1, "no quorum", "no quorum within 600 s", 23),
    (25, 1, "promoted", "PR-AUC 0.846 against 0.724 on 3,250 held-out rows of 5 sites", 26),
    (30, 1, "promoted", "PR-AUC 0.853 against 0.846 on 3,250 held-out rows of 5 sites", 31),
    (33, 1, "rolled back", "the operator went back to version 25", 33),
    (35, 2, "kept back", "PR-AUC 0.836 against 0.846 on 3,250 held-out rows of 5 sites", 36),
    (40, 2, "promoted", "PR-AUC 0.864 against 0.846 on 3,250 held-out rows of 5 sites", 41),
]
SERVED = [(0, 0, 0), (5, 0, 6), (10, 0, 11), (25, 1, 26), (30, 1, 31), (25, 2, 33), (40, 2, 41)]


def _decisions(db: sqlite3.Connection) -> None:
    for number, (version, lineage, verdict, reason, at) in enumerate(DECIDED, start=1):
        row: dict[str, object] = {"number": number, "version": version, "lineage": lineage}
        row |= {"verdict": verdict, "reason": reason, "at": made_at(at) + 0.02}
        _insert(db, "decisions", row)
    for number, (version, lineage, at) in enumerate(SERVED, start=1):
        row = {"number": number, "version": version, "lineage": lineage}
        row |= {"digest": version.to_bytes(32, "big"), "at": made_at(at) - 0.01}
        _insert(db, "served", row)
    for version in (25, 30, 40):  # weights that are kept for a rollback
        digest = version.to_bytes(32, "big")
        _insert(db, "contents", {"digest": digest, "data": b"weights"})


def _agents(db: sqlite3.Connection) -> None:
    chosen = ["global", "fine_tuned", "ditto", "global", "local"]
    for number, site in enumerate(SITES):
        agent = f"{site.lower()}-press-{number + 1}"
        at = NOW - 7000
        online = True
        while at < NOW - 60 * (number + 1):
            event = {"agent": agent, "status": "online" if online else "offline", "at": at}
            _insert(db, "link_events", event)
            at += (700 if online else 130 * (number + 1)) * (1 + (at % 7) / 7)
            online = not online
        last = "offline" if site == "Sud-2" else "online"
        _insert(db, "link_events", {"agent": agent, "status": last, "at": NOW - 30})
        reason = f"own rows: {chosen[number]} 0.861, global 0.842"
        row = {"agent": agent, "model": chosen[number], "reason": reason, "at": NOW - 300}
        _insert(db, "choices", row | {"normalisation": "local" if site == "H" else "shared"})
        given = {"site": site, "value": [0.012, 0.006, 0.0021, -0.001, -0.011][number]}
        given |= {"error": [0.003, 0.002, 0.004, 0.0015, 0.0025][number]}
        _insert(db, "contributions", given | {"versions": 46, "as_of": VERSIONS})
