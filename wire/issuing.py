"""What a federation's CA signs (X.509, RFC 5280): certificates for TLS to the broker.  Pure.

A broker takes a client certificate's CN as its user name, so the certificate is worth exactly what
the access rules give to that name.  A certificate holds nothing of its request but the key.

Time.  A gateway without a clock battery starts in the past, and in a plant without a time server it
stays there (DESIGN, "Delivery").  So what gateways check, the CA's and the broker's certificate, is
valid from long ago; what the broker checks, a client's, from one hour ago.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from wire.errors import MalformedError, SignatureError, TooLargeError
from wire.topics import check_name

CA_DAYS = 3650
MAX_REQUEST_BYTES = 4096
MAX_HOSTS = 64
BROKER = "broker"

_VALID_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_SKEW = timedelta(hours=1)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True)
class Authority:
    """A federation's CA: its certificate, and the key that belongs to it."""

    key: Key
    certificate: x509.Certificate


def new_key() -> Key:
    """Make an EC P-256 key, which the TLS of every broker and microcontroller can use."""
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(federation: str, key: Key, now: datetime) -> Authority:
    """Sign the federation's CA certificate with its own key; it can sign no other CA."""
    check_name(federation, "federation")
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, "Journeyman CA"),
        ]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(subject, subject, key.public_key(), (_VALID_FROM, now + timedelta(CA_DAYS)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def client_certificate(
    authority: Authority, name: str, public_key: PublicKey, now: datetime, *, days: float
) -> x509.Certificate:
    """Issue a client's certificate whose CN is `name`, valid for `days`."""
    check_name(name, "client")
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _leaf(authority, name, public_key, usage, (now - _SKEW, now + timedelta(days)))
    return builder.sign(authority.key, hashes.SHA256())


def broker_certificate(
    authority: Authority, hosts: Sequence[str], public_key: PublicKey, now: datetime, *, days: float
) -> x509.Certificate:
    """Issue the broker's certificate for the names and IP addresses by which agents call it."""
    names = x509.SubjectAlternativeName(host_names(hosts))
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    builder = _leaf(authority, BROKER, public_key, usage, (_VALID_FROM, now + timedelta(days)))
    return builder.add_extension(names, critical=False).sign(authority.key, hashes.SHA256())


def revocation_list(
    authority: Authority, revoked: Iterable[tuple[int, datetime]], now: datetime, *, days: float
) -> x509.CertificateRevocationList:
    """Sign the CA's list of certificates that are not to be believed (RFC 5280, section 5).

    Args:
      authority: the CA.
      revoked: serial number of each certificate, and since when.
      now: beginning of the list, an hour before which it is valid for a broker that is behind.
      days: a broker refuses everybody when the list is older.
    """
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - _SKEW)
        .next_update(now + timedelta(days))
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    for number, since in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(since)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.key, hashes.SHA256())


def signing_request(key: Key, name: str) -> bytes:
    """Make a certificate signing request (PKCS #10, RFC 2986) in DER."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder(subject_name=subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read_signing_request(data: bytes) -> PublicKey:
    """Return the key of a request that was signed with that key; the rest of it is ignored.

    Raises:
      WireError: not a request, not its own signature, or not an EC P-256 key.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise TooLargeError(f"signing request of {len(data)} bytes exceeds {MAX_REQUEST_BYTES}")
    try:
        request = x509.load_der_x509_csr(data)
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise MalformedError(f"malformed signing request: {error}") from None
    if not isinstance(key, PublicKey) or key.curve.name != "secp256r1":
        raise MalformedError("signing request: the key is not EC P-256")
    if not is_signed:
        raise SignatureError("signing request: whoever made it does not hold its key")
    return key


def _leaf(
    authority: Authority,
    name: str,
    public_key: PublicKey,
    usage: ObjectIdentifier,
    validity: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start, end = validity
    last = authority.certificate.not_valid_after_utc
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return (
        _builder(authority.certificate.subject, subject, public_key, (start, min(end, last)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(issuer_key, critical=False)
    )


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    public_key: PublicKey,
    validity: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    start, end = validity
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=public_key,
        serial_number=x509.random_serial_number(),  # 159 random bits
        not_valid_before=start,
        not_valid_after=end,
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def host_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Names of a broker's certificate; `MalformedError` for what is no host."""
    if not 1 <= len(hosts) <= MAX_HOSTS:
        raise MalformedError(f"a broker has 1 to {MAX_HOSTS} host names, got {len(hosts)}")
    return [_host_name(host) for host in hosts]


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise MalformedError(f"{host[:80]!r} is neither an IP address nor a host name (RFC 1123)")
    return x509.DNSName(host)
