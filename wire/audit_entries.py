"""Entries of the coordinator's audit log: what it decided, one value each.

An entry is the MessagePack array of one of these structs, its tag first: `["head.1", ...]`.  The
number in the tag is the version of that kind; a change makes a new kind, and old logs stay
readable.  No entry holds a sensor reading, a label, a weight or a client update: agents, sites,
hashes, numbers of versions, privacy charges, the sites' pooled figures in the words of a decision.

What an entry is hashed as is its bytes, so there is one encoding for each: `decode_entry` refuses
unknown kinds, unknown fields, and bytes that `encode_entry` would not write.
"""

from typing import Annotated, Final, Literal

import msgspec

from wire.errors import MalformedError, TooLargeError
from wire.messages import (
    RENYI_ORDERS,
    Count,
    Digest,
    Incarnation,
    Name,
    NonNegative,
    Positive,
    PublicKey,
    Purpose,
    Spent,
    Text,
)

MAX_ENTRY_BYTES: Final = 2 << 20
"""A manifest of 10,000 reports has 0.5 MB."""
Seconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
"""Unix time by the coordinator's clock, which nobody else vouches for."""
Helper = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
InitialSource = Literal["bundle", "random", "file", "site"]
FirstStatus = Literal["committed", "refused", "dropped"]
LastStatus = Literal["folded", "refused", "void"]
Decided = Literal[
    "promoted", "kept back", "no quorum", "abandoned", "rolled back", "alarm threshold"
]


class Charge(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an agent's releases have cost so far; `Spent` as an array."""

    gaussian: NonNegative
    sampled: Annotated[tuple[NonNegative, ...], msgspec.Meta(max_length=RENYI_ORDERS)]
    releases: Count


class SettledUpdate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One update that got its outcome.

    Attributes:
      digest: SHA-256 of its content.
      coefficient: what it was multiplied with in the sum.
    """

    agent: Name
    incarnation: Incarnation
    sequence: Positive
    digest: Digest
    coefficient: Count


class SummedReport(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One masked report of a manifest, named by the SHA-256 of its envelope."""

    report: Digest
    coefficient: Positive
    bucket: Count


class SiteValue(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a site brings (`coordinator/contribution.py`), with one standard deviation."""

    site: Name
    value: float
    error: float
    versions: Count


class CharterNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="charter.1"
):
    """The charter that holds from here on, as the root signed it."""

    envelope: Annotated[bytes, msgspec.Meta(max_length=16_384)]
    at: Seconds


class EarlierNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="earlier.1"
):
    """This log begins in the middle: an older program made the decisions up to this version.

    Attributes:
      updates: with an outcome, which this log does not hold.
    """

    version: Count
    lineage: Count
    digest: Digest
    updates: Count


class InitialNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="initial.1"
):
    """Where the first weights come from.

    Attributes:
      source: `bundle`, `random`, `file` or `site`, as in `[initial]`.
      contributor: who, in words.
      digest: SHA-256 of the weights of version 0.
    """

    source: InitialSource
    contributor: Text
    digest: Digest


class AgentNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="agent.1"
):
    """A credential of the enrolment authority that an agent showed for the first time."""

    agent: Name
    site: Name
    public_key: PublicKey
    serial: Positive


class UpdateNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="update.1"
):
    """The first decision about an update; what was committed is settled later.

    Attributes:
      digest: SHA-256 of its content.
      spent: of its agent, with this update; None without differential privacy.
      report: SHA-256 of its signed header where a manifest names it; else empty.
    """

    agent: Name
    incarnation: Incarnation
    sequence: Positive
    digest: Digest
    base_version: Count
    status: FirstStatus
    reason: Text = ""
    spent: Charge | None = None
    report: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class SettledNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="settled.1"
):
    """Committed updates got their outcome, together.

    Attributes:
      version: into which they were folded; 0 for the others.
    """

    status: LastStatus
    reason: Text
    version: Count
    updates: tuple[SettledUpdate, ...]


class VersionNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="version.1"
):
    """A new version of the weights.

    Attributes:
      digest: SHA-256 of its safetensors file.
      members: updates in it; 0 for the first one and for one that begins a lineage.
    """

    version: Count
    lineage: Count
    digest: Digest
    members: Count
    at: Seconds


class ManifestNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="manifest.1"
):
    """A sum whose masks were released together.

    Attributes:
      digest: SHA-256 of the signed manifest.
      helpers: those who endorsed it, by name or by signing key in hexadecimal.
    """

    number: Positive
    epoch: Positive
    purpose: Purpose
    version: Count
    digest: Digest
    helpers: Annotated[tuple[Helper, ...], msgspec.Meta(max_length=3)]
    members: tuple[SummedReport, ...]
    at: Seconds


class DecisionNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="decision.1"
):
    """What became of a candidate, a rollback, or from which score on what is served alarms."""

    version: Count
    lineage: Count
    verdict: Decided
    reason: Text
    at: Seconds


class ContributionsNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="contributions.1"
):
    """What each site brings, with a version accounted for."""

    version: Count
    values: tuple[SiteValue, ...]


class HeadNoted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="head.1"
):
    """A head was signed; its `log` is the log before this entry.

    Attributes:
      digest: SHA-256 of the envelope.
    """

    recovery: Count
    sequence: Positive
    digest: Digest


Entry = (
    CharterNoted
    | EarlierNoted
    | InitialNoted
    | AgentNoted
    | UpdateNoted
    | SettledNoted
    | VersionNoted
    | ManifestNoted
    | DecisionNoted
    | ContributionsNoted
    | HeadNoted
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def encode_entry(entry: Entry) -> bytes:
    """The bytes that are hashed and kept.

    Raises:
      TooLargeError: more than an entry may have.
    """
    data = _ENCODER.encode(entry)
    _check_size(data)
    return data


def decode_entry(data: bytes) -> Entry:
    """Read what `encode_entry` wrote.

    Raises:
      TooLargeError: more bytes than an entry has.
      MalformedError: no entry, or not encoded as the coordinator encodes.
    """
    _check_size(data)
    try:
        entry = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise MalformedError(f"not an entry of an audit log: {error}") from None
    if _ENCODER.encode(entry) != data:
        raise MalformedError("an entry that is encoded in another way than the coordinator's")
    return entry


def charge_of(spent: Spent | None) -> Charge | None:
    """An update's charge as an entry holds it."""
    return None if spent is None else Charge(spent.gaussian, spent.sampled, spent.releases)


def spent_of(charge: Charge) -> Spent:
    """A charge as messages hold it."""
    return Spent(gaussian=charge.gaussian, sampled=charge.sampled, releases=charge.releases)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_ENTRY_BYTES:
        reason = f"an entry of {len(data)} bytes; at most {MAX_ENTRY_BYTES}"
        raise TooLargeError(reason)
