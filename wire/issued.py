"""What the enrolment authority has given to each agent, renewed, and revoked.

A part of the ledger (`wire/enrolment_ledger.py`), in its file and within its transactions.  The
first certificate of a credential is in the answer to its token's request; later ones are here.

Invariant: at most one certificate is made for each half of the previous one's validity, so whoever
repeats a question gets the same answer and makes nothing grow.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from wire.certificates import check_key, der, parse_certificate
from wire.enrolment import Enroller, EnrolmentError, answered_certificate, answered_credential
from wire.issuing import client_certificate
from wire.renewal import Asked, may_be_made

ISSUED_SCHEMA = """
CREATE TABLE IF NOT EXISTS renewals (
    agent TEXT NOT NULL,
    serial INTEGER NOT NULL,       -- of the credential
    certificate BLOB NOT NULL,     -- DER
    made_at INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS renewals_by_agent ON renewals (agent, serial);
CREATE TABLE IF NOT EXISTS revocations (
    agent TEXT PRIMARY KEY,
    serial INTEGER NOT NULL,       -- this credential and all before it
    number INTEGER NOT NULL,       -- of the list in which it was new
    revoked_at INTEGER NOT NULL
) STRICT;
"""
_WHAT = "a certificate in the ledger"


@dataclass(frozen=True)
class Revocation:
    """Credentials of an agent that are not to be believed, up to this serial."""

    agent: str
    serial: int
    since: datetime


class Issued:
    """Certificates and revocations; one part of a `Ledger`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def last_serial(self, agent: str) -> int:
        """Highest serial of a credential that was granted to this agent, 0 without one."""
        row = self._database.execute("SELECT max(serial) FROM tokens WHERE agent = ?", (agent,))
        return int(row.fetchone()[0] or 0)

    def revoked_serial(self, agent: str) -> int:
        """Highest revoked serial of this agent, 0 without one."""
        row = self._database.execute(
            "SELECT serial FROM revocations WHERE agent = ?", (agent,)
        ).fetchone()
        return int(row[0]) if row else 0

    def credential(self, agent: str) -> bytes | None:
        """Envelope of the last credential that was granted to this agent; None without one."""
        row = self._database.execute(
            "SELECT answer FROM tokens WHERE agent = ? AND answer IS NOT NULL"
            " ORDER BY serial DESC LIMIT 1",
            (agent,),
        ).fetchone()
        return answered_credential(bytes(row[0])) if row else None

    def certificate(
        self, asked: Asked, enroller: Enroller, now: datetime, *, days: float
    ) -> x509.Certificate:
        """The certificate for who asks: the present one again, or the next when that is due.

        Raises:
          WireError: not enrolled here, revoked, replaced by a later enrolment, or another TLS key.
        """
        agent, serial = asked.credential.agent, asked.credential.serial
        if self.revoked_serial(agent) >= serial:
            raise EnrolmentError(f"credential {serial} of {agent} was revoked: enrol it again")
        last = self.last_serial(agent)
        if serial != last:
            reason = f"the last credential of {agent} is {last}" if last else f"no {agent}"
            raise EnrolmentError(f"credential {serial} of {agent} is not current here: {reason}")
        present = list(self._certificates(agent, serial))[-1]
        check_key(present, asked.tls_key, f"the certificate of {agent}")
        if not may_be_made(present, now):
            return present
        made = client_certificate(enroller.ca, agent, asked.tls_key, now, days=days)
        self._database.execute(
            "INSERT INTO renewals VALUES (?, ?, ?, ?)",
            (agent, serial, der(made), int(now.timestamp())),
        )
        return made

    def revoke(self, agent: str, serial: int, now: datetime) -> bool:
        """Revoke the agent's credentials up to this serial; False when they were before."""
        if serial <= self.revoked_serial(agent):
            return False
        self._database.execute(
            "INSERT OR REPLACE INTO revocations VALUES (?, ?, ?, ?)",
            (agent, serial, self.number + 1, int(now.timestamp())),
        )
        return True

    @property
    def number(self) -> int:
        """Number of the list of revoked credentials: how often somebody revoked; 0 before."""
        row = self._database.execute("SELECT max(number) FROM revocations").fetchone()
        return int(row[0] or 0)

    def revocations(self) -> list[Revocation]:
        """All revoked agents, by name."""
        rows = self._database.execute(
            "SELECT agent, serial, revoked_at FROM revocations ORDER BY agent"
        )
        return [
            Revocation(agent, serial, datetime.fromtimestamp(since, UTC))
            for agent, serial, since in rows
        ]

    def revoked_certificates(self, now: datetime) -> list[tuple[int, datetime]]:
        """Serial number and time of each revoked certificate that has not ended by itself."""
        return [
            (certificate.serial_number, revoked.since)
            for revoked in self.revocations()
            for certificate in self._certificates(revoked.agent, 1, revoked.serial)
            if certificate.not_valid_after_utc > now
        ]

    def _certificates(
        self, agent: str, first: int, last: int | None = None
    ) -> Iterator[x509.Certificate]:
        """Certificates of the agent under these credentials, the newest of each last."""
        serials = (agent, first, first if last is None else last)
        answers = self._database.execute(
            "SELECT answer FROM tokens WHERE agent = ? AND serial BETWEEN ? AND ? ORDER BY serial",
            serials,
        )
        yield from (answered_certificate(bytes(answer)) for (answer,) in answers)
        renewed = self._database.execute(
            "SELECT certificate FROM renewals WHERE agent = ? AND serial BETWEEN ? AND ?"
            " ORDER BY rowid",
            serials,
        )
        yield from (parse_certificate(bytes(data), _WHAT) for (data,) in renewed)
