"""Revocation: the enrolment authority's word that a gateway is not to be believed any more.

    revoked (signed list)   highest revoked serial of each agent's credential; the coordinator
                            refuses what comes under it.  Numbered: a lower number is older.
    ca.crl (RFC 5280)       serial numbers of the certificates that were made for them; the broker
                            refuses those.  It ends, and an ended one keeps everybody out.

A revoked agent may be enrolled again: its next credential has a higher serial.  Nothing is ever
taken back off the list.
"""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from wire.codec import MAX_BYTES, seal
from wire.enrolment import Enroller
from wire.errors import SettingsError, WireError
from wire.files import read_small, replace_file
from wire.issuing import revocation_list
from wire.messages import RevocationList, Revoked
from wire.trust import ENROLMENT, Trust, read_revoked

CRL = "ca.crl"
REVOKED = "revoked.jm"
CRL_DAYS = 30
"""A month without anybody looking keeps all gateways out: the service makes a new one at half."""
MAX_CRL_BYTES = 4 << 20


def sign_revoked(enroller: Enroller, number: int, entries: Iterable[tuple[str, int]]) -> bytes:
    """Sign the list.

    Args:
      enroller: the authority.
      number: above that of every earlier list.
      entries: agents, and the highest revoked serial of each.
    """
    said = tuple(Revoked(agent=agent, serial=serial) for agent, serial in entries)
    return seal(
        RevocationList(number=number, entries=said),
        federation=enroller.trust.federation,
        signer=ENROLMENT,
        counter=number,
        key=enroller.key,
    )


def read_revoked_file(path: Path, trust: Trust) -> RevocationList:
    """Read and verify a list from a file; `SettingsError` names it."""
    data = read_small(path, MAX_BYTES["revoked"], "a list of revoked credentials")
    try:
        return read_revoked(data, trust)
    except WireError as error:
        raise SettingsError(str(path), None, None, str(error)) from None


def write_crl(
    directory: Path,
    enroller: Enroller,
    revoked: Iterable[tuple[int, datetime]],
    now: datetime,
    *,
    days: float = CRL_DAYS,
) -> bytes:
    """Make and write `ca.crl`; returns its bytes, PEM."""
    made = revocation_list(enroller.ca, revoked, now, days=days)
    data = made.public_bytes(serialization.Encoding.PEM)
    replace_file(directory / CRL, data)
    return data


def read_crl(directory: Path) -> x509.CertificateRevocationList | None:
    """The list that `write_crl` wrote; None where there is none, or no whole one."""
    path = directory / CRL
    if not path.exists():
        return None
    try:
        return x509.load_pem_x509_crl(read_small(path, MAX_CRL_BYTES, "a revocation list"))
    except ValueError:
        return None


def crl_left(crl: x509.CertificateRevocationList, now: datetime) -> float:
    """Share of a list's validity that is left."""
    end, start = crl.next_update_utc, crl.last_update_utc
    return 0.0 if end is None else (end - now) / max(end - start, end.resolution)
