"""One report that the coordinator shows: what its agent signed, and whether this helper takes it.

Pure.  Everything is read from the signed header and from credentials under the charter's enrolment
key; nothing that the coordinator says about a report is believed.  Refuses with `WireError`, whose
words go into the verdict.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from coordinator.helper.store import Accepted, Shape
from coordinator.secure.rules import Entry
from wire.chunks import sha256
from wire.codec import Opened, open_envelope, parse_body
from wire.errors import MalformedError, SignatureError, WireError
from wire.masking import name_of, open_seeds
from wire.messages import HELPERS, Credential, FiguresHeader, Masked, UpdateHeader
from wire.signing import PublicKey
from wire.trust import Trust, read_credential

Header = UpdateHeader | FiguresHeader
Credentials = tuple[list[Credential], str]
"""Those that the enrolment key signed; and why another one is none, in parentheses."""
_FIGURES_RING = 64


@dataclass(frozen=True)
class Shown:
    """A report whose signature was checked.

    Attributes:
      report: SHA-256 of its envelope.
      credential: of its agent.
    """

    report: bytes
    header: Header
    credential: Credential

    @property
    def name(self) -> str:
        """What it is among its agent's reports."""
        return name_of(self.header)[1]


def read_credentials(envelopes: Iterable[bytes], trust: Trust) -> Credentials:
    """Verify what came with the reports."""
    found: list[Credential] = []
    problem = ""
    for envelope in envelopes:
        try:
            found.append(read_credential(envelope, trust))
        except WireError as error:
            problem = f" ({error})"
    return found, problem


def read_shown(envelope: bytes, credentials: Credentials, federation: str) -> Shown:
    """Parse a report and verify that its agent signed it.

    Args:
      envelope: of kind `update` or `figures`.
      credentials: what `read_credentials` found.
      federation: of the charter.

    Raises:
      WireError: malformed, not signed, or by an agent without a credential.
    """
    opened, header = _parsed(envelope)
    if opened.signer != header.agent:
        raise SignatureError(f"a report of {header.agent} is signed by {opened.signer}")
    known, problem = credentials
    candidates = [each for each in known if each.agent == header.agent]
    if not candidates:
        reason = f"no credential of {header.agent} by the charter's enrolment key came with it"
        raise SignatureError(reason + problem)
    for credential in candidates:
        try:
            opened.verify(federation, PublicKey(credential.public_key))
        except SignatureError:
            continue
        return Shown(sha256(envelope), header, credential)
    raise SignatureError(f"the key in the credential of {header.agent} did not sign the report")


def _parsed(envelope: bytes) -> tuple[Opened, Header]:
    if b"figures" in envelope[:16]:  # the kind stands there; the signature covers it
        opened = open_envelope(envelope, "figures")
        return opened, parse_body(opened, FiguresHeader)
    opened = open_envelope(envelope, "update")
    return opened, parse_body(opened, UpdateHeader)


def shape_of(header: Header) -> tuple[Shape, Masked, bytes]:
    """What a report has to have in common with others, how it is masked, digest of its vector.

    Raises:
      MalformedError: it is nothing that can be in a masked sum.
    """
    if isinstance(header, FiguresHeader):
        if header.masked.ring != _FIGURES_RING:
            raise MalformedError(f"figures have a ring of {_FIGURES_RING} bits")
        shape = Shape(header.purpose, header.subject, 0, header.count, _FIGURES_RING, 1.0, 0)
        return shape, header.masked, header.digest
    masked = header.masked
    if masked is None:
        raise MalformedError("the update is not masked")
    if header.dropped or header.kept or header.encrypted:
        reason = "a masked update is whole: no tombstone, not sparse, not encrypted as well"
        raise MalformedError(reason)
    width = masked.ring // 8
    if masked.ring == _FIGURES_RING or header.content.size % width:
        size = header.content.size
        reason = f"{size} bytes are no vector of an update in a ring of {masked.ring} bits"
        raise MalformedError(reason)
    shape = Shape(
        "update",
        bytes(32),
        header.lineage,
        header.content.size // width,
        masked.ring,
        header.scale,
        header.bits,
    )
    return shape, masked, header.content.digest


def opened_report(shown: Shown, sealing_key: bytes, federation: str) -> Accepted:
    """Open a report's box; what comes out may be accepted.

    Args:
      shown: the report.
      sealing_key: this helper's X25519 private key.
      federation: of the charter.

    Raises:
      MalformedError: it is not masked, no box opens for exactly this report, or the seeds are not
        the committed ones.
    """
    header = shown.header
    shape, masked, digest = shape_of(header)
    agent, name = name_of(header)
    seeds = open_seeds(
        masked, sealing_key, federation=federation, name=(agent, name), digest=digest
    )
    (place,) = set(range(HELPERS)) - seeds.keys()
    entry = Entry(shown.report, agent, shown.credential.site)
    if isinstance(header, UpdateHeader):
        entry = replace(entry, weight=header.weight, base_version=header.base_version)
    return Accepted(entry, name, shape, place, seeds)


def lacking(shape: Shape, others: Mapping[str, object]) -> list[str]:
    """What of a sum's description is not a report's own: `ring 16, not 32`."""
    return [
        f"{name} {_shown(getattr(shape, name))}, not {_shown(other)}"
        for name, other in others.items()
        if getattr(shape, name) != other
    ]


def _shown(value: object) -> str:
    return f"{value.hex()[:16]}…" if isinstance(value, bytes) else str(value)
