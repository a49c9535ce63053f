"""The outbox: every client update from the moment it is made until its outcome is known.

Durable (SQLite WAL, synchronous=FULL).  It holds the final bytes of header and content, which are
never encoded again.  An update leaves only by a terminal receipt of the coordinator; a PUBACK
changes nothing here.  What remains of a settled update is one small row, the site's own account,
and of the oldest of those a count.

Identity: (incarnation, sequence).  The incarnation is random, made with the file; a wiped disk
therefore never reuses an id.  It is also renewed when the file was restored from a backup, was
copied, or had to be replaced; older incarnations' open updates keep their ids and are offered on.

A bad disk never ends the agent (`agent/storage.py`).  What can not be promised durably raises
`DiskError` (`add`); what the other side repeats, or the next start does again, is left undone.
"""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from agent.outbox_tables import begin_incarnation, prepare
from agent.storage import DurableFile
from wire.database import DiskError
from wire.messages import CONFLICT, TERMINAL, Receipt

logger = logging.getLogger(__name__)

T = TypeVar("T")

_KEPT_ROWS, _KEPT_SLACK = 10_000, 1_000
"""Settled rows kept for the site's account: 2 MB, and ten times what one base version may make."""


@dataclass(frozen=True, order=True)
class UpdateId:
    """Names one update of this agent for ever."""

    incarnation: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.incarnation}/{self.sequence}"


@dataclass(frozen=True)
class Offer:
    """What goes on the wire for one update; `content` is None for a tombstone."""

    id: UpdateId
    header: bytes
    content: bytes | None


@dataclass(frozen=True)
class Memory:
    """What the next update depends on.

    Attributes:
      residual: what this update left out, to be added to the next one.
      calibration: what the agent remembers once this update was folded; forgotten if it is not.
    """

    residual: bytes | None = None
    calibration: bytes | None = None


@dataclass(frozen=True)
class Doomed:
    """An update that can not stay and must become a tombstone.

    Attributes:
      id: the update's.
      reason: `quota` or `damaged`, as the tombstone says it.
      lineage, base_version: what it was trained from.
      digest: SHA-256 of its content.
      header: its signed header, or None when that is damaged too.
    """

    id: UpdateId
    reason: str
    lineage: int
    base_version: int
    digest: bytes
    header: bytes | None


@dataclass(frozen=True)
class Settlement:
    """What receipts changed.

    Attributes:
      settled: updates that became terminal.
      conflicts: updates of ours under whose id the coordinator has another content: a copy of this
        card runs somewhere, and this agent must `renew`.
    """

    settled: list[UpdateId]
    conflicts: list[UpdateId]


@dataclass(frozen=True)
class Entry:
    """One update in the site's own account; times are wall clock, for display."""

    incarnation: str
    sequence: int
    status: str
    base_version: int
    version: int
    made_at: float
    settled_at: float | None


class Outbox:
    """Owner of the outbox's file.

    Args:
      path: the file, or `:memory:`.
      quota_bytes: of pending updates; tombstones may take as much again.  May be set at any time.

    Raises:
      DiskError: there is no file to read and none can be made.
      SettingsError: a newer version of the agent made the file.
    """

    def __init__(self, path: Path | str, quota_bytes: int) -> None:
        in_memory = path == ":memory:"
        reserve = None if in_memory else Path(path).with_suffix(".reserve")
        ready = partial(prepare, path=None if in_memory else Path(path))
        self._file = DurableFile(path, ready, durable=True, reserve=reserve)
        self.quota_bytes = quota_bytes
        self._damaged: set[UpdateId] = set()
        self._counts: dict[str, int] | None = None
        self._session = 0
        self._identity = ("", 0, -1)
        self._read_identity()

    @property
    def problem(self) -> str:
        """What is wrong with the disk now; empty when nothing is."""
        return self._file.problem

    @property
    def set_aside(self) -> list[Path]:
        """Damaged files that were kept beside this one."""
        return self._file.set_aside

    @property
    def incarnation(self) -> str:
        """The one that new updates are made under."""
        return self._read_identity()[0]

    @property
    def receipt_counter(self) -> int:
        """Highest counter accepted from the coordinator's inbox messages."""
        return self._read_identity()[2]

    def _read_identity(self) -> tuple[str, int, int]:
        """Incarnation, session and receipt counter, as last seen while the disk can not be read."""
        self._identity = self._file.read(_identity, self._identity)
        return self._identity

    def next_session(self, above: int = 0) -> int:
        """Return a session number above all earlier ones; durable before it is returned.

        Args:
          above: one that was seen elsewhere, which this file has forgotten or never knew.

        On a disk that can not be written it is counted in memory, above the durable one.  Then a
        restart hands it out again, and the coordinator takes that connection's birth and reports
        for old ones until the numbers have passed it; updates are not affected.
        """
        self._session = max(self._read_identity()[1], self._session, above) + 1
        known = self.problem
        try:
            self._write(partial(_set_session, session=self._session))
        except DiskError:
            if not known:
                logger.warning("session %d and those after it are not durable", self._session)
        return self._session

    def renew(self, reason: str) -> str:
        """Begin a new incarnation, whose sequences start at 1; return the one now in use.

        Open updates of the old ones stay and are offered under their own ids.  On a disk that can
        not be written the old one stays in use (nothing can be added to it there either), and
        whoever saw the reason will see it again.

        Args:
          reason: for the log and the account.
        """
        try:
            made = self._write(partial(begin_incarnation, reason=reason))
        except DiskError:
            return self.incarnation
        logger.warning("incarnation %s begins: %s", made, reason)
        return made

    def add(
        self,
        lineage: int,
        base_version: int,
        build: Callable[[str, int], tuple[bytes, bytes]],
        memory: Memory = Memory(),
    ) -> UpdateId:
        """Make the next update durable and return its id.

        Args:
          lineage: the head's lineage.
          base_version: the version it was trained from.
          build: gets the incarnation and the sequence, returns the signed header and the content;
            called again when the file had to be replaced.
          memory: what the next update depends on, kept in the same transaction.

        Raises:
          DiskError: the update was not made.
        """

        def insert(database: sqlite3.Connection) -> UpdateId:
            incarnation = _identity(database)[0]
            sequence = _highest(database, incarnation) + 1
            header, content = build(incarnation, sequence)
            database.execute(
                "INSERT INTO updates (incarnation, sequence, lineage, base_version, digest, status,"
                " reason, made_at, bytes, header_digest, header, content)"
                " VALUES (?, ?, ?, ?, ?, 'pending', '', ?, ?, ?, ?, ?)",
                (
                    incarnation,
                    sequence,
                    lineage,
                    base_version,
                    _sha256(content),
                    time.time(),
                    len(header) + len(content),
                    _sha256(header),
                    header,
                    content,
                ),
            )
            database.execute(
                "UPDATE incarnations SET highest = ? WHERE incarnation = ?", (sequence, incarnation)
            )
            made = UpdateId(incarnation, sequence)
            _remember(database, made, memory)
            return made

        return self._write(insert, small=False)

    def remembered(self, name: Literal["residual", "calibration"]) -> bytes | None:
        """What an earlier update left for the next one, as it was given to `add`.

        Raises:
          DiskError: it can not be read.
        """

        def look(database: sqlite3.Connection) -> bytes | None:
            row = database.execute("SELECT body FROM remembered WHERE name = ?", (name,)).fetchone()
            return bytes(row[0]) if row else None

        return self._file.look(look)

    @property
    def is_full(self) -> bool:
        """Whether tombstones alone exceed the quota: nothing may be made until some are settled."""

        def tombstones(database: sqlite3.Connection) -> int:
            found = database.execute(
                "SELECT coalesce(sum(bytes), 0) FROM updates"
                " WHERE header IS NOT NULL AND content IS NULL"
            )
            return int(found.fetchone()[0])

        return self._file.read(tombstones, 0) > self.quota_bytes

    def over_quota(self) -> list[Doomed]:
        """Oldest uncommitted updates that must go to meet the quota."""

        def find(database: sqlite3.Connection) -> list[UpdateId]:
            rows = database.execute(
                "SELECT incarnation, sequence, bytes FROM updates"
                " WHERE header IS NOT NULL AND status = 'pending' AND content IS NOT NULL"
                " ORDER BY place"
            ).fetchall()
            excess = sum(size for *_, size in rows) - self.quota_bytes
            victims: list[UpdateId] = []
            for incarnation, sequence, size in rows:
                if excess <= 0:
                    break
                victims.append(UpdateId(incarnation, sequence))
                excess -= size
            return victims

        return self._doomed(self._file.read(find, []), "quota")

    def damaged(self) -> list[Doomed]:
        """Updates whose bytes were found rotten when they were to be offered."""
        return self._doomed(sorted(self._damaged), "damaged")

    def _doomed(self, ids: list[UpdateId], reason: str) -> list[Doomed]:
        def look(database: sqlite3.Connection) -> list[Doomed]:
            found: list[Doomed] = []
            for at in ids:
                row = database.execute(
                    "SELECT lineage, base_version, digest, header_digest, header FROM updates"
                    " WHERE incarnation = ? AND sequence = ? AND header IS NOT NULL",
                    (at.incarnation, at.sequence),
                ).fetchone()
                if row is not None:
                    lineage, base_version, digest, header_digest, header = row
                    sound = header if _sha256(header) == header_digest else None
                    found.append(Doomed(at, reason, lineage, base_version, digest, sound))
            return found

        return self._file.read(look, [])

    def bury(self, at: UpdateId, tombstone: bytes) -> bool:
        """Replace a pending update, or a damaged one, by its tombstone header.

        Its id stays accounted for.

        Returns:
          Whether it was; not when it was committed or settled meanwhile, or the disk refused.
        """
        is_damaged = at in self._damaged

        def replace(database: sqlite3.Connection) -> bool:
            changed = database.execute(
                "UPDATE updates SET header = ?, header_digest = ?, content = NULL, bytes = ?"
                " WHERE incarnation = ? AND sequence = ?"
                " AND (status = 'pending' OR (? AND status = 'committed'))",
                (
                    tombstone,
                    _sha256(tombstone),
                    len(tombstone),
                    at.incarnation,
                    at.sequence,
                    is_damaged,
                ),
            )
            return changed.rowcount == 1

        try:
            done = self._write(replace)
        except DiskError:
            return False
        self._damaged.discard(at)
        return done

    def replace_header(self, at: UpdateId, header: bytes) -> bool:
        """Give an open update with its content another signed header.

        Args:
          at: the update.
          header: of the same id and content digest, such as one that names smaller chunks.

        Returns:
          Whether it was; not when the update is settled or a tombstone, or the disk refused.
        """

        def replace(database: sqlite3.Connection) -> bool:
            changed = database.execute(
                "UPDATE updates SET header = ?, header_digest = ?, bytes = ? + length(content)"
                " WHERE incarnation = ? AND sequence = ? AND header IS NOT NULL"
                " AND content IS NOT NULL",
                (header, _sha256(header), len(header), at.incarnation, at.sequence),
            )
            return changed.rowcount == 1

        try:
            return self._write(replace)
        except DiskError:
            return False

    def settle(self, receipts: tuple[Receipt, ...], counter: int) -> Settlement:
        """Apply committed and terminal receipts.

        Receipts of unknown or settled updates change nothing, and neither does one for another
        content under one of our ids.  On a disk that can not be written none is applied; the
        coordinator repeats them when the header is offered again.
        """

        def apply(database: sqlite3.Connection) -> Settlement:
            settlement = Settlement([], [])
            for receipt in receipts:
                _apply(database, receipt, settlement)
            database.execute("UPDATE identity SET receipt_counter = ?", (counter,))
            _forget_oldest(database)
            return settlement

        try:
            return self._write(apply)
        except DiskError:
            return Settlement([], [])

    def open_updates(self) -> list[UpdateId]:
        """Updates without a terminal outcome, the oldest made first."""

        def find(database: sqlite3.Connection) -> list[UpdateId]:
            rows = database.execute(
                "SELECT incarnation, sequence FROM updates WHERE header IS NOT NULL ORDER BY place"
            )
            return [UpdateId(*row) for row in rows]

        return self._file.read(find, [])

    def offer(self, at: UpdateId) -> Offer | None:
        """Read an open update's bytes; None when it is settled, or can not be read or trusted.

        Header and content are checked against their SHA-256, because cards rot.  A damaged update
        is not offered until whoever can sign has made a tombstone of it (`damaged`, `bury`).
        """

        def look(database: sqlite3.Connection) -> tuple[bytes, bytes, bytes, bytes | None] | None:
            row: tuple[bytes, bytes, bytes, bytes | None] | None = database.execute(
                "SELECT header_digest, header, digest, content FROM updates"
                " WHERE incarnation = ? AND sequence = ? AND header IS NOT NULL",
                (at.incarnation, at.sequence),
            ).fetchone()
            return row

        row = self._file.read(look, None)
        if row is None:
            return None
        header_digest, header, digest, content = row
        sound = _sha256(header) == header_digest
        if sound and (content is None or _sha256(content) == digest):
            return Offer(at, header, content)
        if at not in self._damaged:
            logger.error("update %s is damaged on the disk and will be dropped", at)
            self._damaged.add(at)
        return None

    def made_from(self, lineage: int, base_version: int) -> int:
        """How many updates were made from this base version; right for recent ones.

        Raises:
          DiskError: it can not be read.
        """

        def count(database: sqlite3.Connection) -> int:
            found = database.execute(
                "SELECT count(*) FROM updates WHERE lineage = ? AND base_version = ?",
                (lineage, base_version),
            )
            return int(found.fetchone()[0])

        return self._file.look(count)

    @property
    def produced(self) -> int:
        """Highest sequence of the current incarnation."""
        return self.highest(self.incarnation)

    def knows(self, incarnation: str) -> bool:
        """Whether an incarnation is, or once was, this card's own."""

        def look(database: sqlite3.Connection) -> bool:
            found = database.execute(
                "SELECT count(*) FROM incarnations WHERE incarnation = ?", (incarnation,)
            )
            return bool(found.fetchone()[0])

        return self._file.read(look, otherwise=False)

    def highest(self, incarnation: str) -> int:
        """Highest sequence that this file knows of an incarnation; 0 of an unknown one."""
        return self._file.read(partial(_highest, incarnation=incarnation), 0)

    def counts(self) -> dict[str, int]:
        """Updates ever made per status: pending, committed, folded, refused, void, dropped."""
        if self._counts is None:
            self._counts = self._file.read(_count, None)
        return dict(self._counts or {})

    def account(self) -> list[Entry]:
        """Every update on record, in the order of making."""

        def list_all(database: sqlite3.Connection) -> list[Entry]:
            rows = database.execute(
                "SELECT incarnation, sequence, status, base_version, coalesce(version, 0), made_at,"
                " settled_at FROM updates ORDER BY place"
            )
            return [Entry(*row) for row in rows]

        return self._file.read(list_all, [])

    def recover(self) -> None:
        """After trouble, find out whether the disk takes writes again; `problem` says."""
        if self.problem:
            with suppress(DiskError):
                self._write(partial(_set_session, session=self._session), small=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, work: Callable[[sqlite3.Connection], T], *, small: bool = True) -> T:
        self._counts = None
        return self._file.write(work, small=small)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _identity(database: sqlite3.Connection) -> tuple[str, int, int]:
    found = database.execute("SELECT incarnation, session, receipt_counter FROM identity")
    incarnation, session, receipt_counter = found.fetchone()
    return str(incarnation), int(session), int(receipt_counter)


def _count(database: sqlite3.Connection) -> dict[str, int] | None:
    rows = database.execute(
        "SELECT status, sum(number) FROM"
        " (SELECT status, count(*) AS number FROM updates GROUP BY status"
        " UNION ALL SELECT status, number FROM forgotten) GROUP BY status"
    )
    return {str(status): int(number) for status, number in rows}


def _set_session(database: sqlite3.Connection, session: int) -> None:
    database.execute("UPDATE identity SET session = max(session, ?)", (session,))


def _highest(database: sqlite3.Connection, incarnation: str) -> int:
    # Both, because either may have rotted, and a sequence must never be used again.
    found = database.execute(
        "SELECT max(coalesce((SELECT highest FROM incarnations WHERE incarnation = :name), 0),"
        " coalesce((SELECT max(sequence) FROM updates WHERE incarnation = :name), 0))",
        {"name": incarnation},
    )
    return int(found.fetchone()[0])


def _apply(database: sqlite3.Connection, receipt: Receipt, settlement: Settlement) -> None:
    at = UpdateId(receipt.incarnation, receipt.sequence)
    row = database.execute(
        "SELECT place, digest, status FROM updates WHERE incarnation = ? AND sequence = ?",
        (at.incarnation, at.sequence),
    ).fetchone()
    if row is None:
        return
    place, digest, status = row
    if receipt.digest and digest and receipt.digest != digest:
        settlement.conflicts.append(at)
    elif receipt.status == "committed" and status == "pending":
        database.execute("UPDATE updates SET status = 'committed' WHERE place = ?", (place,))
    elif receipt.status in TERMINAL and status not in TERMINAL:
        database.execute(
            "UPDATE updates SET status = ?, reason = ?, version = ?, settled_at = ?,"
            " header = NULL, content = NULL WHERE place = ?",
            (receipt.status, receipt.reason, receipt.version, time.time(), place),
        )
        _settle_memory(database, at, is_folded=receipt.status == "folded")
        settlement.settled.append(at)
        if receipt.reason.startswith(CONFLICT):
            settlement.conflicts.append(at)


def _remember(database: sqlite3.Connection, made: UpdateId, memory: Memory) -> None:
    if memory.residual is not None:
        database.execute(
            "INSERT OR REPLACE INTO remembered VALUES ('residual', '', 0, ?)", (memory.residual,)
        )
    if memory.calibration is not None:
        database.execute(
            "INSERT OR REPLACE INTO remembered VALUES ('calibration if folded', ?, ?, ?)",
            (made.incarnation, made.sequence, memory.calibration),
        )


def _settle_memory(database: sqlite3.Connection, at: UpdateId, *, is_folded: bool) -> None:
    """Move on, or forget, what depended on an update's outcome."""
    which = "name = 'calibration if folded' AND incarnation = ? AND sequence = ?"
    if is_folded:
        database.execute(
            "INSERT OR REPLACE INTO remembered"  # noqa: S608
            f" SELECT 'calibration', '', 0, body FROM remembered WHERE {which}",
            (at.incarnation, at.sequence),
        )
    database.execute(f"DELETE FROM remembered WHERE {which}", (at.incarnation, at.sequence))  # noqa: S608


def _forget_oldest(database: sqlite3.Connection) -> None:
    """Keep a count instead of rows for settled updates beyond the newest ones."""
    found = database.execute("SELECT count(*) FROM updates").fetchone()
    if found[0] <= _KEPT_ROWS + _KEPT_SLACK:
        return
    oldest = "SELECT place FROM updates WHERE header IS NULL ORDER BY place DESC LIMIT -1 OFFSET ?"
    database.execute(
        "INSERT INTO forgotten SELECT incarnation, status, count(*) FROM updates"  # noqa: S608
        f" WHERE place IN ({oldest}) GROUP BY incarnation, status"
        " ON CONFLICT (incarnation, status) DO UPDATE SET number = number + excluded.number",
        (_KEPT_ROWS,),
    )
    database.execute(f"DELETE FROM updates WHERE place IN ({oldest})", (_KEPT_ROWS,))  # noqa: S608
