"""The last heads that this agent accepted, as the coordinator signed them.

A coordinator that shows one history to one site and another to the next has to sign both.  Each
head names the coordinator's audit log as it was before it, so heads of two agents, held against one
exported log, show it (`journeyman audit compare`, `docs/audit.md`).  The newest ones are enough:
branches of a fork never meet again.

Kept in the file of the model slots (`agent/models.py`), written with the head itself.  Invariant:
at most `KEPT` heads and `KEPT_BYTES`, and the newest one always.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from wire.chunks import sha256
from wire.errors import SettingsError

KEPT: Final = 32
KEPT_BYTES: Final = 2 << 20
"""A head of a large model has tens of kilobytes."""
HEADS_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS heads (
  number INTEGER PRIMARY KEY,  -- grows with each head
  digest BLOB NOT NULL UNIQUE, -- SHA-256 of the envelope
  envelope BLOB NOT NULL
) STRICT;
"""


def keep_head(database: sqlite3.Connection, envelope: bytes) -> None:
    """Keep an accepted head, and no more than the newest ones (inside a transaction)."""
    database.execute(
        "INSERT OR IGNORE INTO heads (digest, envelope) VALUES (?, ?)", (sha256(envelope), envelope)
    )
    database.execute(
        "DELETE FROM heads WHERE number IN (SELECT number FROM (SELECT number,"
        " row_number() OVER newest AS place, sum(length(envelope)) OVER newest AS bytes FROM heads"
        " WINDOW newest AS (ORDER BY number DESC)) WHERE place > 1 AND (place > ? OR bytes > ?))",
        (KEPT, KEPT_BYTES),
    )


def kept_heads(path: Path) -> list[bytes]:
    """The heads in a file of model slots, the newest last; none where there is no file yet.

    Reads beside a running agent.

    Raises:
      SettingsError: the file can not be read.
    """
    if not path.exists():
        return []
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'heads'").fetchone():
                return []
            rows = database.execute("SELECT envelope FROM heads ORDER BY number").fetchall()
    except sqlite3.DatabaseError as error:
        raise SettingsError(str(path), None, None, f"can not read the heads: {error}") from None
    return [bytes(envelope) for (envelope,) in rows]
