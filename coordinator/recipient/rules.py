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
from wire.bfv import MOST_WEIGHT
from wire.encrypted import sealed_bytes
from wire.errors import MalformedError, SignatureError
from wire.messages import Charter, Credential, Manifest, UpdateHeader

IsRevoked = Callable[[Credential], bool]


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
    bases: dict[int, bytes] = {}
    for each in members:
        header = _checked(manifest, each, charter)
        if is_revoked(each.credential):
            raise SignatureError(
                f"credential {each.credential.serial} of {header.agent} is revoked"
            )
        if bases.setdefault(header.base_version, header.base_digest) != header.base_digest:
            raise MalformedError(f"members know two versions {header.base_version}")
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


def _checked(manifest: Manifest, shown: Shown, charter: Charter) -> UpdateHeader:
    header = shown.header
    if not isinstance(header, UpdateHeader):
        raise MalformedError("a member is no update")
    whose = f"update {header.incarnation}/{header.sequence} of {header.agent}"
    if charter.recipient is None or header.encrypted != charter.recipient.context:
        raise MalformedError(f"{whose} is not encrypted for the charter's recipient")
    if header.dropped or header.kept or header.masked is not None:
        raise MalformedError(f"{whose} is a tombstone, sparse or masked")
    said = (manifest.lineage, manifest.scale, manifest.bits, sealed_bytes(manifest.count))
    if (header.lineage, header.scale, header.bits, header.content.size) != said:
        raise MalformedError(f"{whose} is of another kind than the sum")
    return header


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
