"""Who takes part in the fuzzed federation: fixed keys, one credential, one small bundle.

The keys and the federation's name are those of `tests/golden/wire`, so that the vectors verify here
as they are.
"""

from functools import cache
from pathlib import Path

import msgspec

from agent.authoring import build_bundle, read_bundle_settings
from tests.coordinator.small_federation import (
    AUTHOR_KEY,
    COORDINATOR_KEY,
    ENROLMENT_KEY,
    FEDERATION,
    ROOT_KEY,
    trust,
)
from wire.codec import seal, seal_bytes
from wire.manifest import Standardise
from wire.messages import Credential
from wire.signing import PrivateKey
from wire.topics import Topics
from wire.trust import AUTHOR, COORDINATOR, ENROLMENT, ROOT

AGENT, OTHER, STRANGER = "press-1", "press-2", "nobody-1"
AGENT_KEY, OTHER_KEY, STRANGER_KEY = (PrivateKey(bytes([number] * 32)) for number in (5, 7, 6))
INCARNATION = "0123456789abcdef"
TRUST = trust()
TOPICS = Topics(FEDERATION)
JOB = Path(__file__).parents[2] / "configs" / "jobs" / "ai4i.toml"
CHANNELS = [
    "air_temperature",
    "process_temperature",
    "rotational_speed",
    "torque",
    "tool_wear",
    "machine_failure",
    "product_count",
]

SIGNERS: dict[str, tuple[str, PrivateKey]] = {
    "charter": (ROOT, ROOT_KEY),
    "credential": (ENROLMENT, ENROLMENT_KEY),
    "bundle": (AUTHOR, AUTHOR_KEY),
    "head": (COORDINATOR, COORDINATOR_KEY),
    "receipts": (COORDINATOR, COORDINATOR_KEY),
    "command": (COORDINATOR, COORDINATOR_KEY),
    "coordinator-state": (COORDINATOR, COORDINATOR_KEY),
    "agent-state": (AGENT, AGENT_KEY),
    "update": (AGENT, AGENT_KEY),
    "report": (AGENT, AGENT_KEY),
    "readiness": (AGENT, AGENT_KEY),
    "grant": (COORDINATOR, COORDINATOR_KEY),
}
"""By whom, and with which key, a message of each kind is rightly signed."""


def signed(kind: str, body: bytes, counter: int = 1) -> bytes:
    """An envelope of `kind` around any bytes, with the right signature.

    Raises:
      TooLargeError: over the kind's cap, so nobody can send it.
    """
    signer, key = SIGNERS[kind]
    return seal_bytes(
        kind, body, federation=FEDERATION, signer=signer, counter=counter % (1 << 62), key=key
    )


@cache
def credential(agent: str = AGENT, site: str = "site-a", serial: int = 1) -> bytes:
    """The credential of one of the two agents."""
    key = {AGENT: AGENT_KEY, OTHER: OTHER_KEY}[agent]
    said = Credential(agent=agent, site=site, public_key=key.public.raw, serial=serial)
    return seal(said, federation=FEDERATION, signer=ENROLMENT, counter=serial, key=ENROLMENT_KEY)


@cache
def bundle(standardise: Standardise = "given") -> bytes:
    """A bundle that agents adopt: the milling job with a hidden layer of two."""
    settings = read_bundle_settings(JOB)
    if settings.family is None:
        raise ValueError(f"{JOB} names no family any more")
    family = msgspec.structs.replace(settings.family, hidden=(2,))
    small = msgspec.structs.replace(settings, family=family, standardise=standardise)
    return build_bundle(JOB, small, FEDERATION, AUTHOR_KEY)
