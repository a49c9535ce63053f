"""What the enrolment authority does while nobody sits at it, whoever asks and however.

Each call reads the keys and opens the ledger anew: what a person changes meanwhile with
`journeyman enrolment token` or `revoke` counts at once, and calls may come from several threads.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wire.certificates import CA_CERTIFICATE, issue_client, read_certificate
from wire.enrolment_ledger import open_ledger
from wire.files import read_small
from wire.keys import read_enroller
from wire.mqtt import BrokerSettings
from wire.revocations import (
    CRL,
    CRL_DAYS,
    MAX_CRL_BYTES,
    crl_left,
    read_crl,
    sign_revoked,
    write_crl,
)
from wire.trust import ENROLMENT

_OWN_LEFT = timedelta(days=365)
"""The service's own certificate is made anew at a start so long before it ends."""
_CRL_LEFT = 1 / 2


@dataclass(frozen=True)
class Office:
    """The authority's directory, and how long the certificates are that it gives.

    Attributes:
      directory: as `journeyman keys federation` and `keys ca` made it.
      days: validity of agents' certificates.
    """

    directory: Path
    days: float

    def grant(self, request: bytes) -> bytes:
        """The answer to a request that a token pays for; see `Ledger.grant`."""
        enroller = read_enroller(self.directory)
        with open_ledger(self.directory) as ledger:
            return ledger.grant(request, enroller, datetime.now(UTC), days=self.days)

    def renew(self, agent: str, question: bytes) -> bytes:
        """The answer to an agent that asks what is newer; see `Ledger.renew`."""
        enroller = read_enroller(self.directory)
        with open_ledger(self.directory) as ledger:
            return ledger.renew(question, agent, enroller, datetime.now(UTC), self.days)

    def revoked(self) -> bytes | None:
        """The signed list of revoked credentials; None while there is none."""
        enroller = read_enroller(self.directory)
        with open_ledger(self.directory) as ledger:
            number, entries = ledger.issued.number, ledger.issued.revocations()
        if not number:
            return None
        return sign_revoked(enroller, number, [(each.agent, each.serial) for each in entries])

    def new_crl(self, days: float = CRL_DAYS) -> bytes:
        """Make `ca.crl` as of now; returns its bytes, PEM."""
        enroller, now = read_enroller(self.directory), datetime.now(UTC)
        with open_ledger(self.directory) as ledger:
            serials = ledger.issued.revoked_certificates(now)
        return write_crl(self.directory, enroller, serials, now, days=days)

    def crl(self) -> bytes:
        """`ca.crl`, made anew when it is old or lacks what was revoked since."""
        present, now = read_crl(self.directory), datetime.now(UTC)
        with open_ledger(self.directory) as ledger:
            serials = {serial for serial, _ in ledger.issued.revoked_certificates(now)}
        if present is None or crl_left(present, now) < _CRL_LEFT:
            return self.new_crl()
        if serials - {revoked.serial_number for revoked in present}:
            return self.new_crl()
        return read_small(self.directory / CRL, MAX_CRL_BYTES, "a revocation list")

    def broker(self, host: str, port: int) -> BrokerSettings:
        """How this service reaches the broker: under its own certificate, made when it lacks."""
        certificate = self.directory / f"{ENROLMENT}.crt"
        if certificate.exists():
            end = read_certificate(certificate).not_valid_after_utc
            if end - datetime.now(UTC) < _OWN_LEFT:
                certificate.unlink()
        if not certificate.exists():
            issue_client(self.directory, ENROLMENT)
        return BrokerSettings(
            host=host,
            port=port,
            ca_file=str(self.directory / CA_CERTIFICATE),
            cert_file=str(certificate),
            key_file=str(self.directory / f"{ENROLMENT}.tls.key"),
        )
