"""Endorsements: a helper promises reports to one manifest, and never to another.

Refuses what `wire/SECURE.md`, "Manifest and endorsement", lists.  The promise is durable before
`endorse` returns; the same manifest again gets the same answer.
"""

import logging
from collections.abc import Iterator, Sequence

from coordinator.helper.office import Office
from coordinator.helper.reports import lacking
from coordinator.helper.store import Accepted
from coordinator.secure.rules import problem_with_members
from wire.chunks import sha256
from wire.messages import MAX_CONTENT_BYTES, Endorsement, Manifest

logger = logging.getLogger(__name__)

_REASON = 300
_NAMED = 256
"""Members that one answer can name."""
Against = Iterator[tuple[str, Sequence[bytes]]]
"""Reasons to refuse, each with the members that are in the way."""


def endorse(office: Office, envelope: bytes) -> Endorsement:
    """Promise all members to this manifest and no other, or say why not.

    Raises:
      WireError: this is no manifest by the charter's coordinator.
    """
    manifest = office.by_coordinator(envelope, Manifest)
    digest, store = sha256(envelope), office.store
    refusal = office.why_nothing()
    if refusal:
        return _no(digest, refusal, ())
    number = store.endorsement(digest)
    if number is None:
        with store.transaction():
            reports = [member.report for member in manifest.members]
            known = [store.report(report) for report in reports]
            found = [each for each in known if each is not None]
            for reason, members in _against(office, manifest, found):
                return _no(digest, reason, members)
            number = store.promise(digest, envelope, reports)
        logger.info("manifest %s of %d reports: yes, %d", digest.hex()[:16], len(found), number)
    return Endorsement(manifest=digest, accepted=True, number=number)


def _against(office: Office, manifest: Manifest, found: Sequence[Accepted]) -> Against:
    charter = office.trust.charter
    if manifest.epoch != charter.epoch:
        yield f"made under charter {manifest.epoch}; this helper's is {charter.epoch}", ()
    held = {each.entry.report for each in found}
    missing = [member.report for member in manifest.members if member.report not in held]
    if missing:
        yield f"{len(missing)} members were not accepted by this helper", missing
    taken = [each.entry.report for each in found if each.manifest is not None]
    if taken:
        yield f"{len(taken)} members are in another manifest that was endorsed", taken
    yield from _unlike(manifest, found)
    yield from _in_two_places(found)
    yield from _size(manifest)
    entries = [each.entry for each in found]
    problem = problem_with_members(manifest, entries, charter.k_min, charter.sites)
    if problem:
        yield problem, ()


def _unlike(manifest: Manifest, found: Sequence[Accepted]) -> Against:
    """Members that are not what the manifest says of all of them."""
    names = ["purpose", "subject", "count", "ring", "scale"]
    names += ["bits", "lineage"] if manifest.purpose == "update" else []
    said = {name: getattr(manifest, name) for name in names}
    unlike = [each for each in found if lacking(each.shape, said)]
    if unlike:
        words = ", ".join(lacking(unlike[0].shape, said))
        reports = [each.entry.report for each in unlike]
        yield f"{len(unlike)} members are of another kind than the manifest: {words}", reports


def _in_two_places(found: Sequence[Accepted]) -> Against:
    """Members that do not go together although each is fine alone."""
    site_of: dict[str, str] = {}
    for each in found:
        agent, site = each.entry.agent, each.entry.site
        if site_of.setdefault(agent, site) != site:
            yield f"{agent} counts for two sites, {site_of[agent]} and {site}", [each.entry.report]
    others = [each for each in found if each.place != found[0].place]
    if others:
        # A charter that lists the helpers in another order: nobody holds one seed of all members.
        places = f"{found[0].place} and {others[0].place}"
        reports = [each.entry.report for each in others]
        yield f"members were sealed to this helper in two places, {places}", reports


def _size(manifest: Manifest) -> Against:
    buckets = len({member.bucket for member in manifest.members})
    if buckets > 1 and manifest.purpose != "update":
        yield "figures are summed in one bucket", ()
    size = buckets * manifest.count * manifest.ring // 8
    if size > MAX_CONTENT_BYTES:
        yield f"its masks would have {size} bytes; at most {MAX_CONTENT_BYTES}", ()


def _no(manifest: bytes, reason: str, members: Sequence[bytes]) -> Endorsement:
    logger.warning("manifest %s: no, %s", manifest.hex()[:16], reason)
    refused = tuple(members[:_NAMED])
    return Endorsement(manifest=manifest, accepted=False, reason=reason[:_REASON], refused=refused)
