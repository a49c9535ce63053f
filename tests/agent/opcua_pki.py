"""Certificates of OPC UA servers and CAs for tests: right ones, and wrong in one way each."""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Party:
    """A certificate and the key that belongs to it."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key; returns their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        key.chmod(0o600)
        return certificate, key


@functools.cache
def rsa_key(number: int, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Keys are expensive, so tests share them by number."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def server(
    uri: str | None = "urn:plant:press1",
    *,
    key: rsa.RSAPrivateKey | None = None,
    issuer: Party | None = None,
    valid: tuple[datetime, datetime] = (NOW - DAY, NOW + 100 * DAY),
    is_ca: bool = False,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    host: str = "127.0.0.1",
) -> Party:
    """A server's certificate, signed by itself or by an issuer."""
    key = key or rsa_key(0)
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if uri is not None:
        names.insert(0, x509.UniformResourceIdentifier(uri))
    subject = name("Press 1")
    signer = issuer.key if issuer else key
    certificate = (
        _builder(subject, issuer.certificate.subject if issuer else subject, key, valid)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage(signs=is_ca), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Party(certificate, key)


def authority(
    common: str,
    number: int,
    *,
    issuer: Party | None = None,
    path_length: int | None = None,
    valid: tuple[datetime, datetime] = (NOW - DAY, NOW + 1000 * DAY),
) -> Party:
    """A CA, signed by itself or by another one."""
    key = rsa_key(number)
    above = issuer.certificate.subject if issuer else name(common)
    certificate = (
        _builder(name(common), above, key, valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage(signs=True), critical=True)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    return Party(certificate, key)


def crl(issuer: Party, *revoked: x509.Certificate) -> x509.CertificateRevocationList:
    """A CA's list of what it revoked."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW - DAY)
        .next_update(NOW + DAY)
    )
    for certificate in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(NOW - DAY)
            .build()
        )
    return builder.sign(issuer.key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey, valid: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )
