"""The enrolment authority's memory: each token is used once, for one request.

What was given, renewed and revoked since is `wire/issued.py`, in the same file.

States of a token: open → used, or open → revoked; an open one past its time is ended.  Using a
token and recording its answer is one durable transaction, *before* anybody gets the answer.  So
when the power is cut in between, the same request gets the same answer again, byte for byte, and
no other request ever gets one.

`enrolment.db` lies beside the enrolment key and is, like it, readable by its owner only.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from wire.certificates import fingerprint
from wire.database import DamagedError, DiskError, open_database, transaction
from wire.enrolment import (
    Enroller,
    EnrolmentError,
    Token,
    make_answer,
    parse_request,
    verify_request,
)
from wire.errors import SettingsError
from wire.files import check_secret, create_secret
from wire.issued import ISSUED_SCHEMA, Issued
from wire.renewal import make_renewed, read_renewal

FILE_NAME = "enrolment.db"

# `secret` is the token's secret itself and not a hash of it: to check and make the tags the
# authority needs what the gateway has.  It is deleted when the token is used or revoked.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    id BLOB PRIMARY KEY,
    agent TEXT NOT NULL,
    site TEXT NOT NULL,
    federation TEXT NOT NULL,
    root BLOB NOT NULL,
    ca BLOB NOT NULL,
    made_at INTEGER NOT NULL,      -- UTC, seconds since 1970, as all times here
    expires_at INTEGER NOT NULL,
    least_serial INTEGER NOT NULL,
    secret BLOB,                   -- NULL once used or revoked
    revoked_at INTEGER,
    used_at INTEGER,
    request BLOB,                  -- SHA-256 of the request that used it
    serial INTEGER,                -- of the credential in the answer
    answer BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS tokens_by_agent ON tokens (agent, serial);
PRAGMA secure_delete = ON;
"""
_COLUMNS = "federation, agent, site, root, ca, expires_at, id, secret"

State = Literal["open", "used", "ended", "revoked"]


@dataclass(frozen=True)
class Entry:
    """What a person may see of a token.

    Attributes:
      serial: of the credential that it was used for, or 0.
      since: when it came into this state, UTC; for an open one, when it will end.
    """

    id: bytes
    agent: str
    site: str
    state: State
    serial: int
    since: datetime


class Ledger:
    """Tokens and what became of them; made by `open_ledger`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.issued = Issued(database)

    def add(self, token: Token, now: datetime, *, least_serial: int = 1) -> None:
        """Remember a token before anybody is given it; its credential is `least_serial` or more."""
        with transaction(self._database):
            self._database.execute(
                f"INSERT INTO tokens ({_COLUMNS}, made_at, least_serial)"  # noqa: S608  a constant
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(token.federation, token.agent, token.site, token.root, token.ca),
                    *(token.expires, token.id, token.secret, _seconds(now), least_serial),
                ),
            )

    def grant(self, data: bytes, enroller: Enroller, now: datetime, *, days: float) -> bytes:
        """Answer a request, now or again.

        Args:
          data: the request as it came.
          enroller: signs what is new.
          now: decides whether the token has ended.
          days: validity of a new certificate.

        Raises:
          WireError: malformed, altered, or its token can not be used for it.
        """
        request = parse_request(data)
        with transaction(self._database):
            known = self._answered(request.token_id, request.digest)
            if known is not None:
                return known
            token, least_serial = self._open_token(request.token_id, now)
            if (token.root, token.ca) != (enroller.root.raw, fingerprint(enroller.ca.certificate)):
                raise EnrolmentError(
                    f"root or CA were replaced after token {token.id.hex()} was made; revoke it "
                    "and make a new one"
                )
            applicant = verify_request(request, token)
            before = max(self.last_serial(token.agent), self.issued.revoked_serial(token.agent))
            serial = max(least_serial, before + 1)
            answer = make_answer(enroller, token, applicant, serial, now, days=days)
            self._database.execute(
                "UPDATE tokens SET used_at = ?, request = ?, serial = ?, answer = ?, secret = NULL"
                " WHERE id = ?",
                (_seconds(now), request.digest, serial, answer, token.id),
            )
        return answer

    def last_serial(self, agent: str) -> int:
        """Highest serial of a credential of this agent, 0 without one."""
        return self.issued.last_serial(agent)

    def renew(
        self, data: bytes, agent: str, enroller: Enroller, now: datetime, days: float
    ) -> bytes:
        """Answer an enrolled agent that asks what is newer (`wire/renewal.py`).

        Args:
          data: the question as it came.
          agent: on whose topic.
          enroller: signs what is new.
          now: decides whether the next certificate is due.
          days: validity of a new one.

        Raises:
          WireError: malformed, not the agent's, or it is not enrolled any more.
        """
        asked = read_renewal(data, agent, enroller.trust, self.issued.credential(agent))
        with transaction(self._database):
            certificate = self.issued.certificate(asked, enroller, now, days=days)
        return make_renewed(enroller, asked, certificate)

    def revoke(self, which: str, now: datetime, *, serial: int = 0) -> list[Entry]:
        """Revoke a token by its id (hexadecimal), or all that an agent has by its name.

        An open token can not be used any more, and a used one's answer is not given out again.
        Credentials that were granted, and all before them, are revoked (`issued.revocations`).

        Args:
          which: token or agent.
          now: when.
          serial: of a credential that the agent got elsewhere, 0 for none.

        Returns:
          The tokens that were revoked now, as they were before.
        """
        with transaction(self._database):
            found = [
                entry
                for entry in self.entries(now)
                if which in (entry.id.hex(), entry.agent) and entry.state != "revoked"
            ]
            self._database.executemany(
                "UPDATE tokens SET revoked_at = ?, secret = NULL WHERE id = ?",
                [(_seconds(now), entry.id) for entry in found],
            )
            for entry in found:
                self.issued.revoke(entry.agent, entry.serial, now)
            self.issued.revoke(which, max(serial, self.last_serial(which)), now)
        return found

    def entries(self, now: datetime) -> list[Entry]:
        """All tokens, oldest first."""
        rows = self._database.execute(
            "SELECT id, agent, site, expires_at, revoked_at, used_at, serial FROM tokens"
            " ORDER BY made_at, rowid"
        )
        return [_entry(row, now) for row in rows]

    def _answered(self, token_id: bytes, digest: bytes) -> bytes | None:
        """The answer that this very request got, None for a token that is not used."""
        row = self._database.execute(
            "SELECT request, answer, agent, revoked_at FROM tokens WHERE id = ?", (token_id,)
        ).fetchone()
        if row is None:
            raise EnrolmentError(
                f"token {token_id.hex()} is not in this ledger: another authority made it, or the "
                "ledger is older than the token"
            )
        request, answer, agent, revoked_at = row
        if revoked_at is not None:
            raise EnrolmentError(f"token {token_id.hex()} for {agent} was revoked; make a new one")
        if request is None:
            return None
        if request != digest:
            raise EnrolmentError(
                f"token {token_id.hex()} for {agent} was used by another request. If the gateway "
                "has installed its answer, it is enrolled, and a new token enrols it again. If it "
                "never had one, somebody else had the token: `journeyman enrolment revoke`"
            )
        return bytes(answer)

    def _open_token(self, token_id: bytes, now: datetime) -> tuple[Token, int]:
        row = self._database.execute(
            f"SELECT {_COLUMNS}, least_serial FROM tokens WHERE id = ?",  # noqa: S608  a constant
            (token_id,),
        ).fetchone()
        token = Token(*row[:-1])
        if _seconds(now) >= token.expires:
            end = datetime.fromtimestamp(token.expires, UTC)
            raise EnrolmentError(
                f"token {token_id.hex()} for {token.agent} ended at {end:%Y-%m-%d %H:%M} UTC; "
                "make a new one"
            )
        return token, int(row[-1])


@contextmanager
def open_ledger(directory: Path) -> Iterator[Ledger]:
    """Open or create the ledger in the authority's directory.

    Raises:
      SettingsError: it can not be opened or written, or others can read it.
    """
    path = directory / FILE_NAME
    with suppress(FileExistsError):
        create_secret(path, b"")  # SQLite gives its log the same mode
    check_secret(path, "the ledger, which holds the secrets of open tokens")
    with closing(open_database(path, _SCHEMA + ISSUED_SCHEMA, durable=True)) as database:
        try:
            yield Ledger(database)
        except (DiskError, DamagedError) as error:
            raise SettingsError(str(path), None, None, error.reason) from None


_Row = tuple[bytes, str, str, int, int | None, int | None, int | None]


def _entry(row: _Row, now: datetime) -> Entry:
    token_id, agent, site, expires_at, revoked_at, used_at, serial = row
    state: State = "open" if _seconds(now) < expires_at else "ended"
    since = expires_at
    if used_at is not None:
        state, since = "used", used_at
    if revoked_at is not None:
        state, since = "revoked", revoked_at
    return Entry(token_id, agent, site, state, serial or 0, datetime.fromtimestamp(since, UTC))


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
