"""Renewal: how an enrolled agent gets a newer certificate before the present one ends.

    agent       Renewal   credential, signing request ── renew/{agent} ──►    authority
                          ◄── renewed/{agent} ── Renewed   charter, credential, certificate

Both go over the broker.  The question is signed by the agent's Ed25519 key and the answer by the
enrolment key that the charter in it names, so the broker can withhold them and nothing else; a
repeated answer is not newer than what the agent has, and changes nothing.

Time.  The authority decides by its own clock whether a certificate is due; the agent asks now and
then whatever its clock says, and judges an answer by its signatures and by what is newer, never by
the hour.  So a gateway that believes that it is years ago is renewed in time all the same.

Refuses what is older than what the agent has, another key, another name.  Pure.
"""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from wire.certificates import check_client, check_key, der, parse_certificate
from wire.codec import open_envelope, parse_body, seal, unseal
from wire.enrolment import Enroller
from wire.errors import MalformedError, SignatureError
from wire.issuing import PublicKey as TlsPublicKey
from wire.issuing import read_signing_request
from wire.messages import Credential, Renewal, Renewed
from wire.signing import PublicKey
from wire.trust import ENROLMENT, Trust, read_charter, read_credential, unlisted

_ASK_FROM = 1 / 3
"""An agent asks once so little is left: 132 of 397 days."""
_MAKE_FROM = 1 / 2
"""And is given a new one from here on, so that a clock which is a little behind does no harm."""


@dataclass(frozen=True)
class Asked:
    """A verified question: who asks, and for which TLS key."""

    credential: Credential
    tls_key: TlsPublicKey
    counter: int


@dataclass(frozen=True)
class Present:
    """What an agent has and is.

    Attributes:
      root: pinned.
      ca: of its broker; signs certificates.
      certificate: in use.
    """

    root: PublicKey
    trust: Trust
    credential: Credential
    ca: x509.Certificate
    certificate: x509.Certificate


@dataclass(frozen=True)
class Newer:
    """A verified answer: nothing in it is older than what the agent has.

    Attributes:
      charter, credential: envelopes.
    """

    charter: bytes
    credential: bytes
    certificate: x509.Certificate
    trust: Trust
    own: Credential


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether an agent whose clock says `now` should ask for the next one."""
    return left(certificate, now) < _ASK_FROM


def may_be_made(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether the authority signs the next one, or gives this one again."""
    return left(certificate, now) < _MAKE_FROM


def left(certificate: x509.Certificate, now: datetime) -> float:
    """Share of a certificate's validity that is left; above 1 before it begins."""
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    return (end - now) / max(end - start, end.resolution)


def read_renewal(data: bytes, agent: str, trust: Trust, issued: bytes | None = None) -> Asked:
    """Verify a question that came on the topic of `agent`.

    Args:
      data: as it came.
      agent: whose topic.
      trust: the authority's own charter.
      issued: the envelope of the credential that the authority gave this agent last; it counts
        under a new enrolment key too, since whoever stole the old one did not write the ledger.

    Raises:
      WireError: another's, or not signed as it has to be.
    """
    opened = open_envelope(data, "renewal")
    body = parse_body(opened, Renewal)  # carries the key that it is verified with
    credential = _credential(body.credential, trust, issued)
    if (credential.agent, opened.signer) != (agent, agent):
        reason = f"renewal for {agent}, with a credential of {credential.agent}, signed by "
        raise SignatureError(reason + repr(opened.signer))
    opened.verify(trust.federation, PublicKey(credential.public_key))
    return Asked(credential, read_signing_request(body.signing_request), opened.counter)


def _credential(data: bytes, trust: Trust, issued: bytes | None) -> Credential:
    try:
        return read_credential(data, trust)
    except SignatureError:
        credential = _unverified(data)
        if issued is None or credential != _unverified(issued):
            raise
    if refused := unlisted(credential.site, trust.charter):
        raise MalformedError(f"credential of {credential.agent}: {refused}")
    return credential


def _unverified(envelope: bytes) -> Credential:
    return parse_body(open_envelope(envelope, "credential"), Credential)


def make_renewed(enroller: Enroller, asked: Asked, certificate: x509.Certificate) -> bytes:
    """Sign the answer; the credential is signed anew, in case the charter names a newer key."""
    federation = enroller.trust.federation
    credential = seal(
        asked.credential,
        federation=federation,
        signer=ENROLMENT,
        counter=asked.credential.serial,
        key=enroller.key,
    )
    return seal(
        Renewed(charter=enroller.charter, credential=credential, certificate=der(certificate)),
        federation=federation,
        signer=ENROLMENT,
        counter=asked.counter,
        key=enroller.key,
    )


def read_renewed(data: bytes, present: Present) -> Newer:
    """Verify an answer for whoever has `present`.

    Raises:
      WireError: says which part is older, another's, or not signed as it has to be.
    """
    opened = open_envelope(data, "renewed")
    body = parse_body(opened, Renewed)  # names, in the charter, the key that it is verified with
    trust = read_charter(body.charter, present.root)
    before = present.trust
    if trust.federation != before.federation:
        raise MalformedError(f"the charter governs {trust.federation}, not {before.federation}")
    if trust.charter.epoch < before.charter.epoch:
        reason = f"charter {trust.charter.epoch} is older than the one in use, "
        raise MalformedError(f"{reason}{before.charter.epoch}")
    unseal(
        data,
        Renewed,
        federation=trust.federation,
        signer=ENROLMENT,
        key=PublicKey(trust.charter.enrolment_key),
    )
    own, has = read_credential(body.credential, trust), present.credential
    if (own.agent, own.public_key) != (has.agent, has.public_key):
        raise SignatureError(f"the credential is for {own.agent} or another key of it")
    if own.serial < has.serial:
        raise MalformedError(f"credential {own.serial} is older than the one in use, {has.serial}")
    return Newer(body.charter, body.credential, _certificate(body.certificate, present), trust, own)


def _certificate(data: bytes, present: Present) -> x509.Certificate:
    what = "the renewed certificate"
    certificate = parse_certificate(data, what)
    check_client(certificate, present.ca, present.credential.agent, what)
    public_key = present.certificate.public_key()
    if not isinstance(public_key, TlsPublicKey):
        raise MalformedError("the certificate in use holds no EC P-256 key")
    check_key(certificate, public_key, what)
    if is_older(certificate, present.certificate):
        raise MalformedError(f"{what} was made before the one in use")
    return certificate


def is_older(one: x509.Certificate, other: x509.Certificate) -> bool:
    """Whether `one` was made before `other`, by the authority's clock."""
    return one.not_valid_before_utc < other.not_valid_before_utc
