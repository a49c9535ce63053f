"""Releases: which masks a helper gives, against the endorsements of two.

Refuses what `wire/SECURE.md`, "Release", lists.  What is given is a function of the manifest, so
asking again tells nothing new.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.helper.office import Office
from wire.chunks import from_bitmap
from wire.codec import open_envelope, parse_body, unseal
from wire.errors import MalformedError, SignatureError, WireError
from wire.masking import Ring, Term
from wire.messages import MAX_CHUNKS, Endorsement, Manifest, Masks, Release
from wire.signing import PublicKey

logger = logging.getLogger(__name__)

_REASON = 300


@dataclass(frozen=True)
class Opening:
    """Masks that may be given.

    Attributes:
      release: what was asked.
      buckets: of each, in ascending order, what is summed.
      count: integers of a bucket.
    """

    release: Release
    buckets: tuple[tuple[Term, ...], ...] = field(repr=False)
    count: int
    ring: Ring

    @property
    def wanted(self) -> list[int]:
        """Chunks of the answer that are asked for; none: all."""
        return from_bitmap(self.release.wanted)


def release(office: Office, payload: bytes) -> Opening | Masks:
    """What has to be summed for an answer; or the answer that refuses.

    Raises:
      WireError: this is no `release` by the charter's coordinator.
    """
    message = office.by_coordinator(payload, Release)
    refusal = office.why_nothing() or _why_not(office, message)
    if refusal:
        return _no(message, refusal)
    envelope = office.store.manifest_envelope(message.manifest)
    if envelope is None:
        return _no(message, "this helper has not endorsed that manifest")
    # Its signature was checked when it was endorsed; the coordinator's key may be another by now.
    manifest = parse_body(open_envelope(envelope, "manifest"), Manifest)
    try:
        buckets = _terms(office, manifest, message.seeds)
    except MalformedError as error:
        return _no(message, str(error))
    size = len(buckets) * manifest.count * manifest.ring // 8
    if -(-size // message.chunk_bytes) > MAX_CHUNKS:
        return _no(message, f"{size} bytes are more than {MAX_CHUNKS} such chunks")
    return Opening(message, buckets, manifest.count, manifest.ring)


def _why_not(office: Office, message: Release) -> str:
    """Why these are not endorsements enough of this manifest; empty when they are."""
    if len(set(message.seeds)) < len(message.seeds):
        return "a seed is asked for twice"
    signed: list[str] = []
    for envelope in message.endorsements:
        try:
            endorsement, signer = _by_helper(office, envelope)
        except WireError as error:
            return f"an endorsement is none: {error}"
        if endorsement.manifest != message.manifest:
            return f"the endorsement of {signer} is of another manifest"
        if not endorsement.accepted:
            return f"{signer} did not endorse it: {endorsement.reason[:100]}"
        signed.append(signer)
    needed = office.trust.charter.endorsements
    if len(set(signed)) < max(needed, len(signed)):
        found = ", ".join(sorted(set(signed)))
        return f"endorsed by {found}: {needed} different helpers have to agree"
    return ""


def _by_helper(office: Office, envelope: bytes) -> tuple[Endorsement, str]:
    signer = open_envelope(envelope, "endorsement").signer
    federation = office.trust.federation
    for helper in office.trust.charter.helpers:
        if helper.name == signer:
            key = PublicKey(helper.signing)
            found = unseal(envelope, Endorsement, federation=federation, signer=signer, key=key)
            return found[0], signer
    raise SignatureError(f"the charter lists no helper {signer!r}")


def _terms(
    office: Office, manifest: Manifest, seeds: Sequence[int]
) -> tuple[tuple[Term, ...], ...]:
    """For each bucket the coefficients and seeds of its members.

    Raises:
      MalformedError: this helper has not, or no longer has, one of the seeds.
    """
    terms: dict[int, list[Term]] = {}
    for member in manifest.members:
        report = office.store.report(member.report)
        if report is None or report.seeds is None:
            raise MalformedError("the masks were given, and their seeds are forgotten")
        if not set(seeds) <= report.seeds.keys():
            held = " and ".join(map(str, sorted(report.seeds)))
            raise MalformedError(f"this helper holds seeds {held}, and no other")
        own = tuple(report.seeds[number] for number in seeds)
        terms.setdefault(member.bucket, []).append(Term(member.coefficient, own))
    return tuple(tuple(terms[bucket]) for bucket in sorted(terms))


def _no(message: Release, reason: str) -> Masks:
    logger.warning("no masks of manifest %s: %s", message.manifest.hex()[:16], reason)
    return Masks(manifest=message.manifest, seeds=message.seeds, reason=reason[:_REASON])
