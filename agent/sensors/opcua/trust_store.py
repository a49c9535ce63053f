"""The trust list as folders of files, one certificate each, DER or PEM, of any name.

    pki/trusted     certificates of single servers, or of CAs whose servers all are trusted
    pki/issuers     CAs that only complete chains; a server is not trusted because of them
    pki/crl         revocation lists of any of these CAs
    pki/rejected    what servers showed and nobody trusted yet, the newest 50
    pki/own         see `certificates`

The names are those of OPC 10000-12, 7.8.2.  The files are read before every connection, so what a
person adds or removes works without a restart.  A damaged file counts for nothing, is reported, and
does not hide the others.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from agent.sensors.opcua.certificates import (
    MAX_CERTIFICATE_BYTES,
    der,
    is_pem,
    parse_certificate,
    thumbprint,
)
from agent.sensors.opcua.trust import Entry, TrustList
from wire.errors import MalformedError, SettingsError
from wire.files import read_small, replace_file

Folder = Literal["trusted", "issuers", "rejected"]

MAX_REJECTED = 50
MAX_FILES = 1000
MAX_CRL_BYTES = 1 << 20

logger = logging.getLogger(__name__)


def pki_directory(state_dir: Path) -> Path:
    """Where certificates and the trust list of an agent are."""
    return state_dir / "sources" / "opcua" / "pki"


def read_trust_list(pki: Path) -> TrustList:
    """Read the folders; a file that is damaged is named, and does not hide the others.

    Raises:
      SettingsError: a folder can not be read.
    """
    unreadable: dict[Path, str] = {}
    crls = []
    for path in _files(pki / "crl"):
        try:
            crls.append(parse_crl(read_small(path, MAX_CRL_BYTES, "a revocation list")))
        except SettingsError as error:
            unreadable[path] = error.reason
        except MalformedError as error:
            unreadable[path] = str(error)
    return TrustList(
        trusted=tuple(_entries(pki / "trusted", unreadable)),
        issuers=tuple(_entries(pki / "issuers", unreadable)),
        rejected=tuple(_entries(pki / "rejected", unreadable)),
        crls=tuple(crls),
        unreadable=unreadable,
    )


def parse_crl(data: bytes) -> x509.CertificateRevocationList:
    """Parse a revocation list, DER or PEM; any bytes give one or `MalformedError`."""
    try:
        if is_pem(data):
            return x509.load_pem_x509_crl(data)
        return x509.load_der_x509_crl(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"not a revocation list: {error}") from None


def reject(pki: Path, certificate: x509.Certificate) -> bool:
    """Keep a certificate that was not trusted, so that `trust add` finds it; the oldest go.

    Returns:
      Whether it is kept; a disk that is full must not stop the source.
    """
    directory = pki / "rejected"
    path = directory / f"{thumbprint(certificate)}.der"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return True
        kept = sorted(_files(directory), key=lambda file: file.stat().st_mtime)
        for oldest in kept[: max(0, len(kept) - MAX_REJECTED + 1)]:
            oldest.unlink(missing_ok=True)
        replace_file(path, der(certificate))
    except (OSError, SettingsError) as error:
        logger.warning("can not keep a rejected certificate: %s", error)
        return False
    return True


def _files(directory: Path) -> list[Path]:
    try:
        found = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = f"can not read: {error.strerror}"
        raise SettingsError(str(directory), None, None, reason) from None
    if len(found) > MAX_FILES:
        reason = f"more than {MAX_FILES} files: remove some"
        raise SettingsError(str(directory), None, None, reason)
    return found


def _entries(directory: Path, unreadable: dict[Path, str]) -> Iterator[Entry]:
    for path in _files(directory):
        try:
            data = read_small(path, MAX_CERTIFICATE_BYTES, "a certificate")
            yield Entry(path, parse_certificate(data))
        except SettingsError as error:
            unreadable[path] = error.reason
        except MalformedError as error:
            unreadable[path] = str(error)


def keep(pki: Path, folder: Folder, certificate: x509.Certificate) -> None:
    """Put a certificate into a folder, and take it out of `rejected`.

    Raises:
      SettingsError: it can not be written.
    """
    path = _new_file(pki, folder, f"{thumbprint(certificate)}.der")
    replace_file(path, der(certificate))
    if folder != "rejected":
        (pki / "rejected" / path.name).unlink(missing_ok=True)


def keep_crl(pki: Path, crl: x509.CertificateRevocationList) -> None:
    """Put a revocation list into its folder, in place of an older one of the same issuer.

    Raises:
      SettingsError: it can not be written.
    """
    name = hashlib.sha256(crl.issuer.public_bytes()).hexdigest()[:40].upper()
    path = _new_file(pki, "crl", f"{name}.crl")
    replace_file(path, crl.public_bytes(serialization.Encoding.DER))


def _new_file(pki: Path, folder: str, name: str) -> Path:
    directory = pki / folder
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"can not make: {error.strerror}"
        raise SettingsError(str(directory), None, None, reason) from None
    if len(_files(directory)) >= MAX_FILES:
        reason = f"has {MAX_FILES} files, which is the most: remove some"
        raise SettingsError(str(directory), None, None, reason)
    return directory / name


def discard(entry: Entry) -> None:
    """Delete a certificate's file.

    Raises:
      SettingsError: it can not be deleted.
    """
    try:
        entry.path.unlink(missing_ok=True)
    except OSError as error:
        reason = f"can not delete: {error.strerror}"
        raise SettingsError(str(entry.path), None, None, reason) from None
