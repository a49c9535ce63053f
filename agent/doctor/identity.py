"""Who this gateway is: charter, credential and key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.config import TrustTable
from agent.doctor.finding import Finding, ok, problem, skipped
from agent.enrolled import read_enrolled
from wire.errors import SettingsError
from wire.messages import Credential
from wire.settings import resolve
from wire.signing import read_private_key
from wire.trust import Trust

_ENROL = "enrol this gateway: journeyman-agent enrol request, then install; or correct [trust]"


@dataclass
class Enrolled:
    """What the check found; None when it is not enrolled."""

    trust: Trust | None = None
    credential: Credential | None = None

    @property
    def agent(self) -> str:
        """The agent's id, or a word in its place."""
        return "agent" if self.credential is None else self.credential.agent


def identity(config: Path, table: TrustTable, found: Enrolled) -> Iterator[Finding]:
    """Check the files named by `[trust]`; fill in `found`."""
    try:
        trust, credential = read_enrolled(config, table)
    except SettingsError as error:
        yield problem("identity", str(error), _ENROL)
        return
    found.trust, found.credential = trust, credential
    yield ok(
        "identity",
        f"agent {credential.agent} of site {credential.site} in federation {trust.federation}, "
        f"charter {trust.charter.epoch}, credential {credential.serial}",
    )
    path = resolve(config, table.key)
    if "${CREDENTIALS_DIRECTORY}" in table.key and not path.exists():
        yield skipped("key", "only the unit sees it ($CREDENTIALS_DIRECTORY)")
        return
    try:
        key = read_private_key(path)
    except (SettingsError, OSError) as error:
        yield problem("key", str(error), "see trust.key; run this as root, who may read it")
        return
    if key.public.raw == credential.public_key:
        yield ok("key", f"{path} belongs to the credential")
    else:
        yield problem("key", f"{path} is not the key of agent {credential.agent}", _ENROL)
