"""Whether a server's certificate is trusted (OPC 10000-4, 6.1.3, table "validation steps").  Pure.

Trusted is a certificate that is in the list itself, or whose chain leads to a CA that is.  Refused
whatever the list says: expired, not valid yet, of another application URI than the endpoint's,
revoked, or with a key that the policies do not allow.

A certificate with an application URI is never a CA here, whatever else it says: self-signed
certificates of servers often carry the CA flag, and trusting one server must not trust whatever it
signs.  A revocation list that is not there is not an error; a plant without one would stand still.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.sensors.opcua.certificates import (
    application_uri,
    der,
    is_expired,
)

_MAX_DEPTH = 5
_RSA_BITS = range(2048, 4097)  # OPC 10000-7, all three policies
_WEAK = (hashes.MD5, hashes.SHA1)
_UNUSABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


Peer = Literal["server", "client"]


@dataclass(frozen=True)
class Entry:
    """One certificate in one of the folders."""

    path: Path
    certificate: x509.Certificate


@dataclass(frozen=True)
class TrustList:
    """What the folders of `trust_store` held when they were read.

    Attributes:
      unreadable: files that are no certificate or CRL, and why; they count for nothing.
    """

    trusted: tuple[Entry, ...] = ()
    issuers: tuple[Entry, ...] = ()
    rejected: tuple[Entry, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    unreadable: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why a server's certificate is not accepted.

    Attributes:
      can_be_trusted: whether adding it to the trust list would change the verdict.
    """

    reason: str
    can_be_trusted: bool = False


def refusal(
    chain: Sequence[x509.Certificate],
    uri: str,
    trust: TrustList,
    now: datetime,
    peer: Peer = "server",
) -> Refusal | None:
    """Judge what a peer showed; None when it is trusted.

    Args:
      chain: the peer's certificate, then the issuers that it sent.
      uri: its application URI, as a server's endpoint says.
      trust: the trust list.
      now: the gateway's clock.
      peer: a server that the agent talks to, or a client of the agent's own server.
    """
    leaf = chain[0]
    reason = (
        unusable_key(leaf, peer)
        or _untimely(leaf, f"the {peer}'s certificate", now, peer)
        or _wrong_uri(application_uri(leaf), uri, peer)
    )
    if reason:
        return Refusal(reason)
    anchors = {der(entry.certificate) for entry in trust.trusted}
    pool = [*chain[1:], *(entry.certificate for entry in (*trust.issuers, *trust.trusted))]
    if der(leaf) in anchors:
        issuers = [issuer for issuer in pool if _is_signed_by(leaf, issuer)]
        is_revoked = any(_is_revoked(leaf, issuer, trust.crls) for issuer in issuers)
        reason = f"the {peer}'s certificate was revoked by its issuer"
        return Refusal(reason) if is_revoked else None
    return _refusal_of_path(leaf, pool, anchors, trust, now, peer)


def _refusal_of_path(
    leaf: x509.Certificate,
    pool: Sequence[x509.Certificate],
    anchors: set[bytes],
    trust: TrustList,
    now: datetime,
    peer: Peer,
) -> Refusal | None:
    """Judge a certificate that is not itself in the list by the CAs above it."""
    refused = Refusal(f"the {peer}'s certificate is not trusted", can_be_trusted=True)
    for path in _paths((leaf,), pool, anchors):
        reason = _wrong_with_path(path, trust, now, peer)
        if not reason:
            return None
        refused = Refusal(reason)
    return refused


def _paths(
    path: tuple[x509.Certificate, ...], pool: Sequence[x509.Certificate], anchors: set[bytes]
) -> Iterator[tuple[x509.Certificate, ...]]:
    """Every way from a certificate up to a trusted CA, by signatures; at most `_MAX_DEPTH` CAs."""
    if len(path) > _MAX_DEPTH:
        return
    seen = {der(certificate) for certificate in path}
    for issuer in pool:
        encoded = der(issuer)
        if encoded in seen or not is_authority(issuer, len(path) - 1):
            continue
        if not _is_signed_by(path[-1], issuer):
            continue
        seen.add(encoded)
        longer = (*path, issuer)
        if encoded in anchors:
            yield longer
        else:
            yield from _paths(longer, pool, anchors)


def _wrong_with_path(
    path: Sequence[x509.Certificate], trust: TrustList, now: datetime, peer: Peer
) -> str | None:
    for certificate, issuer in itertools.pairwise(path):
        if _is_revoked(certificate, issuer, trust.crls):
            return "a certificate of the chain was revoked by its issuer"
        if isinstance(certificate.signature_hash_algorithm, _WEAK):
            return "a certificate of the chain is signed with a broken hash (MD5 or SHA-1)"
        untimely = _untimely(issuer, f"the certificate of the {peer}'s CA", now, peer)
        if untimely:
            return untimely
    if not _may_be(peer, path[0]):
        return f"the {peer}'s certificate is not for a {peer} (extended key usage)"
    return None


def unusable_key(leaf: x509.Certificate, peer: Peer = "server") -> str | None:
    """Why no security policy here can work with a certificate, whoever trusts it."""
    try:
        key = leaf.public_key()
        _ = list(leaf.extensions)
    except _UNUSABLE as error:
        return f"the {peer}'s certificate can not be used: {error}"
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in _RSA_BITS:
        return f"the key of the {peer}'s certificate is not RSA of 2048 to 4096 bits"
    return None


def _wrong_uri(certified: str, uri: str, peer: Peer) -> str | None:
    if certified and certified == uri:
        return None
    holds = f"is for application URI {certified!r}" if certified else "has no application URI"
    return (
        f"the {peer}'s certificate {holds}, but its endpoint says {uri!r}: make a new certificate "
        f"on the {peer}"
    )


def _untimely(certificate: x509.Certificate, what: str, now: datetime, peer: Peer) -> str | None:
    if is_expired(certificate, now):
        return (
            f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC and this "
            f"gateway's clock says {now:%Y-%m-%d %H:%M}: renew it on the {peer}, or set the clock"
        )
    if now < certificate.not_valid_before_utc:
        return (
            f"{what} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC and "
            f"this gateway's clock says {now:%Y-%m-%d %H:%M}: set the clock that is wrong"
        )
    return None


def is_authority(certificate: x509.Certificate, below: int = 0) -> bool:
    """Whether this is a CA's certificate that may have `below` other CAs under it."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except _UNUSABLE:
        return False
    if not basic.ca or not usage.key_cert_sign or application_uri(certificate):
        return False
    return basic.path_length is None or below <= basic.path_length


def _may_be(peer: Peer, leaf: x509.Certificate) -> bool:
    """Whether the extended key usage allows it; without one, everything is allowed."""
    wanted = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except _UNUSABLE:
        return False
    return wanted[peer] in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except _UNUSABLE:
        return False
    return True


def _is_revoked(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    crls: Sequence[x509.CertificateRevocationList],
) -> bool:
    for crl in crls:
        try:
            is_of_issuer = crl.issuer == issuer.subject and crl.is_signature_valid(
                issuer.public_key()  # type: ignore[arg-type]  # other kinds raise TypeError
            )
            serial = certificate.serial_number
            if is_of_issuer and crl.get_revoked_certificate_by_serial_number(serial) is not None:
                return True
        except _UNUSABLE:
            continue
    return False
