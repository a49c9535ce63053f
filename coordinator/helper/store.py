"""What a helper must never forget: accepted reports, and which sum each of them was promised to.

One SQLite file, made together with the helper's keys and useless without them: `identity` names the
keys by their fingerprint.  Each promise is one transaction with fsync, committed before anybody
hears of it, so that a helper that is killed at any moment promises the same again.

Refuses another helper's store, and a second promise for a report.  Seeds that are forgotten are
overwritten in the file (`PRAGMA secure_delete`).

Invariant: `reports.manifest`, once set, never changes.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.revocations import REVOCATION_SCHEMA, Revocations
from coordinator.secure.rules import Entry
from wire.database import open_database, transaction
from wire.errors import SettingsError
from wire.masking import Seeds, held_by
from wire.messages import HelperKeys, Purpose

DATABASE = "helper.db"
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS identity (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  store TEXT NOT NULL,            -- random; goes with the keys
  fingerprint BLOB NOT NULL,      -- SHA-256 of both public keys
  session INTEGER NOT NULL,       -- of the last connection
  endorsed INTEGER NOT NULL,      -- manifests so far
  restored TEXT NOT NULL,         -- how it was seen that this is an old copy; '' when it is not
  highest INTEGER NOT NULL        -- endorsements that were seen elsewhere, when it is
) STRICT;
CREATE TABLE IF NOT EXISTS reports (
  report BLOB PRIMARY KEY,        -- SHA-256 of the signed header
  agent TEXT NOT NULL, name TEXT NOT NULL, site TEXT NOT NULL,
  purpose TEXT NOT NULL, subject BLOB NOT NULL, lineage INTEGER NOT NULL,
  weight INTEGER NOT NULL, base_version INTEGER NOT NULL,
  count INTEGER NOT NULL, ring INTEGER NOT NULL, scale REAL NOT NULL, bits INTEGER NOT NULL,
  place INTEGER NOT NULL,         -- which of the three this helper was sealed as
  seeds BLOB,                     -- its two seeds, ascending; NULL: forgotten
  manifest BLOB,                  -- whose sum it was promised to, for ever
  UNIQUE (agent, name)
) STRICT;
CREATE INDEX IF NOT EXISTS reports_of ON reports (manifest) WHERE manifest IS NOT NULL;
CREATE TABLE IF NOT EXISTS manifests (
  manifest BLOB PRIMARY KEY,      -- SHA-256 of the envelope
  number INTEGER NOT NULL UNIQUE, -- of this helper's endorsements
  envelope BLOB NOT NULL,
  given_s REAL                    -- Unix time at which masks were given first
) STRICT;
CREATE TABLE IF NOT EXISTS bases (
  recovery INTEGER NOT NULL,      -- the charter's, because numbers begin again after one
  version INTEGER NOT NULL,
  digest BLOB NOT NULL,           -- the first that was told
  PRIMARY KEY (recovery, version)
) STRICT;
CREATE TABLE IF NOT EXISTS alarms (
  kind TEXT PRIMARY KEY, detail TEXT NOT NULL, number INTEGER NOT NULL
) STRICT;
{REVOCATION_SCHEMA}"""
_ONES = "report, agent, site, weight, base_version, name, purpose, subject, lineage, count, ring"
_OTHERS = "scale, bits, place, seeds, manifest"


@dataclass(frozen=True)
class Shape:
    """What all members of one sum have in common.

    Attributes:
      purpose, subject: as in the manifest; the subject of updates is zero.
      lineage: of updates; 0 for figures.
      count: integers in the vector.
      ring: bits of each.
      scale: of updates; 1 for figures.
      bits: of updates' integers; 0 for figures, whose header says none.
    """

    purpose: Purpose
    subject: bytes
    lineage: int
    count: int
    ring: int
    scale: float
    bits: int


@dataclass(frozen=True)
class Accepted:
    """A report that this helper would put into a sum.

    Attributes:
      entry: what the rules of sums ask about it.
      name: what it is among its agent's reports (`wire.masking.name_of`).
      place: which of the charter's three helpers this one was when it was sealed.
      seeds: two of three; None once they were forgotten.
      manifest: whose sum it was promised to; None: none yet.
    """

    entry: Entry
    name: str
    shape: Shape
    place: int
    seeds: Seeds | None = field(repr=False)
    manifest: bytes | None = None


@dataclass(frozen=True)
class Known:
    """What the store says of itself.

    Attributes:
      store: its random name.
      session: of the last connection.
      endorsed: manifests so far.
      restored: how it was seen that this is an old copy; empty when it is not.
      highest: endorsements that were seen elsewhere.
    """

    store: str
    session: int
    endorsed: int
    restored: str
    highest: int


def fingerprint(keys: HelperKeys) -> bytes:
    """SHA-256 of both public keys."""
    return hashlib.sha256(keys.signing + keys.sealing).digest()


def make_store(directory: Path, keys: HelperKeys) -> str:
    """Make the store of new keys; returns its random name.

    Raises:
      SettingsError: there is one, or it can not be written.
    """
    path = directory / DATABASE
    refuse_existing(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = open_database(path, _SCHEMA, durable=True)
    name = os.urandom(8).hex()
    path.chmod(0o600)
    with transaction(database):
        database.execute(
            "INSERT INTO identity VALUES (1, ?, ?, 0, 0, '', 0)", (name, fingerprint(keys))
        )
    database.close()
    return name


def refuse_existing(directory: Path) -> None:
    """Raise `SettingsError` where a store is already."""
    path = directory / DATABASE
    if path.exists():
        reason = "this is a helper's store already: choose another folder"
        raise SettingsError(str(path), None, None, reason)


class Store:
    """The helper's database; one process owns it, others may read.

    Args:
      directory: the state directory.
      keys: public halves of the keys that the store must have been made with.

    Raises:
      SettingsError: there is no store, or one of other keys; the reason says what to do.
    """

    def __init__(self, directory: Path, keys: HelperKeys) -> None:
        path = directory / DATABASE
        if not path.exists():
            raise SettingsError(str(path), None, None, _LOST)
        self._database = open_database(path, _SCHEMA, durable=True)
        self._database.execute("PRAGMA secure_delete=ON")
        row = self._database.execute("SELECT fingerprint FROM identity").fetchone()
        if row is None or row[0] != fingerprint(keys):
            self._database.close()
            raise SettingsError(str(path), None, None, f"a store of other keys; {_LOST}")
        self.revocations = Revocations(self._database)

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in the block becomes durable together, or nothing of it."""
        with transaction(self._database):
            yield

    # Itself

    def known(self) -> Known:
        """What the store says of itself."""
        row = self._database.execute(
            "SELECT store, session, endorsed, restored, highest FROM identity"
        ).fetchone()
        return Known(*row)

    def next_session(self) -> int:
        """Begin a connection: a number above all earlier ones."""
        with self.transaction():
            self._database.execute("UPDATE identity SET session = session + 1")
        return self.known().session

    def mark_restored(self, reason: str, highest: int) -> None:
        """Remember for good that a newer copy of this store has been at work."""
        with self.transaction():
            self._database.execute(
                "UPDATE identity SET restored = ?, highest = max(highest, ?)", (reason, highest)
            )

    # Versions

    def base(self, recovery: int, version: int) -> bytes | None:
        """Digest of a version's weights, as it was first told."""
        row = self._database.execute(
            "SELECT digest FROM bases WHERE recovery = ? AND version = ?", (recovery, version)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def keep_base(self, recovery: int, version: int, digest: bytes) -> bool:
        """Keep a version's digest; returns whether it is the one that is known, or the first."""
        self._database.execute(
            "INSERT OR IGNORE INTO bases VALUES (?, ?, ?)", (recovery, version, digest)
        )
        return self.base(recovery, version) == digest

    # Reports

    def report(self, report: bytes) -> Accepted | None:
        """An accepted report, by the SHA-256 of its signed header."""
        row = self._database.execute(
            f"SELECT {_ONES}, {_OTHERS} FROM reports WHERE report = ?",  # noqa: S608  constants
            (report,),
        ).fetchone()
        return None if row is None else _accepted(row)

    def named(self, agent: str, name: str) -> bytes | None:
        """The accepted report that has this id."""
        row = self._database.execute(
            "SELECT report FROM reports WHERE agent = ? AND name = ?", (agent, name)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def accept(self, report: Accepted) -> None:
        """Keep a report; inside of `transaction`."""
        entry, shape, seeds = report.entry, report.shape, report.seeds or {}
        self._database.execute(
            f"INSERT INTO reports ({_ONES}, {_OTHERS})"  # noqa: S608  constants
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (
                entry.report,
                entry.agent,
                entry.site,
                entry.weight,
                entry.base_version,
                report.name,
                shape.purpose,
                shape.subject,
                shape.lineage,
                shape.count,
                shape.ring,
                shape.scale,
                shape.bits,
                report.place,
                b"".join(seeds[number] for number in sorted(seeds)),
            ),
        )

    # Manifests

    def endorsement(self, manifest: bytes) -> int | None:
        """Number of the endorsement of a manifest; None without one."""
        row = self._database.execute(
            "SELECT number FROM manifests WHERE manifest = ?", (manifest,)
        ).fetchone()
        return None if row is None else int(row[0])

    def manifest_envelope(self, manifest: bytes) -> bytes | None:
        """An endorsed manifest as the coordinator signed it."""
        row = self._database.execute(
            "SELECT envelope FROM manifests WHERE manifest = ?", (manifest,)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def promise(self, manifest: bytes, envelope: bytes, reports: Iterable[bytes]) -> int:
        """Promise reports to a manifest, all of them or none; inside of `transaction`.

        Returns:
          The number of the endorsement.

        Raises:
          ValueError: one is unknown or promised already; the transaction is to be given up.
        """
        wanted = [(manifest, report) for report in reports]
        done = self._database.executemany(
            "UPDATE reports SET manifest = ? WHERE report = ? AND manifest IS NULL", wanted
        )
        if done.rowcount != len(wanted):
            raise ValueError("a report of the manifest is not free")
        self._database.execute("UPDATE identity SET endorsed = endorsed + 1")
        number = self.known().endorsed
        self._database.execute(
            "INSERT INTO manifests VALUES (?, ?, ?, NULL)", (manifest, number, envelope)
        )
        return number

    def given(self, manifest: bytes, now_s: float) -> None:
        """Remember when the masks of a manifest were given first; `now_s` is Unix time."""
        with self.transaction():
            self._database.execute(
                "UPDATE manifests SET given_s = ? WHERE manifest = ? AND given_s IS NULL",
                (now_s, manifest),
            )

    def forget_seeds(self, before_s: float, newest_kept: int = 0) -> int:
        """Forget the seeds of manifests whose masks were given before; returns how many.

        Args:
          before_s: Unix time.
          newest_kept: manifests, counted from the newest, whose seeds stay whatever a clock says.
        """
        with self.transaction():
            done = self._database.execute(
                "UPDATE reports SET seeds = NULL WHERE seeds IS NOT NULL AND manifest IN"
                " (SELECT manifest FROM manifests, identity WHERE given_s < ?"
                "  AND number <= endorsed - ?)",
                (before_s, newest_kept),
            )
        return done.rowcount

    # For people

    def alarm(self, kind: str, detail: str) -> None:
        """Count something that an operator should know; inside of `transaction`."""
        self._database.execute(
            "INSERT INTO alarms VALUES (?, ?, 1) ON CONFLICT (kind)"
            " DO UPDATE SET detail = excluded.detail, number = number + 1",
            (kind, detail),
        )

    def alarms(self) -> list[tuple[str, str, int]]:
        """Kind, newest detail and number of each kind of alarm."""
        return self._database.execute(
            "SELECT kind, detail, number FROM alarms ORDER BY kind"
        ).fetchall()

    def counts(self) -> dict[str, int]:
        """How many reports wait, are promised, and have no seeds any more; and sums opened."""
        row = self._database.execute(
            "SELECT count(*) FILTER (WHERE manifest IS NULL),"
            " count(*) FILTER (WHERE manifest IS NOT NULL),"
            " count(*) FILTER (WHERE seeds IS NULL),"
            " (SELECT count(*) FROM manifests WHERE given_s IS NOT NULL) FROM reports"
        ).fetchone()
        return dict(zip(("waiting", "promised", "forgotten", "released"), row, strict=True))


_LOST = (
    "keys and store are made together (journeyman-helper keys).  A helper without the store that "
    "its keys were used with could release masks twice: make new keys and have the root put them "
    "into the charter"
)


def _accepted(row: tuple[object, ...]) -> Accepted:
    """A row of `reports`, in the order of `_ONES` and `_OTHERS`."""
    (report, agent, site, weight, base_version, name, purpose, subject, lineage, count, ring) = row[
        :11
    ]
    scale, bits, place, raw, manifest = row[11:]
    return Accepted(
        entry=Entry(report, agent, site, weight, base_version),  # type: ignore[arg-type]
        name=name,  # type: ignore[arg-type]
        shape=Shape(purpose, subject, lineage, count, ring, scale, bits),  # type: ignore[arg-type]
        place=place,  # type: ignore[arg-type]
        seeds=_seeds(place, raw),  # type: ignore[arg-type]
        manifest=manifest,  # type: ignore[arg-type]
    )


def _seeds(place: int, raw: bytes | None) -> Seeds | None:
    if raw is None:
        return None
    half = len(raw) // 2
    first, second = held_by(place)
    return {first: raw[:half], second: raw[half:]}
