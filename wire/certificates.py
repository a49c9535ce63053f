"""The certificates for TLS to the broker: read, checked, and kept in files.

    ca.key, ca.crt             the federation's CA, beside the enrolment key
    broker.key, broker.crt     server; names are the hosts by which agents call the broker
    NAME.tls.key, NAME.crt     client; CN is the agent's id, `coordinator` or `enrolment`

What is *said* over MQTT is believed because of the Ed25519 chain in `wire/trust.py` and not because
of TLS: a stolen CA key opens the broker and forges no update.

All keys are EC P-256, PKCS#8 PEM, mode 0600 from the moment they exist, never overwritten, and
refused when others can read them.  What the certificates say is in `wire/issuing.py`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.errors import MalformedError, SettingsError, SignatureError, TooLargeError, WireError
from wire.files import create_secret, read_secret_file, read_small, replace_file
from wire.issuing import (
    BROKER,
    Authority,
    Key,
    PublicKey,
    broker_certificate,
    client_certificate,
    host_names,
    new_authority,
    new_key,
)
from wire.topics import COORDINATOR, check_name
from wire.trust import ENROLMENT

CA_KEY = "ca.key"
CA_CERTIFICATE = "ca.crt"
SERVICE_DAYS = 1825
"""Broker and coordinator: when theirs ends, the whole federation stands still."""
AGENT_DAYS = 397
"""Under the 398 days that servers had (CA/Browser Forum, Baseline Requirements 6.3.2, 2020)."""
MAX_CERTIFICATE_BYTES = 4096
MAX_PEM_BYTES = 8192
USERS = frozenset({COORDINATOR, ENROLMENT, "observer", "administrator"})
"""Clients of the broker that are no gateways (`configs/broker/acl`)."""
RESERVED = USERS | {"ca", BROKER, "root", "charter", "author"}
"""Names of the federation's own files and roles; no agent may have one of them."""

_ODD_EXTENSION = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
Extension = TypeVar("Extension", bound=x509.ExtensionType)


def parse_certificate(data: bytes, what: str) -> x509.Certificate:
    """Parse a DER certificate; any bytes give a certificate or `WireError`."""
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise TooLargeError(f"{what} of {len(data)} bytes exceeds {MAX_CERTIFICATE_BYTES}")
    try:
        certificate = x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError(f"malformed {what}: {error}") from None
    # DER's last field is the signature, a bit string of whole octets.  The parser lets the number
    # of unused bits vary, and it is not signed: two encodings would pass for one certificate.
    if not data.endswith(b"\0" + certificate.signature):
        raise MalformedError(f"malformed {what}: its signature is not whole octets")
    return certificate


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's bytes, of which SHA-256 is the fingerprint."""
    return certificate.public_bytes(serialization.Encoding.DER)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the DER bytes, as `openssl x509 -fingerprint -sha256` shows it."""
    return certificate.fingerprint(hashes.SHA256())


def check_authority(certificate: x509.Certificate, what: str) -> None:
    """Raise `WireError` unless this is a CA's certificate, signed by itself."""
    constraints = _extension(certificate, x509.BasicConstraints, what)
    if not constraints.ca:
        raise MalformedError(f"{what} is not a CA's certificate")
    _check_signed(certificate, certificate, what)


def check_client(certificate: x509.Certificate, ca: x509.Certificate, name: str, what: str) -> None:
    """Raise `WireError` unless `ca` made this certificate for the client `name`."""
    _check_signed(certificate, ca, what)
    names = _common_names(certificate, what)
    if names != [name]:
        raise MalformedError(f"{what} is for {', '.join(map(str, names)) or 'nobody'}, not {name}")
    usage = _extension(certificate, x509.ExtendedKeyUsage, what)
    if list(usage) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        raise MalformedError(f"{what} is not for a client")
    if _extension(certificate, x509.BasicConstraints, what).ca:
        raise MalformedError(f"{what} is a CA's, which no client has")


def check_key(certificate: x509.Certificate, key: PublicKey, what: str) -> None:
    """Raise `WireError` unless the certificate holds this key."""
    try:
        is_same = certificate.public_key() == key
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"malformed {what}: {error}") from None
    if not is_same:
        raise SignatureError(f"{what} holds another key")


def check_not_ended(certificate: x509.Certificate, now: datetime, what: str) -> None:
    """Raise `MalformedError` after the certificate's end.

    Not before its beginning: a clock that is behind is how a gateway without battery starts, and
    no reason to refuse what is signed.
    """
    end = certificate.not_valid_after_utc
    if now > end:
        reason = f"{what} was valid until {end:%Y-%m-%d %H:%M} UTC and it is {now:%Y-%m-%d %H:%M}: "
        raise MalformedError(reason + "set this machine's clock, or get a new certificate")


def make_authority(directory: Path, federation: str) -> None:
    """Make `ca.key` and `ca.crt` in `directory`, for the next ten years."""
    path = directory / CA_CERTIFICATE
    key = _key_for(path, directory / CA_KEY)
    replace_file(path, _pem(new_authority(federation, key, datetime.now(UTC)).certificate))


def read_authority(directory: Path) -> Authority:
    """Read the CA's key and certificate and check that they belong together."""
    path = directory / CA_CERTIFICATE
    if not path.exists():
        reason = f"there is no CA here yet; make one with: journeyman keys ca {directory}"
        raise SettingsError(str(path), None, None, reason)
    certificate, key = read_certificate(path), read_key(directory / CA_KEY)
    try:
        check_authority(certificate, "this")
        check_key(certificate, key.public_key(), "this")
        check_not_ended(certificate, datetime.now(UTC), "this")
    except WireError as error:
        raise SettingsError(str(path), None, None, str(error)) from None
    return Authority(key, certificate)


def issue_client(directory: Path, name: str, *, days: float = SERVICE_DAYS) -> None:
    """Make `name.tls.key` and `name.crt`, signed by the CA in `directory`.

    For the coordinator, trials and tests; a gateway makes its own key (`wire/enrolment.py`).
    """
    authority = read_authority(directory)
    check_name(name, "client")
    path = directory / f"{name}.crt"
    if name in RESERVED - USERS:
        raise SettingsError(str(path), None, None, f"no client may be called {name!r}")
    key = _key_for(path, directory / f"{name}.tls.key").public_key()
    certificate = client_certificate(authority, name, key, datetime.now(UTC), days=days)
    replace_file(path, _pem(certificate))


def issue_broker(directory: Path, hosts: Sequence[str], *, days: float = SERVICE_DAYS) -> None:
    """Make `broker.key` and `broker.crt` for `hosts`, signed by the CA in `directory`."""
    authority = read_authority(directory)
    host_names(hosts)  # before a key is made
    path = directory / f"{BROKER}.crt"
    key = _key_for(path, directory / f"{BROKER}.key").public_key()
    certificate = broker_certificate(authority, hosts, key, datetime.now(UTC), days=days)
    replace_file(path, _pem(certificate))


def write_key(path: Path, key: Key) -> None:
    """Write a new key file, mode 0600; `FileExistsError` rather than overwrite one."""
    create_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def read_key(path: Path) -> Key:
    """Read an EC P-256 key; `SettingsError` when it is another, or readable by others."""
    data = read_secret_file(path, MAX_PEM_BYTES, "this private key")
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Key) or key.curve.name != "secp256r1":
        reason = "not an EC P-256 private key in PKCS#8 PEM without password"
        raise SettingsError(str(path), None, None, reason)
    return key


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate as PEM, in place of an older one."""
    replace_file(path, _pem(certificate))


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate; `SettingsError` names the file when it is none."""
    data = read_small(path, MAX_PEM_BYTES, "a certificate")
    try:
        return x509.load_pem_x509_certificate(data)
    except (ValueError, x509.InvalidVersion):
        raise SettingsError(str(path), None, None, "not a certificate in PEM") from None


def read_client(ca: Path, certificate: Path, key: Path, name: str, now: datetime) -> datetime:
    """Check the three files by which a client shows itself to the broker as `name`.

    Returns:
      When the certificate ends.

    Raises:
      SettingsError: names the file that is missing, open to others, ended, or another's.
    """
    issuer, own, private = read_certificate(ca), read_certificate(certificate), read_key(key)
    at = ca
    try:
        check_authority(issuer, "this")
        check_not_ended(issuer, now, "this CA's certificate")
        at = certificate
        check_client(own, issuer, name, "this certificate")
        check_not_ended(own, now, "this certificate")
        at = key
        check_key(own, private.public_key(), f"{certificate}")
    except WireError as error:
        raise SettingsError(str(at), None, None, str(error)) from None
    return own.not_valid_after_utc


def _key_for(certificate: Path, key: Path) -> Key:
    """Make a key for a certificate that does not exist yet.

    A key without its certificate is what a cut between the two leaves (or who wants the certificate
    anew deletes that): then this key is used.
    """
    if certificate.exists():
        reason = "this exists; nothing is overwritten. For a new certificate of the same key, move "
        raise SettingsError(str(certificate), None, None, reason + "this file away")
    made = new_key()
    try:
        write_key(key, made)
    except FileExistsError:
        return read_key(key)
    return made


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _check_signed(certificate: x509.Certificate, ca: x509.Certificate, what: str) -> None:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise SignatureError(f"{what} is not signed by this federation's CA") from None


def _common_names(certificate: x509.Certificate, what: str) -> list[str | bytes]:
    try:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, TypeError) as error:
        raise MalformedError(f"malformed {what}: {error}") from None
    return [attribute.value for attribute in found]


def _extension(certificate: x509.Certificate, kind: type[Extension], what: str) -> Extension:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        raise MalformedError(f"{what} lacks {kind.__name__}") from None
    except _ODD_EXTENSION as error:
        raise MalformedError(f"malformed {what}: {error}") from None
