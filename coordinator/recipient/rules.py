"""Which sums the recipient decrypts.

Pure.  What counts is what agents signed and what the enrolment authority says of them; of the
coordinator nothing is believed but that it wants this sum.  Refuses, with `WireError`:

- members that are not encrypted with this recipient's key, or of another kind than the sum;
- members that are missing, twice there, or of two bases under one number;
- fewer effective sites than the charter's `k_min`, and coefficients that are not what weight and
  staleness make them (`coordinator/secure/rules.py`, the rules of masked sums);
- weights beyond what one encrypted sum holds;
- a decrypted number that members with integers of `bits` can not add up to: then what was
  decrypted is not that sum, and saying it could tell something about the key or one member.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.helper.reports import Shown
from coordinator.secure.encrypted import RING
from coordinator.secure.rules import Entry, problem_with_members
from coordinator.secure.sums import filled_buckets
from wire.bfv import MOST_WEIGHT, encrypted_bytes
from wire.encrypted import sealed_bytes
from wire.errors import MalformedError, SignatureError, WireError
from wire.messages import (
    MAX_CONTENT_BYTES,
    Charter,
    Credential,
    Manifest,
    UpdateHeader,
)

IsRevoked = Callable[[Credential], bool]


class UnfitMembersError(MalformedError):
    """Members that are in no sum with the others.

    Attributes:
      reports: SHA-256 of their headers' envelopes.
    """

    def __init__(self, reports: Sequence[bytes], reason: str) -> None:
        self.reports = tuple(reports)
        super().__init__(reason)


def members_of(manifest: Manifest, shown: Sequence[Shown]) -> list[Shown]:
    """The members of a manifest, in its order.

    Raises:
      MalformedError: one was not shown.
    """
    by_report = {each.report: each for each in shown}
    missing = [each.report for each in manifest.members if each.report not in by_report]
    if missing:
        raise MalformedError(f"{len(missing)} of {len(manifest.members)} members were not shown")
    return [by_report[each.report] for each in manifest.members]


def check_members(
    manifest: Manifest, members: Sequence[Shown], charter: Charter, is_revoked: IsRevoked
) -> None:
    """Raise `WireError` unless these members make a sum that may be decrypted.

    Args:
      manifest: by the charter's coordinator.
      members: whose signatures were checked, in the manifest's order.
      charter: names this recipient.
      is_revoked: by the enrolment authority's list.
    """
    if manifest.epoch != charter.epoch:
        raise MalformedError(f"made under charter {manifest.epoch}; mine is {charter.epoch}")
    if manifest.purpose != "update" or manifest.ring != RING:
        raise MalformedError(f"only updates are decrypted, in sums of {RING} bits")
    if encrypted_bytes(manifest.count) * len(filled_buckets(manifest)) > MAX_CONTENT_BYTES:
        raise MalformedError(f"its ciphertexts would have more than {MAX_CONTENT_BYTES} bytes")
    bases: dict[int, bytes] = {}
    for each in members:
        try:
            _check_member(manifest, each, charter, bases)
            if is_revoked(each.credential):
                raise SignatureError(f"its credential {each.credential.serial} is revoked")
        except WireError as error:
            whose = f"{each.name} of {each.credential.agent}"
            raise UnfitMembersError([each.report], f"{whose}: {error}") from None
    entries = [_entry(each) for each in members]
    problem = problem_with_members(manifest, entries, charter.k_min, charter.sites)
    problem = problem or _overweight(manifest)
    if problem:
        raise MalformedError(problem)


def check_sums(manifest: Manifest, sums: NDArray[np.int64]) -> None:
    """Raise `MalformedError` unless honest members could have added up to these.

    Args:
      manifest: of the sums.
      sums: int64 (buckets, count), in ascending order of the buckets.
    """
    weights = _weights(manifest)
    for bucket, row in zip(filled_buckets(manifest), sums, strict=True):
        most = weights[bucket] << (manifest.bits - 1)
        if (np.abs(row) > most).any():
            raise MalformedError(f"what decrypts is no sum of integers of {manifest.bits} bits")


def _check_member(
    manifest: Manifest, shown: Shown, charter: Charter, bases: dict[int, bytes]
) -> None:
    """Raise `WireError` unless a member is of the sum's kind; `bases` are those seen so far."""
    header = shown.header
    if not isinstance(header, UpdateHeader):
        raise MalformedError("it is no update")
    if charter.recipient is None or header.encrypted != charter.recipient.context:
        raise MalformedError("it is not encrypted for the charter's recipient")
    if header.dropped or header.kept or header.masked is not None:
        raise MalformedError("it is a tombstone, sparse or masked")
    said = (manifest.lineage, manifest.scale, manifest.bits, sealed_bytes(manifest.count))
    if (header.lineage, header.scale, header.bits, header.content.size) != said:
        raise MalformedError("it is of another kind than the sum")
    if bases.setdefault(header.base_version, header.base_digest) != header.base_digest:
        raise MalformedError(f"others know another version {header.base_version}")
    site = shown.credential.site
    if charter.sites and site not in charter.sites:
        raise MalformedError(f"site {site} is not one of the charter's")


def _entry(shown: Shown) -> Entry:
    header, site = shown.header, shown.credential.site
    if not isinstance(header, UpdateHeader):
        raise MalformedError("a member is no update")
    return Entry(shown.report, header.agent, site, header.weight, header.base_version)


def _weights(manifest: Manifest) -> Counter[int]:
    """Sum of coefficients by bucket."""
    weights = Counter[int]()
    for member in manifest.members:
        weights[member.bucket] += member.coefficient
    return weights


def _overweight(manifest: Manifest) -> str:
    heaviest = max(_weights(manifest).values())
    if heaviest <= MOST_WEIGHT:
        return ""
    return f"coefficients add up to {heaviest}; an encrypted sum holds {MOST_WEIGHT}"
