"""Whom to believe: the pinned root, its charter, and the credentials below it.

    root key (pinned, offline)
      └── charter (epoch grows)
            ├── coordinator key   heads, receipts, commands
            ├── author keys       bundles
            └── enrolment key     credentials ── agent key   births, updates
                                  list of revoked credentials

Pure: bytes in, verified values out, `WireError` otherwise.
"""

from dataclasses import dataclass

from wire.codec import Opened, open_envelope, parse_body, unseal
from wire.errors import MalformedError, SignatureError
from wire.messages import Charter, Credential, RevocationList
from wire.signing import PublicKey
from wire.topics import check_name

ROOT = "root"
ENROLMENT = "enrolment"
COORDINATOR = "coordinator"
AUTHOR = "author"


@dataclass(frozen=True)
class Trust:
    """A verified charter."""

    charter: Charter

    @property
    def federation(self) -> str:
        """Name of the federation."""
        return self.charter.federation

    @property
    def coordinator(self) -> PublicKey:
        """Key of heads, receipts and commands."""
        return PublicKey(self.charter.coordinator_key)


def read_charter(data: bytes, root: PublicKey) -> Trust:
    """Verify a charter under the pinned root key."""
    opened = open_envelope(data, "charter")
    charter = parse_body(opened, Charter)  # names the federation that the signature covers
    opened.verify(charter.federation, root)
    if opened.signer != ROOT:
        reason = f"a charter is signed by {ROOT!r}, not {opened.signer!r}"
        raise MalformedError(reason)
    check_name(charter.federation, "federation")
    return Trust(charter)


def read_credential(data: bytes, trust: Trust) -> Credential:
    """Verify an agent's credential under the charter's enrolment key."""
    credential, _ = unseal(
        data,
        Credential,
        federation=trust.federation,
        signer=ENROLMENT,
        key=PublicKey(trust.charter.enrolment_key),
    )
    check_name(credential.agent, "agent")
    check_name(credential.site, "site")
    if credential.agent == COORDINATOR:
        reason = f"no agent may be called {COORDINATOR!r}"
        raise MalformedError(reason)
    return credential


def read_revoked(data: bytes, trust: Trust) -> RevocationList:
    """Verify a list under the charter's enrolment key; `WireError` otherwise."""
    revoked, _ = unseal(
        data,
        RevocationList,
        federation=trust.federation,
        signer=ENROLMENT,
        key=PublicKey(trust.charter.enrolment_key),
    )
    return revoked


def highest_revoked(revoked: RevocationList, agent: str) -> int:
    """Highest revoked serial of the agent; 0 without one."""
    return max((entry.serial for entry in revoked.entries if entry.agent == agent), default=0)


def verify_author(opened: Opened, trust: Trust) -> None:
    """Raise `SignatureError` unless one of the charter's author keys signed the bundle."""
    if opened.signer != AUTHOR:
        reason = f"a bundle is signed by {AUTHOR!r}, not {opened.signer!r}"
        raise MalformedError(reason)
    for raw in trust.charter.author_keys:
        try:
            opened.verify(trust.federation, PublicKey(raw))
        except SignatureError:
            continue
        return
    reason = f"bundle: none of the charter's {len(trust.charter.author_keys)} author keys signed it"
    raise SignatureError(reason)
