"""Enrolment: how a gateway gets its credential and certificate while its keys never leave it.

    authority                                       gateway
    token   (one time, secret) ── by hand ───────►  pins root and CA; makes its two keys
            ◄── by any way ─────────────── request  public halves, under the token's secret
    answer  charter, credential, certificate, CA ►  checked down to the pins, then installed

Only the token must stay secret, and only until it is used.  Request and answer may be carried by
anybody: an altered one is refused, a copied one is worth nothing without the gateway's keys.

    token    "jm1-" base64url(payload checksum), a line of some 250 characters
    request  [1, body, tag, signature]    body: [token id, Ed25519 key, PKCS #10 request in DER]
    answer   [1, body, tag]               body: [token id, charter, credential, certificate, CA]

Payload and bodies are MessagePack arrays.  `tag` is HMAC-SHA-256 (RFC 2104) under the token's
secret over a label and the body; `signature` is by the request's Ed25519 key.  A thief of the token
can enrol in the gateway's place (which then is told "used"), but can not make it believe another
root or CA: those are pinned.  The tag on the answer keeps a carrier from putting an older charter
into it, which the root signed too.

Pure: bytes and the time in, values out, `WireError` otherwise.  `wire/enrolment_ledger.py` sees to
it that a token is used once.
"""

import base64
import binascii
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated, TypeVar

import msgspec
from cryptography import x509

from wire.certificates import (
    RESERVED,
    check_authority,
    check_client,
    check_key,
    check_not_ended,
    der,
    fingerprint,
    parse_certificate,
)
from wire.codec import MAX_BYTES, seal
from wire.errors import MalformedError, SignatureError, TooLargeError, WireError
from wire.issuing import (
    Authority,
    Key,
    client_certificate,
    read_signing_request,
    signing_request,
)
from wire.issuing import PublicKey as TlsPublicKey
from wire.messages import Charter, Credential, Digest, PublicKey
from wire.signing import PrivateKey
from wire.signing import PublicKey as VerifyKey
from wire.topics import check_name
from wire.trust import ENROLMENT, Trust, read_charter, read_credential, unlisted

PREFIX = "jm1-"
MAX_TOKEN_CHARACTERS = 1000
MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 32_768
MAX_SERIAL = 1 << 52

_VERSION = 1
_TOKEN_LABEL = b"journeyman-enrolment-token-v1\0"
_REQUEST_LABEL = b"journeyman-enrolment-request-v1\0"
_ANSWER_LABEL = b"journeyman-enrolment-answer-v1\0"
_CHECKSUM_BYTES = 4

T = TypeVar("T")
TokenId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Tag = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
Der = Annotated[bytes, msgspec.Meta(max_length=4096)]
Seconds = Annotated[int, msgspec.Meta(ge=1, lt=253_402_300_800)]  # to the end of the year 9999
Version = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class EnrolmentError(WireError):
    """A token that can not be used: unknown, used, ended or revoked; or an answer to another."""


class _Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Shape of everything here: no field names, and nothing behind the last field."""


class Token(_Array, frozen=True):
    """What the authority gives to whoever installs the gateway, once.

    Attributes:
      root: the federation's root public key.
      ca: SHA-256 of the CA's certificate (DER).
      expires: UTC, seconds since 1970, by the authority's clock alone.
      secret: known to nobody else; never shown but by `encode_token`.
    """

    federation: Name
    agent: Name
    site: Name
    root: PublicKey
    ca: Digest
    expires: Seconds
    id: TokenId
    secret: Tag

    def __repr__(self) -> str:
        return f"Token({self.agent} of {self.site}, id={self.id.hex()})"


class _RequestBody(_Array, frozen=True):
    token: TokenId
    public_key: PublicKey
    signing_request: Der


class _Request(_Array, frozen=True):
    version: Version
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_REQUEST_BYTES)]
    tag: Tag
    signature: Signature


class _AnswerBody(_Array, frozen=True):
    token: TokenId
    charter: Annotated[bytes, msgspec.Meta(max_length=MAX_BYTES["charter"])]
    credential: Annotated[bytes, msgspec.Meta(max_length=MAX_BYTES["credential"])]
    certificate: Der
    ca: Der


class _Answer(_Array, frozen=True):
    version: Version
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_ANSWER_BYTES)]
    tag: Tag


@dataclass(frozen=True)
class Request:
    """A request whose outside was read and that was NOT verified yet; its token's id says how."""

    token_id: bytes
    digest: bytes
    message: _Request
    body: _RequestBody


@dataclass(frozen=True)
class Applicant:
    """A verified request: the two public keys of the gateway that holds the token."""

    public_key: bytes
    tls_key: TlsPublicKey


@dataclass(frozen=True)
class Enroller:
    """What the authority enrols with.

    Attributes:
      root: pinned by every token.
      charter: the envelope as it goes into answers.
    """

    root: VerifyKey
    charter: bytes
    trust: Trust
    key: PrivateKey
    ca: Authority


@dataclass(frozen=True)
class Enrolled:
    """A verified answer: what the gateway installs.

    Attributes:
      charter, credential: envelopes.
      certificate, ca: DER.
    """

    charter: bytes
    credential: bytes
    certificate: bytes
    ca: bytes
    agreed: Charter
    own: Credential


def check_agent(agent: str) -> str:
    """Return `agent` when a gateway may be called so; `MalformedError` otherwise."""
    check_name(agent, "agent")
    if agent in RESERVED or agent.endswith(".tls"):
        raise MalformedError(f"no agent may be called {agent!r}: the federation's files are")
    return agent


def new_token(enroller: Enroller, agent: str, site: str, expires: int) -> Token:
    """Make a token for one agent.  The caller remembers it before anybody sees it.

    Raises:
      MalformedError: not a name for an agent, or not a site that the charter lists.
    """
    charter = enroller.trust.charter
    if refused := unlisted(site, charter):
        raise MalformedError(refused)
    if agent in {helper.name for helper in charter.helpers}:
        raise MalformedError(f"{agent} is a helper's name, and with it go its rights at the broker")
    return Token(
        federation=enroller.trust.federation,
        agent=check_agent(agent),
        site=check_name(site, "site"),
        root=enroller.root.raw,
        ca=fingerprint(enroller.ca.certificate),
        expires=expires,
        id=secrets.token_bytes(16),
        secret=secrets.token_bytes(32),
    )


def encode_token(token: Token) -> str:
    """Return the token as text without spaces, which a person can copy."""
    payload = msgspec.msgpack.encode(token)
    return PREFIX + base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip("=")


def decode_token(text: str) -> Token:
    """Parse a token's text; white space, as mail programs put into long lines, does not matter.

    Raises:
      WireError: not a token, or mistyped.
    """
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise TooLargeError(f"a token has at most {MAX_TOKEN_CHARACTERS} characters")
    text = re.sub(r"[ \t\r\n]+", "", text)
    if not text.startswith(PREFIX):
        raise MalformedError(f"not an enrolment token: one begins with {PREFIX!r}")
    encoded = text.removeprefix(PREFIX)
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    payload, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    is_canonical = base64.urlsafe_b64encode(data).decode().rstrip("=") == encoded
    if not is_canonical or checksum != _checksum(payload):
        raise MalformedError("the enrolment token is mistyped or cut short; copy it again")
    token = _decode(payload, Token, "enrolment token")
    check_name(token.federation, "federation")
    check_agent(token.agent)
    check_name(token.site, "site")
    return token


def make_request(token: Token, key: PrivateKey, tls_key: Key) -> bytes:
    """Ask for what the token promises, for these keys; they stay where they are."""
    body = msgspec.msgpack.encode(
        _RequestBody(token.id, key.public.raw, signing_request(tls_key, token.agent))
    )
    tag = _tag(token, _REQUEST_LABEL, body)
    signature = key.sign(_REQUEST_LABEL + body + tag)
    return msgspec.msgpack.encode(_Request(_VERSION, body, tag, signature))


def parse_request(data: bytes) -> Request:
    """Read a request far enough to know its token; nothing in it is believed yet."""
    _check_size(data, MAX_REQUEST_BYTES, "enrolment request")
    message = _decode(data, _Request, "enrolment request")
    _check_version(message.version, "enrolment request")
    body = _decode(message.body, _RequestBody, "enrolment request")
    return Request(body.token, sha256(data).digest(), message, body)


def verify_request(request: Request, token: Token) -> Applicant:
    """Raise `WireError` unless the token's holder made this request and holds both its keys."""
    message, body = request.message, request.body
    expected = _tag(token, _REQUEST_LABEL, message.body)
    if body.token != token.id or not hmac.compare_digest(message.tag, expected):
        raise SignatureError("enrolment request: not made with this token, or altered since")
    signed = _REQUEST_LABEL + message.body + message.tag
    VerifyKey(body.public_key).verify(message.signature, signed, "enrolment request")
    return Applicant(body.public_key, read_signing_request(body.signing_request))


def make_answer(
    enroller: Enroller,
    token: Token,
    applicant: Applicant,
    serial: int,
    now: datetime,
    *,
    days: float,
) -> bytes:
    """Sign credential `serial` and a certificate of `days` for a verified request.

    Raises:
      MalformedError: the charter does not list the token's site any more.
    """
    if refused := unlisted(token.site, enroller.trust.charter):
        raise MalformedError(refused)
    credential = Credential(
        agent=token.agent, site=token.site, public_key=applicant.public_key, serial=serial
    )
    envelope = seal(
        credential,
        federation=token.federation,
        signer=ENROLMENT,
        counter=serial,
        key=enroller.key,
    )
    certificate = client_certificate(enroller.ca, token.agent, applicant.tls_key, now, days=days)
    body = msgspec.msgpack.encode(
        _AnswerBody(
            token.id, enroller.charter, envelope, der(certificate), der(enroller.ca.certificate)
        )
    )
    return msgspec.msgpack.encode(_Answer(_VERSION, body, _tag(token, _ANSWER_LABEL, body)))


def answered_token(data: bytes) -> bytes:
    """Id of the token that an answer says it belongs to; not believed before `read_answer`."""
    return _parse_answer(data)[1].token


def answered_credential(data: bytes) -> bytes:
    """The credential's envelope in an answer of one's own."""
    return _parse_answer(data)[1].credential


def answered_certificate(data: bytes) -> x509.Certificate:
    """The certificate in an answer of one's own; whoever got the answer uses `read_answer`."""
    return parse_certificate(_parse_answer(data)[1].certificate, "the agent's certificate")


def read_answer(
    data: bytes, token: Token, key: VerifyKey, tls_key: TlsPublicKey, now: datetime
) -> Enrolled:
    """Verify an answer from its tag down to each signature, for the gateway with these keys.

    Raises:
      WireError: says which part is not what the token promised.
    """
    message, body = _parse_answer(data)
    if body.token != token.id:
        raise EnrolmentError(
            f"this answers token {body.token.hex()}; the one here is {token.id.hex()}"
        )
    if not hmac.compare_digest(message.tag, _tag(token, _ANSWER_LABEL, message.body)):
        raise SignatureError("enrolment answer: altered, or not by whom the token is from")
    trust = read_charter(body.charter, VerifyKey(token.root))
    if trust.federation != token.federation:
        raise MalformedError(f"the charter governs {trust.federation}, not {token.federation}")
    credential = read_credential(body.credential, trust)
    if (credential.agent, credential.site) != (token.agent, token.site):
        named = f"{credential.agent} of {credential.site}"
        raise MalformedError(f"the credential is for {named}, not {token.agent} of {token.site}")
    if credential.public_key != key.raw:
        raise SignatureError("the credential holds another key than this gateway's")
    _check_certificates(body, token, tls_key, now)
    return Enrolled(
        body.charter, body.credential, body.certificate, body.ca, trust.charter, credential
    )


def _check_certificates(
    body: _AnswerBody, token: Token, tls_key: TlsPublicKey, now: datetime
) -> None:
    if sha256(body.ca).digest() != token.ca:
        raise SignatureError("the CA's certificate is not the one that the token names")
    ca = parse_certificate(body.ca, "the CA's certificate")
    check_authority(ca, "the CA's certificate")
    what = "the agent's certificate"
    certificate = parse_certificate(body.certificate, what)
    check_client(certificate, ca, token.agent, what)
    check_key(certificate, tls_key, what)
    check_not_ended(certificate, now, what)


def _parse_answer(data: bytes) -> tuple[_Answer, _AnswerBody]:
    _check_size(data, MAX_ANSWER_BYTES, "enrolment answer")
    message = _decode(data, _Answer, "enrolment answer")
    _check_version(message.version, "enrolment answer")
    return message, _decode(message.body, _AnswerBody, "enrolment answer")


def _checksum(payload: bytes) -> bytes:
    return sha256(_TOKEN_LABEL + payload).digest()[:_CHECKSUM_BYTES]


def _tag(token: Token, label: bytes, body: bytes) -> bytes:
    return hmac.digest(token.secret, label + body, "sha256")


def _check_size(data: bytes, cap: int, what: str) -> None:
    if len(data) > cap:
        raise TooLargeError(f"{what} of {len(data)} bytes exceeds its cap of {cap} bytes")


def _check_version(version: int, what: str) -> None:
    if version != _VERSION:
        reason = f"{what} of version {version}; this program speaks version {_VERSION}: "
        raise MalformedError(reason + "upgrade the older side")


def _decode(data: bytes, what: type[T], name: str) -> T:
    try:
        return msgspec.msgpack.decode(data, type=what)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise MalformedError(f"malformed {name}: {error}") from None
