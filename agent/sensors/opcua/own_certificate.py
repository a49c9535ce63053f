"""Certificates by which the agent shows itself: its own, made and renewed, or given by the user.

    own/key.pem            RSA 2048, 0600, made once
    own/certificate.der    the application instance certificate in use
    own/next.der           its successor, to be trusted at the servers before it takes over

Servers trust one exact certificate, so a successor that is used at once would stop the data.  It is
made when a quarter of the lifetime is left, for the engineer to install, and takes over when 30
days are left.  Key and application URI stay: deleting the folder `own` makes new ones.
"""

import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.sensors.opcua.certificates import (
    MAX_CERTIFICATE_BYTES,
    application_uri,
    der,
    is_expired,
    is_pem,
    parse_certificate,
    thumbprint,
    utc_now,
)
from wire.errors import MalformedError, SettingsError
from wire.files import SECRET_MODE, read_secret_file, read_small, replace_file

LIFETIME = timedelta(days=1826)
TAKE_OVER = timedelta(days=30)
KEY_BITS = 2048
_SKEW = timedelta(days=1)  # machines whose clock is in local time, and behind
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_MAKING = threading.Lock()  # several sources of one agent share the folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnCertificate:
    """An application instance certificate and its key.

    Attributes:
      path: the certificate's file, which a server's trust list needs.
    """

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    path: Path


def agent_uri(agent: str) -> str:
    """The application URI of an agent, the same for ever."""
    return f"urn:journeyman:agent:{agent}"


def own_certificate(directory: Path, agent: str, now: datetime) -> OwnCertificate:
    """Read the agent's own certificate; make or renew it when it is time.

    Raises:
      SettingsError: a file can not be read or written, or is open to others.
    """
    path, after = directory / "certificate.der", directory / "next.der"
    with _MAKING:
        _make_directory(directory)
        key = _own_key(directory / "key.pem")
        current, successor = _own(path, key, agent), _own(after, key, agent)
        if current is None or _left(current, now) <= TAKE_OVER:
            is_ready = successor is not None and _left(successor, now) > TAKE_OVER
            current = successor if is_ready and successor else sign_own(key, agent, now)
            replace_file(path, der(current))
            after.unlink(missing_ok=True)
            logger.warning(
                "new OPC UA certificate %s (thumbprint %s): servers that trust single certificates "
                "refuse the agent until they trust this one",
                path,
                thumbprint(current),
            )
        elif _left(current, now) < _lifetime(current) / 4 and successor is None:
            replace_file(after, der(sign_own(key, agent, now)))
            logger.warning(
                "the OPC UA certificate ends on %s: trust %s at the servers before %s",
                f"{current.not_valid_after_utc:%Y-%m-%d}",
                after,
                f"{current.not_valid_after_utc - TAKE_OVER:%Y-%m-%d}",
            )
        return OwnCertificate(current, key, path)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"can not make: {error.strerror}"
        raise SettingsError(str(directory), None, None, reason) from None


def given_user(certificate: Path, key: Path) -> OwnCertificate:
    """Read the certificate and key of a user.

    Raises:
      SettingsError: names the file that can not be used.
    """
    data = read_small(certificate, MAX_CERTIFICATE_BYTES, "a certificate")
    try:
        parsed = parse_certificate(data)
    except MalformedError as error:
        raise SettingsError(str(certificate), None, None, str(error)) from None
    private = read_rsa_key(key)
    if not _holds(parsed, private):
        reason = f"the certificate {certificate} holds another key"
        raise SettingsError(str(key), None, None, reason)
    if is_expired(parsed, utc_now()):
        reason = f"expired on {parsed.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: get a new one"
        raise SettingsError(str(certificate), None, None, reason)
    return OwnCertificate(parsed, private, certificate)


def given_application(certificate: Path, key: Path) -> OwnCertificate:
    """Read an application instance certificate and key that the user supplies.

    Raises:
      SettingsError: names the file that can not be used.
    """
    given = given_user(certificate, key)
    if not application_uri(given.certificate):
        reason = "has no application URI among its alternative names (OPC 10000-6, 6.2.2)"
        raise SettingsError(str(certificate), None, None, reason)
    return given


def read_rsa_key(path: Path) -> rsa.RSAPrivateKey:
    """Read an RSA key without password, PEM or DER; `SettingsError` names the file otherwise."""
    data = read_secret_file(path, MAX_CERTIFICATE_BYTES, "this private key")
    load = (
        serialization.load_pem_private_key if is_pem(data) else serialization.load_der_private_key
    )
    try:
        key = load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < KEY_BITS:
        reason = f"not an RSA private key of {KEY_BITS} bits or more, PEM or DER, without password"
        raise SettingsError(str(path), None, None, reason)
    return key


def sign_own(key: rsa.RSAPrivateKey, agent: str, now: datetime) -> x509.Certificate:
    """Sign the agent's certificate with its own key, as OPC 10000-6, 6.2.2 describes it."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Journeyman"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Journeyman agent {agent}"[:64]),
        ]
    )
    public = key.public_key()
    serial = x509.random_serial_number()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    issuer = x509.AuthorityKeyIdentifier(identifier.digest, [x509.DirectoryName(name)], serial)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(identifier, critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(_own_names(agent))), critical=False)
        .sign(key, hashes.SHA256())
    )


_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=True,
    key_encipherment=True,
    data_encipherment=True,
    key_agreement=False,
    key_cert_sign=True,  # OPC 10000-6, table 43: a self-signed certificate has it
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _own_names(agent: str) -> Iterator[x509.GeneralName]:
    yield x509.UniformResourceIdentifier(agent_uri(agent))
    host = socket.gethostname()
    try:
        yield x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        yield x509.DNSName(host if _HOST.fullmatch(host) else "localhost")


def _own_key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        return read_rsa_key(path)
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    replace_file(path, data, SECRET_MODE)
    return key


def _own(path: Path, key: rsa.RSAPrivateKey, agent: str) -> x509.Certificate | None:
    """The certificate in a file, if it is this key's and this agent's; others are made anew."""
    if not path.exists():
        return None
    try:
        certificate = parse_certificate(read_small(path, MAX_CERTIFICATE_BYTES, "a certificate"))
    except MalformedError as error:
        logger.warning("%s: %s; it is made anew", path, error)
        return None
    fits = _holds(certificate, key) and application_uri(certificate) == agent_uri(agent)
    return certificate if fits else None


def _holds(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> bool:
    try:
        return certificate.public_key() == key.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False


def _left(certificate: x509.Certificate, now: datetime) -> timedelta:
    return certificate.not_valid_after_utc - now


def _lifetime(certificate: x509.Certificate) -> timedelta:
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc
