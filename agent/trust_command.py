"""`journeyman-agent trust`: which OPC UA servers are trusted, and what the coordinator signed.

Works on the files of the state directory, whether the agent runs or not; a running agent reads them
at its next attempt to connect.  Run as root, it works as the owner of that directory: the agent can
use what it wrote, and links in there lead root nowhere.
"""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent.config import read_agent_settings
from agent.enrolled import read_enrolled
from agent.heads import kept_heads
from agent.sensors.opcua.certificates import (
    MAX_CERTIFICATE_BYTES,
    application_uri,
    is_expired,
    parse_certificate,
    subject_of,
    thumbprint,
    utc_now,
)
from agent.sensors.opcua.trust import Entry, TrustList, is_authority
from agent.sensors.opcua.trust_store import (
    MAX_CRL_BYTES,
    Folder,
    discard,
    keep,
    keep_crl,
    parse_crl,
    pki_directory,
    read_trust_list,
)
from wire.audit_file import HeadsOpening, write_heads
from wire.errors import MalformedError, SettingsError
from wire.files import read_small, replace_file
from wire.settings import resolve

_THUMBPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_AGAIN = "a running agent uses this at its next attempt to connect; no restart is needed"


def add_trust(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `trust list`, `trust add` and `trust remove` to the command line."""
    trust = commands.add_parser(
        "trust",
        help="list and change which OPC UA servers are trusted",
        description="With a security policy, the agent talks only to OPC UA servers whose "
        "certificates are trusted. What it refused is kept, so that its thumbprint can be compared "
        "with the server's own and then be added.",
    )
    actions = trust.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("list", help="print the certificates: own, trusted, rejected")
    show.set_defaults(command=_list)
    add = actions.add_parser(
        "add",
        help="trust a server, or the CA of several servers",
        description="Trusts a certificate that was rejected, by its thumbprint, or one in a file "
        "(DER or PEM). A CA's certificate makes all servers trusted that it signed; its revocation "
        "list is added the same way.",
    )
    remove = actions.add_parser("remove", help="trust a server or a CA no longer")
    for action in (show, add, remove):
        action.add_argument("config", type=Path, help="the agent's TOML file")
    add.add_argument("what", metavar="THUMBPRINT|FILE", help="as `trust list` shows it, or a file")
    add.add_argument(
        "--issuer",
        action="store_true",
        help="only to complete chains of certificates: its servers are not trusted for it",
    )
    add.set_defaults(command=_add)
    remove.add_argument("thumbprint", metavar="THUMBPRINT", help="as `trust list` shows it")
    remove.set_defaults(command=_remove)
    heads = actions.add_parser(
        "heads",
        help="write the coordinator's last heads to a file, for journeyman audit compare",
        description="Writes the last heads that this agent accepted, as the coordinator signed "
        "them. Held against its exported audit log, together with those of other sites, they show "
        "whether it told all of you the same.",
    )
    heads.add_argument("config", type=Path, help="the agent's TOML file")
    heads.add_argument("--out", type=Path, required=True, help="the file; an old one is replaced")
    heads.set_defaults(command=_heads)


def _list(options: argparse.Namespace) -> int:
    with _pki(options.config) as pki:
        return _say(listing(pki, utc_now()))


def _add(options: argparse.Namespace) -> int:
    given = read_given(options.what)  # before root acts for the agent, who may not read the file
    with _pki(options.config) as pki:
        return _say(add_to_list(pki, given, utc_now(), is_issuer=options.issuer))


def _remove(options: argparse.Namespace) -> int:
    with _pki(options.config) as pki:
        return _say(remove_from_list(pki, options.thumbprint))


def _heads(options: argparse.Namespace) -> int:
    settings = read_agent_settings(options.config)
    trust, credential = read_enrolled(options.config, settings.trust)
    with as_owner(resolve(options.config, settings.agent.state_dir)) as directory:
        kept = kept_heads(directory / "models.db")
    stream = io.BytesIO()
    write_heads(stream, HeadsOpening(trust.federation, credential.agent, len(kept)), kept)
    replace_file(options.out, stream.getvalue())
    return _say(f"{options.out}: {len(kept)} heads that {credential.agent} accepted")


def _say(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return 0


@contextlib.contextmanager
def _pki(config: Path) -> Iterator[Path]:
    state = resolve(config, read_agent_settings(config).agent.state_dir)
    with as_owner(state) as directory:
        yield pki_directory(directory)


def listing(pki: Path, now: datetime) -> str:
    """The table of all certificates, and what is wrong with files that are none."""
    trust = read_trust_list(pki)
    rows = [_row(state, entry.certificate, now) for state, entry in _entries(pki, trust)]
    lines = _table([("STATE", "THUMBPRINT", "VALID UNTIL", "APPLICATION URI", "SUBJECT"), *rows])
    if not rows:
        lines = ["no certificates yet: they come with the first connection with a policy"]
    lines += [f"{len(trust.crls)} revocation lists"] if trust.crls else []
    for path, reason in trust.unreadable.items():
        lines.append(f"{path.parent.name}/{path.name} counts for nothing: {reason}")
    return "\n".join(lines)


def _entries(pki: Path, trust: TrustList) -> Iterator[tuple[str, Entry]]:
    for state, name in (("own", "certificate.der"), ("own, next", "next.der")):
        path = pki / "own" / name
        with contextlib.suppress(SettingsError, MalformedError):  # made anew by the agent
            data = read_small(path, MAX_CERTIFICATE_BYTES, "a certificate")
            yield state, Entry(path, parse_certificate(data))
    for state, entries in (
        ("trusted", trust.trusted),
        ("issuer", trust.issuers),
        ("rejected", trust.rejected),
    ):
        for entry in entries:
            is_ca = state == "trusted" and is_authority(entry.certificate)
            yield ("trusted CA" if is_ca else state), entry


def _row(state: str, certificate: x509.Certificate, now: datetime) -> tuple[str, ...]:
    end = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    if is_expired(certificate, now):
        end += " EXPIRED"
    uri = application_uri(certificate) or "-"
    return state, thumbprint(certificate), end, uri, subject_of(certificate)


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


Given = str | x509.Certificate | x509.CertificateRevocationList
"""What `trust add` takes: a thumbprint's digits, or what a file holds."""


def read_given(what: str) -> Given:
    """Tell a thumbprint from a file, and read the file.

    Raises:
      SettingsError: it is neither, or the file can not be used.
    """
    path, digits = Path(what), _digits(what)
    if digits is not None and not path.is_file():
        return digits
    if not path.exists():
        reason = "no such file, and not a thumbprint of 40 or 64 hexadecimal digits either"
        raise SettingsError(what, None, None, reason)
    data = read_small(path, MAX_CRL_BYTES, "a certificate or revocation list")
    try:
        return parse_certificate(data)
    except MalformedError as error:
        with contextlib.suppress(MalformedError):
            return parse_crl(data)
        raise SettingsError(what, None, None, str(error)) from None


def add_to_list(pki: Path, given: Given, now: datetime, *, is_issuer: bool) -> str:
    """Trust what was rejected under a thumbprint, or what a file held.

    Returns:
      What to tell the person at the terminal.

    Raises:
      SettingsError: nothing has this thumbprint, or it can not be kept.
    """
    if isinstance(given, x509.CertificateRevocationList):
        keep_crl(pki, given)
        return f"revocation list of {given.issuer.rfc4514_string()[:200]!r}: kept\n{_AGAIN}"
    certificate = _rejected(pki, given) if isinstance(given, str) else given
    if certificate is None:
        return f"{given} is trusted already"
    is_ca = is_authority(certificate)
    if is_issuer and not is_ca:
        reason = f"{thumbprint(certificate)} is not a CA's certificate: leave out --issuer"
        raise SettingsError(str(pki), None, None, reason)
    folder: Folder = "issuers" if is_issuer else "trusted"
    keep(pki, folder, certificate)
    said = f"{folder}: {thumbprint(certificate)} {subject_of(certificate)}\n{_AGAIN}"
    if is_ca and not is_issuer:
        said += "\nthis is a CA: every server that it signed is trusted now; server_uri in "
        said += "[source.opcua.security] holds a source to one of them"
    if is_expired(certificate, now):
        said += f"\nIT EXPIRED on {certificate.not_valid_after_utc:%Y-%m-%d}, so the agent refuses "
        said += "it all the same: renew it on the server, or set this gateway's clock"
    return said


def _rejected(pki: Path, digits: str) -> x509.Certificate | None:
    """The rejected certificate with this thumbprint; None when it is trusted already."""
    trust = read_trust_list(pki)
    found = _find(trust.rejected, digits)
    if found:
        return found[0].certificate
    if _find((*trust.trusted, *trust.issuers), digits):
        return None
    waiting = ", ".join(thumbprint(entry.certificate) for entry in trust.rejected)
    reason = f"no rejected certificate has thumbprint {digits}, but {waiting or 'none'}: let the "
    reason += "agent connect once, or give the certificate's file instead"
    raise SettingsError(str(pki / "rejected"), None, None, reason)


def remove_from_list(pki: Path, what: str) -> str:
    """Trust a certificate no longer; it is among the rejected then.

    Raises:
      SettingsError: nothing trusted has this thumbprint.
    """
    digits = _digits(what)
    if digits is None:
        reason = f"{what!r} is not a thumbprint of 40 or 64 hexadecimal digits"
        raise SettingsError(str(pki), None, None, reason)
    trust = read_trust_list(pki)
    there = (*trust.trusted, *trust.issuers)
    found = _find(there, digits)
    if not found:
        names = ", ".join(thumbprint(entry.certificate) for entry in there) or "none"
        reason = f"nothing trusted has thumbprint {digits}, but {names}"
        raise SettingsError(str(pki / "trusted"), None, None, reason)
    for entry in found:
        discard(entry)
    if not is_authority(found[0].certificate):
        keep(pki, "rejected", found[0].certificate)
    return (
        f"removed: {digits} {subject_of(found[0].certificate)}\nthe agent refuses it at its next "
        "attempt to connect; restart the agent to end a connection that is open now"
    )


def _digits(text: str) -> str | None:
    """A thumbprint as people paste it, with colons, blanks or small letters."""
    digits = re.sub(r"[\s:-]", "", text).upper()
    return digits if _THUMBPRINT.fullmatch(digits) else None


def _find(entries: Iterable[Entry], digits: str) -> list[Entry]:
    """All with this thumbprint, SHA-1 as in OPC UA or SHA-256 as in browsers."""
    return [
        entry
        for entry in entries
        if digits
        in (
            thumbprint(entry.certificate),
            entry.certificate.fingerprint(hashes.SHA256()).hex().upper(),
        )
    ]


@contextlib.contextmanager
def as_owner(state: Path) -> Iterator[Path]:
    """Act as the owner of a state directory while root works in it.

    With systemd's DynamicUser the directory is below one that only root may pass, so it is held
    open and reached by its descriptor.

    Args:
      state: the state directory; what is not there yet is made by whoever runs this.

    Yields:
      The path of the directory to use inside.
    """
    if os.geteuid() != 0 or not state.exists() or state.stat().st_uid == 0:
        yield state
        return
    owner, group = state.stat(), os.getegid()
    descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    inside = Path(f"/proc/self/fd/{descriptor}")
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield inside
    except SettingsError as error:
        shown = error.file.replace(str(inside), str(state))
        raise SettingsError(shown, error.line, error.key, error.reason) from None
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.close(descriptor)
