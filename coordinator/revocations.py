"""Whose credentials are not to be believed any more, as the enrolment authority says.

The list comes retained over the broker, or as a file (`[trust] revoked`); both are signed by the
enrolment key (`wire/trust.py`).  It is durable here, so that neither a broker that lost it nor a
coordinator that starts before the authority's service lets a revoked agent in.

What was revoked stays revoked: lists are joined, and one that is older or says less changes
nothing.  An update that is part of a version, or waits in the buffer, stays: sums can not be taken
apart.
"""

import logging
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from wire.database import transaction
from wire.errors import SettingsError
from wire.messages import RevocationList
from wire.revocations import read_revoked_file
from wire.trust import Trust

logger = logging.getLogger(__name__)

REVOCATION_SCHEMA = """
CREATE TABLE IF NOT EXISTS revocations (
  agent TEXT PRIMARY KEY, serial INTEGER NOT NULL  -- this credential and all before it
) STRICT;
"""


class Revocations:
    """What was revoked; one part of the store, in its file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def covers(self, agent: str, serial: int) -> bool:
        """Whether this credential was revoked."""
        row = self._database.execute(
            "SELECT serial FROM revocations WHERE agent = ?", (agent,)
        ).fetchone()
        return row is not None and serial <= row[0]

    def take(self, revoked: RevocationList) -> list[str]:
        """Join a verified list to what is known; returns the agents about whom it is news."""
        fresh = [each for each in revoked.entries if not self.covers(each.agent, each.serial)]
        if fresh:
            with transaction(self._database):
                self._database.executemany(
                    "INSERT OR REPLACE INTO revocations VALUES (?, ?)",
                    [(each.agent, each.serial) for each in fresh],
                )
        for each in fresh:
            logger.warning("credential %d of %s was revoked", each.serial, each.agent)
        return [each.agent for each in fresh]


@dataclass
class RevokedFile:
    """The list as a file that somebody brings, and may replace at any time."""

    path: Path
    trust: Trust
    _seen: tuple[int, int] = field(default=(0, 0), init=False)

    def changed(self) -> RevocationList | None:
        """The list, once for each time that the file was replaced; None in between.

        A file that can not be used is logged once and changes nothing.
        """
        try:
            looks = self.path.stat()
            if (looks.st_mtime_ns, looks.st_ino) == self._seen:
                return None
            self._seen = (looks.st_mtime_ns, looks.st_ino)
            return read_revoked_file(self.path, self.trust)
        except OSError as error:
            if self._seen != (-1, -1):
                logger.warning("%s: can not read it: %s", self.path, error.strerror)
            self._seen = (-1, -1)
        except SettingsError as error:
            logger.warning("what is revoked stays as it was: %s", error)
        return None
