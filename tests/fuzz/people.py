"""Who takes part in the fuzzed federation: fixed keys, one credential, one small bundle.

The keys and the federation's name are those of `tests/golden/wire`, so that the vectors verify here
as they are.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from agent.authoring import build_bundle, read_bundle_settings
from tests.coordinator.small_federation import (
    AUTHOR_KEY,
    COORDINATOR_KEY,
    ENROLMENT_KEY,
    FEDERATION,
    ROOT_KEY,
    trust,
)
from wire.certificates import der
from wire.codec import seal, seal_bytes
from wire.issuing import Authority, Key, client_certificate, new_authority, signing_request
from wire.manifest import Standardise
from wire.messages import Credential, Renewal, Renewed
from wire.renewal import Present
from wire.signing import PrivateKey
from wire.topics import Topics
from wire.trust import AUTHOR, COORDINATOR, ENROLMENT, ROOT, read_credential

AGENT, OTHER, STRANGER = "press-1", "press-2", "nobody-1"
AGENT_KEY, OTHER_KEY, STRANGER_KEY = (PrivateKey(bytes([number] * 32)) for number in (5, 7, 6))
HELPER, HELPER_KEY = "notary", PrivateKey(bytes([7] * 32))
INCARNATION = "0123456789abcdef"
TRUST = trust()
_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
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
    "renewal": (AGENT, AGENT_KEY),
    "renewed": (ENROLMENT, ENROLMENT_KEY),
    "revoked": (ENROLMENT, ENROLMENT_KEY),
    "figures": (AGENT, AGENT_KEY),
    "examine": (COORDINATOR, COORDINATOR_KEY),
    "manifest": (COORDINATOR, COORDINATOR_KEY),
    "release": (COORDINATOR, COORDINATOR_KEY),
    "helper-state": (HELPER, HELPER_KEY),
    "verdicts": (HELPER, HELPER_KEY),
    "endorsement": (HELPER, HELPER_KEY),
    "masks": (HELPER, HELPER_KEY),
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
def present() -> Present:
    """What the agent has, with a certificate that was made long ago."""
    ca = new_authority(FEDERATION, _tls_key(11), _LONG_AGO)
    certificate = client_certificate(ca, AGENT, tls_key().public_key(), _LONG_AGO, days=90)
    own = read_credential(credential(), TRUST)
    return Present(ROOT_KEY.public, TRUST, own, ca.certificate, certificate)


@cache
def renewals() -> tuple[bytes, bytes]:
    """Bodies of an honest question for a newer certificate and of its answer."""
    question = Renewal(credential=credential(), signing_request=signing_request(tls_key(), AGENT))
    ca = Authority(_tls_key(11), present().ca)
    later = _LONG_AGO + timedelta(days=80)
    certificate = client_certificate(ca, AGENT, tls_key().public_key(), later, days=90)
    charter = seal(TRUST.charter, federation=FEDERATION, signer=ROOT, counter=1, key=ROOT_KEY)
    answer = Renewed(charter=charter, credential=credential(), certificate=der(certificate))
    return msgspec.msgpack.encode(question), msgspec.msgpack.encode(answer)


@cache
def tls_key() -> Key:
    """The agent's for the broker."""
    return _tls_key(12)


def _tls_key(number: int) -> Key:
    return ec.derive_private_key(number, ec.SECP256R1())


@cache
def bundle(standardise: Standardise = "given") -> bytes:
    """A bundle that agents adopt: the milling job with a hidden layer of two."""
    settings = read_bundle_settings(JOB)
    if settings.family is None:
        raise ValueError(f"{JOB} names no family any more")
    family = msgspec.structs.replace(settings.family, hidden=(2,))
    small = msgspec.structs.replace(settings, family=family, standardise=standardise)
    return build_bundle(JOB, small, FEDERATION, AUTHOR_KEY)
