"""Model slots: bundles, weights and the head, durable and verified, in the parts they came in.

    parts      every verified chunk from the moment it is here, so that a cut or a power loss costs
               what was on its way and nothing else
    whole      which contents are complete: all parts are here and have the SHA-256 of the content

A head is accepted in the same file, so a restart finds either the old state or the new one.  Kept:
what the newest head names (also its deltas, until it is in use), what the head in use names, which
stays until the newest one passed every check, and the weights trained from before, to go back to
and to apply deltas to.  All else is dropped with the next head, so the file is bounded by what two
heads name.

What is read is verified again: memory cards rot.  A content that rotted is dropped and counts as
not here; a file that is no sound database is set aside (`agent/storage.py`) and begun anew.
"""

import hashlib
import io
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from agent.heads import HEADS_SCHEMA, keep_head
from agent.storage import DurableFile
from wire.chunks import sha256, split
from wire.database import DiskError
from wire.errors import MalformedError
from wire.messages import Content, Head

logger = logging.getLogger(__name__)

PREVIOUS_BYTES = 64 << 20
"""Weights larger than this are not kept beyond their head."""
_PART_BYTES = 1 << 20
"""Parts of a content that did not come in chunks: SQLite copies each one that it is given."""
_SCHEMA = """
DROP TABLE IF EXISTS contents;  -- whole contents in one piece, as the first versions kept them
CREATE TABLE IF NOT EXISTS parts (
  digest BLOB NOT NULL,    -- of the content
  part INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (digest, part)
) STRICT;
CREATE TABLE IF NOT EXISTS whole (
  digest BLOB PRIMARY KEY,
  trained INTEGER NOT NULL DEFAULT 0  -- order of the last head in use that trained from it
) STRICT;
CREATE TABLE IF NOT EXISTS head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  envelope BLOB NOT NULL,  -- the newest one accepted
  in_use BLOB              -- the newest one whose contents passed every check
) STRICT;
CREATE TABLE IF NOT EXISTS signers (
  head BLOB PRIMARY KEY,   -- SHA-256 of its envelope
  key BLOB NOT NULL        -- that the charter named for the coordinator when it came
) STRICT;
"""


def _prepare(database: sqlite3.Connection) -> None:
    database.executescript(_SCHEMA + HEADS_SCHEMA)


class Models:
    """Owner of the model slots' file.

    Methods that change it raise `DiskError` when the disk did not do it; nothing is changed then.
    """

    def __init__(self, path: Path | str, previous_bytes: int = PREVIOUS_BYTES) -> None:
        self._file = DurableFile(path, _prepare, durable=True)
        self._previous_bytes = previous_bytes

    @property
    def problem(self) -> str:
        """What is wrong with the disk, since the last write that failed; empty when nothing is."""
        return self._file.problem

    @property
    def set_aside(self) -> list[Path]:
        """Damaged files that were kept beside this one."""
        return self._file.set_aside

    @property
    def head_envelope(self) -> bytes | None:
        """The last accepted head as it came, still signed."""
        return self._head("envelope")

    @property
    def head_in_use(self) -> bytes | None:
        """The last head whose contents passed every check, still signed."""
        return self._head("in_use")

    def _head(self, column: str) -> bytes | None:
        query = f"SELECT {column} FROM head WHERE {column} IS NOT NULL"  # noqa: S608
        row = self._file.read(lambda db: db.execute(query).fetchone(), None)
        return bytes(row[0]) if row else None

    def signer_of(self, envelope: bytes) -> bytes | None:
        """The key that a head was verified with when it came; None where that is not known."""
        query = "SELECT key FROM signers WHERE head = ?"
        row = self._file.read(lambda db: db.execute(query, (sha256(envelope),)).fetchone(), None)
        return bytes(row[0]) if row else None

    def accept_head(
        self, envelope: bytes, head: Head, in_use: Head | None, signer: bytes = b""
    ) -> None:
        """Make a verified head durable and drop contents that nothing names any more.

        Args:
          envelope: as it came.
          head: what it says.
          in_use: the head in use, whose contents stay.
          signer: the key that it was verified with, by which a restart verifies it again.
        """
        keep = _digests(head) | {delta.content.digest for delta in head.deltas}
        keep |= _digests(in_use) if in_use else set()

        def work(database: sqlite3.Connection) -> None:
            database.execute(
                "INSERT INTO head VALUES (1, ?, NULL)"
                " ON CONFLICT (one) DO UPDATE SET envelope = excluded.envelope",
                (envelope,),
            )
            if signer:
                row = (sha256(envelope), signer)
                database.execute("INSERT OR REPLACE INTO signers VALUES (?, ?)", row)
            keep_head(database, envelope)
            self._drop_all_but(database, keep)

        self._file.write(work)

    def use_head(self, envelope: bytes, head: Head) -> None:
        """Remember the newest head as the one in use, and drop what only led to it."""

        def work(database: sqlite3.Connection) -> None:
            database.execute(
                "INSERT INTO head VALUES (1, ?1, ?1)"
                " ON CONFLICT (one) DO UPDATE SET in_use = excluded.in_use",
                (envelope,),
            )
            database.execute(
                "UPDATE whole SET trained = ? WHERE digest = ?",
                (head.recovery << 40 | head.sequence, head.train.content.digest),
            )
            database.execute("DELETE FROM signers WHERE head <> ?", (sha256(envelope),))
            self._drop_all_but(database, _digests(head))

        self._file.write(work)

    def _drop_all_but(self, database: sqlite3.Connection, keep: set[bytes]) -> None:
        """Drop every content but these and the last one trained from before, if it is small."""
        marks = ",".join("?" * len(keep))
        previous = database.execute(
            "SELECT digest, (SELECT total(length(data)) FROM parts"  # noqa: S608
            " WHERE parts.digest = whole.digest) FROM whole"
            f" WHERE trained > 0 AND digest NOT IN ({marks}) ORDER BY trained DESC LIMIT 1",
            [*keep],
        ).fetchone()
        if previous is not None and previous[1] <= self._previous_bytes:
            keep = keep | {bytes(previous[0])}
            marks += ",?"
        for table in ("parts", "whole"):
            database.execute(f"DELETE FROM {table} WHERE digest NOT IN ({marks})", [*keep])  # noqa: S608

    def has(self, digest: bytes) -> bool:
        """Whether a content is here and was whole when it came."""
        query = "SELECT 1 FROM whole WHERE digest = ?"
        return self._file.read(lambda db: db.execute(query, (digest,)).fetchone(), None) is not None

    def read(self, digest: bytes) -> bytes | None:
        """Return a whole content, verified; one that rotted on the disk is dropped instead."""
        if not self.has(digest):
            return None
        data = self._file.read(lambda db: _joined(db, digest), b"")
        if sha256(data) == digest:
            return data
        logger.error("content %s was damaged on the disk: it will be fetched again", digest.hex())
        with suppress(DiskError):
            self.forget(digest)
        return None

    def parts(self, digest: bytes) -> set[int]:
        """Which parts of a content are here."""
        query = "SELECT part FROM parts WHERE digest = ?"

        def work(database: sqlite3.Connection) -> set[int]:
            return {part for (part,) in database.execute(query, (digest,))}

        return self._file.read(work, set())

    def keep_parts(self, parts: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Store verified chunks, (content's digest, index, bytes), in one transaction."""
        rows = list(parts)
        self._file.write(lambda db: _insert(db, rows))

    def finish(self, content: Content, last: Mapping[int, bytes]) -> list[int]:
        """Store the last chunks of a content and, if all add up to it, call it whole.

        Args:
          content: all of its chunks are here or in `last`.
          last: verified chunks that are not stored yet, by index.

        Returns:
          Chunks that rotted on the disk and were dropped; none when the content is whole now.

        Raises:
          MalformedError: every chunk is right, but they are not this content; they were dropped.
          DiskError: nothing was changed.
        """

        def work(database: sqlite3.Connection) -> list[int] | None:
            _insert(database, ((content.digest, part, data) for part, data in last.items()))
            whole = hashlib.sha256()
            for data in _parts(database, content.digest):
                whole.update(data)
            if whole.digest() == content.digest:
                database.execute("INSERT OR IGNORE INTO whole VALUES (?, 0)", (content.digest,))
                return []
            damaged = _damaged(database, content)
            _delete(database, content.digest, damaged or None)
            return damaged or None

        damaged = self._file.write(work)
        if damaged is None:
            reason = f"the chunks do not add up to the announced content {content.digest.hex()}"
            raise MalformedError(reason)
        return damaged

    def keep(self, digest: bytes, data: bytes) -> None:
        """Store a content whose hash was checked."""

        def work(database: sqlite3.Connection) -> None:
            _delete(database, digest, None)
            _insert(
                database,
                ((digest, part, piece) for part, piece in enumerate(split(data, _PART_BYTES))),
            )
            database.execute("INSERT OR IGNORE INTO whole VALUES (?, 0)", (digest,))

        self._file.write(work)

    def forget(self, digest: bytes) -> None:
        """Drop a content and its parts."""
        self._file.write(lambda db: _delete(db, digest, None))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _parts(database: sqlite3.Connection, digest: bytes) -> Iterator[bytes]:
    query = "SELECT data FROM parts WHERE digest = ? ORDER BY part"
    for (data,) in database.execute(query, (digest,)):
        yield data


def _joined(database: sqlite3.Connection, digest: bytes) -> bytes:
    """All parts in one: a content can be large, and here it is in memory once."""
    whole = io.BytesIO()
    for data in _parts(database, digest):
        whole.write(data)
    return whole.getvalue()


def _insert(database: sqlite3.Connection, rows: Iterable[tuple[bytes, int, bytes]]) -> None:
    database.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", rows)


def _delete(database: sqlite3.Connection, digest: bytes, parts: list[int] | None) -> None:
    """Drop some parts of a content, or (None) all of it."""
    database.execute("DELETE FROM whole WHERE digest = ?", (digest,))
    if parts is None:
        database.execute("DELETE FROM parts WHERE digest = ?", (digest,))
    else:
        rows = [(digest, part) for part in parts]
        database.executemany("DELETE FROM parts WHERE digest = ? AND part = ?", rows)


def _damaged(database: sqlite3.Connection, content: Content) -> list[int]:
    query = "SELECT part, data FROM parts WHERE digest = ?"
    return [
        part
        for part, data in database.execute(query, (content.digest,))
        if part >= len(content.chunks) or sha256(data) != content.chunks[part]
    ]


def _digests(head: Head) -> set[bytes]:
    named = {head.bundle.digest, head.train.content.digest, head.serve.content.digest}
    named |= {head.candidate.content.digest} if head.candidate else set()
    return named | ({head.statistics.digest} if head.statistics else set())
