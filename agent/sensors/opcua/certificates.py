"""Certificates of OPC UA applications, parsed and described.  Pure.

Thumbprints are what OPC UA calls so (OPC 10000-6, 6.7.2.3: SHA-1 of the DER bytes), because that is
what the engineer reads on a server's own page.  They name a certificate and never prove one: what
is trusted is compared byte for byte.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from wire.errors import MalformedError

MAX_CERTIFICATE_BYTES = 16 << 10
MAX_CHAIN = 10
_PEM = b"-----BEGIN CERTIFICATE-----"
_UNUSABLE = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def parse_certificate(data: bytes) -> x509.Certificate:
    """Parse one certificate, DER or PEM; any bytes give a certificate or `MalformedError`."""
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise MalformedError(f"a certificate of more than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        if is_pem(data):
            if data.count(_PEM) > 1:
                raise MalformedError("more than one certificate: give each a file of its own")
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except (*_UNUSABLE, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise MalformedError(f"not a certificate: {error}") from None


def is_pem(data: bytes) -> bool:
    """Whether this is PEM (RFC 7468), else DER."""
    return data.lstrip().startswith(b"-----BEGIN")


def parse_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    """Parse what a server sends as its certificate: DER, its issuers after it (OPC 10000-6, 6.2.6).

    Raises:
      MalformedError: empty, cut, too many or too large.
    """
    chain: list[x509.Certificate] = []
    rest = memoryview(data)
    while rest:
        if len(chain) == MAX_CHAIN:
            raise MalformedError(f"a chain of more than {MAX_CHAIN} certificates")
        length = _der_length(bytes(rest[:6]))
        if length > len(rest):
            raise MalformedError("a certificate that is cut")
        chain.append(parse_certificate(bytes(rest[:length])))
        rest = rest[length:]
    if not chain:
        raise MalformedError("no certificate")
    return tuple(chain)


def _der_length(head: bytes) -> int:
    """Bytes of the ASN.1 SEQUENCE that begins so, its header included (X.690, 8.1.3)."""
    if len(head) < 2 or head[0] != 0x30:
        raise MalformedError("not a certificate in DER")
    if head[1] < 0x80:
        return 2 + head[1]
    octets = head[1] & 0x7F
    if not 1 <= octets <= 4 or len(head) < 2 + octets:
        raise MalformedError("not a certificate in DER")
    return 2 + octets + int.from_bytes(head[2 : 2 + octets], "big")


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's bytes."""
    return certificate.public_bytes(serialization.Encoding.DER)


def thumbprint(certificate: x509.Certificate) -> str:
    """SHA-1 of the DER bytes, 40 upper-case hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303  OPC 10000-6, 6.7.2.3


def application_uri(certificate: x509.Certificate) -> str:
    """The URI of the subject's alternative names (OPC 10000-6, 6.2.2); empty without one."""
    uris = _names(certificate, x509.UniformResourceIdentifier)
    return next((uri for uri in uris if isinstance(uri, str)), "")


def is_for_host(certificate: x509.Certificate, host: str) -> bool:
    """Whether the certificate names this DNS name or IP address."""
    names = {str(name).lower() for name in _names(certificate, x509.DNSName)}
    names |= {str(name) for name in _names(certificate, x509.IPAddress)}
    return host.lower() in names


def subject_of(certificate: x509.Certificate) -> str:
    """The subject in one line (RFC 4514), whatever it holds."""
    try:
        text = certificate.subject.rfc4514_string()
    except _UNUSABLE as error:
        text = f"unreadable: {error}"
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200]) or "(empty)"


def _names(
    certificate: x509.Certificate,
    kind: type[x509.UniformResourceIdentifier | x509.DNSName | x509.IPAddress],
) -> Iterator[object]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (*_UNUSABLE, x509.ExtensionNotFound):
        return
    yield from (name.value for name in names if isinstance(name, kind))


def is_expired(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether the end of the certificate has passed."""
    return now > certificate.not_valid_after_utc


def utc_now() -> datetime:
    """The gateway's clock."""
    return datetime.now(UTC)
