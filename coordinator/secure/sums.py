"""What becomes of masked reports: which sum they enter, and what opens it.

    take ─► (verdicts of the helpers) ─► propose: one final manifest ─► (endorsements) ─► opened
               └► refused by two: lost            └► can not be endorsed: void, or free again

Decides, and keeps what was decided (`rows.py`), inside the caller's transaction; talks to nobody:
`exchange.py` does.  A manifest is stored before anybody sees it and never changes after, because
the helpers open each report for one manifest only.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.secure.rows import Opinion, Sealed, SecureRows, agreed, is_lost
from coordinator.secure.rules import Entry, assigned, coefficients
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body, seal
from wire.errors import MalformedError
from wire.masking import DTYPES, add_masked, opened
from wire.messages import (
    HELPERS,
    Charter,
    Endorsement,
    HelperKeys,
    Manifest,
    ManifestMember,
    Masked,
    Purpose,
    Verdict,
)
from wire.signing import PrivateKey
from wire.trust import COORDINATOR

logger = logging.getLogger(__name__)

_OTHER_ORDER = "its boxes are not in the order of the charter's helpers"
Ready = Callable[[list[Sealed]], bool]
"""Whether these reports, in order of arrival, are enough for a sum now."""


@dataclass(frozen=True)
class Terms:
    """What a new manifest says beside its members.

    Attributes:
      version: newest version; staleness is counted from it.
      weight_cap, staleness_cap, staleness_floor, is_damped: see `Manifest`.
      buckets: sums that are compared, where there are sites enough.
      most: reports that fit the ring.
    """

    version: int
    weight_cap: int = 1
    staleness_cap: int = 0
    staleness_floor: int = 1
    is_damped: bool = False
    buckets: int = 1
    most: int = 1 << 30


@dataclass(frozen=True)
class Opened:
    """A sum that two helpers opened.

    Attributes:
      manifest: what it is a sum of.
      members: the reports, in the manifest's order.
      sums: int64, shape (buckets, count), each bucket's sum of coefficient x integers.
    """

    manifest: Manifest
    members: list[Sealed]
    sums: NDArray[np.int64]


class Sums:
    """Decides about masked reports.

    Attributes:
      online: signing keys (hexadecimal) of the helpers that can be asked now.
    """

    def __init__(self, rows: SecureRows, charter: Charter, key: PrivateKey) -> None:
        self.rows, self._charter, self._key = rows, charter, key
        self.online: frozenset[str] = frozenset()

    @property
    def needed(self) -> int:
        """Helpers that have to endorse a sum."""
        return self._charter.endorsements

    @property
    def helpers(self) -> dict[str, HelperKeys]:
        """The charter's helpers by their signing key, hexadecimal."""
        return {helper.signing.hex(): helper for helper in self._charter.helpers}

    # Verdicts

    def take_verdicts(self, helper: str, verdicts: Sequence[Verdict]) -> list[tuple[Sealed, str]]:
        """Note a helper's verdicts; return the reports that can never be opened now, and why."""
        refused = set()
        for verdict in verdicts:
            is_in_place = list(self.helpers).index(helper) == verdict.number
            reason = verdict.reason or ("" if is_in_place else _OTHER_ORDER)
            opinion = Opinion(helper, verdict.accepted and is_in_place, verdict.number, reason)
            self.rows.judge(verdict.report, opinion)
            if not opinion.accepted:
                refused.add(verdict.report)
                name = self.helpers[helper].name
                logger.warning("helper %s refuses a report: %.200s", name, reason)
        return self._lost(refused)

    def _lost(self, among: set[bytes]) -> list[tuple[Sealed, str]]:
        if not among:
            return []
        found = []
        for purpose in ("update", "evaluation", "statistics"):
            opinions = self._opinions(purpose)
            for sealed in self.rows.free(purpose):
                heard = opinions.get(sealed.report, [])
                if sealed.report in among and is_lost(heard, self.needed):
                    words = {each.reason for each in heard if not each.accepted}
                    found.append((sealed, "; ".join(sorted(words))))
        self.rows.forget([sealed.report for sealed, _ in found])
        return found

    def _opinions(self, purpose: Purpose) -> dict[bytes, list[Opinion]]:
        """Of the charter's present helpers only."""
        known = self.helpers
        return {
            report: [each for each in opinions if each.helper in known]
            for report, opinions in self.rows.opinions(purpose).items()
        }

    # Manifests

    def propose(self, purpose: Purpose, terms: Terms, is_ready: Ready) -> bool:
        """Decide on a sum of reports that enough helpers accepted, if there is one; whether."""
        free = self.rows.free(purpose)
        if not free:
            return False
        opinions = self._opinions(purpose)
        accepted = {each.report: agreed(opinions.get(each.report, [])) for each in free}
        for pair in itertools.combinations(sorted(self.online & self.helpers.keys()), self.needed):
            groups: dict[tuple[object, ...], list[Sealed]] = {}
            for sealed in free:
                by = accepted[sealed.report]
                if by.keys() >= set(pair):
                    alike = (*sealed.kind, *(by[helper] for helper in pair))
                    groups.setdefault(alike, []).append(sealed)
            for group in groups.values():
                for chosen in choices(group, terms.most):
                    if is_ready(chosen) and self._decide(purpose, terms, chosen):
                        return True
        return False

    def _decide(self, purpose: Purpose, terms: Terms, chosen: list[Sealed]) -> bool:
        manifest = planned(self._charter, self.rows.next_number(), purpose, terms, chosen)
        if manifest is None:
            return False
        envelope = seal(
            manifest,
            federation=self._charter.federation,
            signer=COORDINATOR,
            counter=manifest.number,
            key=self._key,
        )
        reports = [each.report for each in chosen]
        self.rows.decide(sha256(envelope), manifest.number, purpose, envelope, reports)
        sites = len({each.site for each in chosen})
        number = manifest.number
        logger.info("manifest %d: %d reports (%s) of %d sites", number, len(chosen), purpose, sites)
        return True

    # Endorsements

    def take_endorsement(
        self, helper: str, endorsement: Endorsement, envelope: bytes
    ) -> list[tuple[Sealed, str]]:
        """Note a helper's word; return the reports that can never be opened now, and why.

        A helper that knows members in another manifest will never endorse this one.  When so many
        say so that too few are left, those members are lost; the others are free for another one.
        """
        digest = endorsement.manifest
        self.rows.endorse(digest, helper, envelope, accepted=endorsement.accepted)
        if endorsement.accepted:
            return []
        name = self.helpers[helper].name
        logger.warning("helper %s does not endorse a manifest: %.300s", name, endorsement.reason)
        refusals = [
            parse_body(open_envelope(word, "endorsement"), Endorsement)
            for yes, word in self.rows.endorsements(digest).values()
            if not yes
        ]
        final = [set(each.refused) for each in refusals if each.refused]
        if len(final) <= HELPERS - self.needed:
            return []
        in_the_way = set.union(*final)
        members = self.rows.members(digest)
        lost = [each for each in members if each.report in in_the_way]
        self.rows.close(digest, "void")
        self.rows.set_free(digest)
        self.rows.forget([each.report for each in lost])
        return [(each, f"helpers will not open it: {endorsement.reason}") for each in lost]

    # Opening

    def manifest(self, digest: bytes) -> Manifest | None:
        """A manifest that is decided and not opened."""
        for known, envelope in self.rows.undecided():
            if known == digest:
                return parse_body(open_envelope(envelope, "manifest"), Manifest)
        return None

    def open(self, digest: bytes, masks: Sequence[bytes]) -> Opened:
        """Take the helpers' masks off the sums of a manifest, and close it.

        Raises:
          MalformedError: there is no such manifest, or the masks do not fit it.
        """
        manifest = self.manifest(digest)
        if manifest is None:
            raise MalformedError("masks for a manifest that is not waiting for any")
        by_report = {each.report: each for each in self.rows.members(digest)}
        members = [by_report[member.report] for member in manifest.members]
        shares = {member.report: member for member in manifest.members}
        places = {bucket: at for at, bucket in enumerate(filled_buckets(manifest))}
        totals = np.zeros((len(places), manifest.count), DTYPES[manifest.ring])
        for report, content in self.rows.contents(list(shares)):
            member = shares[report]
            add_masked(totals[places[member.bucket]], content, member.coefficient, manifest.ring)
        sums = opened(totals.ravel(), masks, manifest.ring).reshape(totals.shape)
        self.rows.close(digest, "opened")
        return Opened(manifest, members, sums)


def planned(
    charter: Charter, number: int, purpose: Purpose, terms: Terms, chosen: Sequence[Sealed]
) -> Manifest | None:
    """The manifest of these reports, all of one kind; None where they are no sum.

    Args:
      charter: for its `k_min` and epoch.
      number: the manifest's.
      purpose: of the reports.
      terms: what the manifest says beside its members.
      chosen: at least one report.
    """
    k_min, first = charter.k_min, chosen[0]
    buckets = assigned([each.site for each in chosen], terms.buckets, k_min)
    if buckets is None:
        return None
    plan = Manifest(
        number=number,
        epoch=charter.epoch,
        purpose=purpose,
        subject=first.subject,
        lineage=first.lineage,
        version=terms.version,
        count=first.count,
        ring=first.ring,  # type: ignore[arg-type]  # as its header said, which was checked
        scale=first.scale,
        bits=first.bits,
        weight_cap=terms.weight_cap,
        staleness_cap=terms.staleness_cap,
        staleness_floor=terms.staleness_floor,
        is_damped=terms.is_damped,
        members=tuple(
            ManifestMember(report=each.report, coefficient=1, bucket=bucket)
            for each, bucket in zip(chosen, buckets, strict=True)
        ),
    )
    shares = coefficients(plan, [entry_of(each) for each in chosen], buckets, k_min)
    if shares is None:
        return None
    members = tuple(
        ManifestMember(report=each.report, coefficient=share, bucket=each.bucket)
        for each, share in zip(plan.members, shares, strict=True)
    )
    return msgspec.structs.replace(plan, members=members)


def choices(group: list[Sealed], most: int) -> Iterator[list[Sealed]]:
    """Which of these reports to sum, the largest sum first.

    Sites take turns, each with its oldest report first: a sum of many reports of few sites may not
    be opened (`rules.py`), and must not keep those of other sites waiting.

    Args:
      group: in order of arrival.
      most: reports that one sum can hold.
    """
    turns: list[list[Sealed]] = []
    had = Counter[str]()
    for sealed in group:
        turn = had[sealed.site]
        had[sealed.site] += 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(sealed)
    for number in range(len(turns), 0, -1):
        yield [sealed for turn in turns[:number] for sealed in turn][:most]


def filled_buckets(manifest: Manifest) -> list[int]:
    """Numbers of the buckets that have members, ascending."""
    return sorted({member.bucket for member in manifest.members})


def entry_of(sealed: Sealed) -> Entry:
    """What the rules of sums need to know of a report."""
    return Entry(sealed.report, sealed.agent, sealed.site, sealed.weight, sealed.base_version)


def check_masked(masked: Masked | None, ring: int) -> str:
    """Why a report is not masked as the policy asks; empty when it is."""
    if masked is None:
        return "the policy asks for masked updates"
    if masked.ring != ring:
        return f"masked in a ring of {masked.ring} bits, the policy's has {ring}"
    return ""
