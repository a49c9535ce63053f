"""What agents have spent on differential privacy, as their updates' headers say.

An agent's card may be wiped or restored, and its ledger with it; so the highest mark over all its
incarnations is kept here, and told in the answer to every birth (`Receipts.spent`).  It is noted
when a header arrives, before any of its content, because what arrived may have been seen.

A mark never falls.  An agent that says too much harms itself alone.
"""

import sqlite3
from typing import Final

import msgspec

from wire.messages import Spent
from wire.spent import highest

MARKS_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS marks (agent TEXT PRIMARY KEY, spent BLOB NOT NULL) STRICT;
"""


class Marks:
    """The marks of all agents; one part of the store, in its file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def of(self, agent: str) -> Spent:
        """What an agent has spent as far as is known here; zeros when nothing is."""
        row = self._database.execute("SELECT spent FROM marks WHERE agent = ?", (agent,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Spent) if row else Spent()

    def rises(self, agent: str, spent: Spent) -> bool:
        """Whether a mark says more than what is known."""
        known = self.of(agent)
        return highest(known, spent) != known

    def note(self, agent: str, spent: Spent) -> None:
        """Raise an agent's mark, inside a transaction."""
        mark = highest(self.of(agent), spent)
        self._database.execute(
            "INSERT OR REPLACE INTO marks VALUES (?, ?)", (agent, msgspec.msgpack.encode(mark))
        )
