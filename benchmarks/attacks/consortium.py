"""A federation with three helpers, for attackers to be its coordinator, a helper, or some agents.

Root, enrolment authority, credentials, headers, masks, stores and rules are the product's own; only
the links between them are function calls.  Whoever attacks takes the keys that its part would have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from agent.config import Identity
from agent.wrapping import wrap
from benchmarks.attacks.reports import FEDERATION, MASKED, Report, read, seeds_for
from coordinator.helper.endorsing import endorse
from coordinator.helper.examining import examine
from coordinator.helper.identity import OwnKeys
from coordinator.helper.office import Office
from coordinator.helper.releasing import Opening, release
from coordinator.helper.store import Store, make_store
from wire.charters import KeptCharter, sign_charter
from wire.chunks import describe, sha256
from wire.codec import open_envelope, parse_body, seal
from wire.masking import DTYPES, Seeds, Term, add_masked, masks_of, opened
from wire.messages import (
    HELPERS,
    Base,
    Charter,
    Credential,
    Endorsement,
    Examine,
    HelperKeys,
    Manifest,
    ManifestMember,
    Message,
    Release,
    UpdateHeader,
    Verdict,
)
from wire.sealing_keys import SealingKey
from wire.signing import PrivateKey
from wire.trust import COORDINATOR, ENROLMENT, read_charter

SeedNumbers = tuple[Literal[0, 1, 2], ...]
SITES = tuple(f"plant-{number}" for number in range(10))
K_MIN = 5
BASE = Base(version=1, digest=sha256(b"what was published as version 1"))


@dataclass
class Consortium:
    """Keys of everybody, helpers with their stores, and a counter for signatures.

    Attributes:
      directory: where the stores are.
    """

    directory: Path
    root: PrivateKey = field(default_factory=PrivateKey.generate)
    enrolment: PrivateKey = field(default_factory=PrivateKey.generate)
    coordinator: PrivateKey = field(default_factory=PrivateKey.generate)
    helper_keys: list[OwnKeys] = field(
        default_factory=lambda: [keys_of(f"helper-{at}") for at in range(HELPERS)]
    )
    _counter: int = 0

    def __post_init__(self) -> None:
        self.charter = Charter(
            federation=FEDERATION,
            epoch=1,
            enrolment_key=self.enrolment.public.raw,
            coordinator_key=self.coordinator.public.raw,
            author_keys=(PrivateKey.generate().public.raw,),
            helpers=tuple(keys.public for keys in self.helper_keys),
            k_min=K_MIN,
            sites=SITES,
        )
        self.trust = read_charter(sign_charter(self.charter, self.root), self.root.public)
        self.offices = [self._office(keys) for keys in self.helper_keys]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for office in self.offices:
            office.store.close()

    def restart(self, helper: int) -> None:
        """Close a helper's store and open it again."""
        self.offices[helper].store.close()
        self.offices[helper] = self._office(self.helper_keys[helper])

    def _office(self, keys: OwnKeys) -> Office:
        directory = self.directory / keys.public.name
        if not directory.exists():
            make_store(directory, keys.public)
        charter = KeptCharter(directory / "charter.jm", self.root.public, self.trust)
        return Office(Store(directory, keys.public), keys, charter)

    # Agents

    def identity(self, agent: str, site: str, by: PrivateKey | None = None) -> Identity:
        """An agent with a credential, signed by the enrolment authority or whoever plays it."""
        key = PrivateKey.generate()
        credential = Credential(agent=agent, site=site, public_key=key.public.raw, serial=1)
        envelope = seal(
            credential,
            federation=FEDERATION,
            signer=ENROLMENT,
            counter=1,
            key=by or self.enrolment,
        )
        return Identity(self.trust, credential, envelope, key)

    def report(
        self,
        identity: Identity,
        integers: NDArray[np.int64],
        *,
        weight: int = 1,
        base: Base = BASE,
        sequence: int = 1,
    ) -> Report:
        """What an agent sends: masked and sealed as the product does."""
        incarnation = sha256(identity.agent.encode()).hex()[:16]
        update = incarnation, sequence
        wrapped = wrap(integers, MASKED, identity, update, base.digest)
        header = UpdateHeader(
            agent=identity.agent,
            incarnation=incarnation,
            sequence=sequence,
            lineage=0,
            base_version=base.version,
            base_digest=base.digest,
            examples=weight,
            weight=weight,
            scale=MASKED.scale,
            bits=MASKED.bits,
            content=describe(wrapped.content),
            masked=wrapped.masked,
        )
        return self.signed(identity, header, wrapped.content)

    def signed(self, identity: Identity, header: UpdateHeader, content: bytes) -> Report:
        """A header of an agent's own making, under its signature."""
        envelope = self._seal(header, identity.agent, identity.key)
        return Report(envelope, content, identity.credential_envelope)

    # The coordinator's part

    def manifest(
        self,
        reports: Sequence[Report],
        coefficients: Sequence[int] | None = None,
        buckets: Sequence[int] | None = None,
    ) -> bytes:
        """A manifest of these reports, each counting what is said, or 1, in one bucket."""
        header = reports[0].header
        shares = coefficients or [1] * len(reports)
        members = tuple(
            ManifestMember(report=report.digest, coefficient=share, bucket=bucket)
            for report, share, bucket in zip(
                reports, shares, buckets or [0] * len(reports), strict=True
            )
        )
        plan = Manifest(
            number=self._counter + 1,
            epoch=1,
            version=max(report.header.base_version for report in reports),
            count=header.content.size // (MASKED.ring // 8),
            ring=MASKED.ring,
            scale=header.scale,
            bits=header.bits,
            weight_cap=1 << 20,
            members=members,
        )
        return self.says(plan)

    def says(self, message: Message) -> bytes:
        """Sign something as the coordinator."""
        return self._seal(message, COORDINATOR, self.coordinator)

    def verdicts(self, helper: int, reports: Sequence[Report], *bases: Base) -> list[Verdict]:
        """Show reports to a helper."""
        message = Examine(
            reports=tuple(report.envelope for report in reports),
            credentials=tuple({report.credential for report in reports}),
            bases=bases or (BASE,),
        )
        return list(examine(self.offices[helper], self.says(message)).items)

    def endorsement(self, helper: int, manifest: bytes) -> tuple[Endorsement, bytes]:
        """A helper's word about a manifest, and its envelope."""
        word = endorse(self.offices[helper], manifest)
        return word, self.endorsed_by(helper, word)

    def endorsed_by(self, helper: int, word: Endorsement) -> bytes:
        """An endorsement under a helper's signature."""
        keys = self.helper_keys[helper]
        return self._seal(word, keys.public.name, keys.signing)

    def masks(
        self,
        helper: int,
        manifest: bytes,
        endorsements: Sequence[bytes],
        seeds: SeedNumbers,
    ) -> bytes:
        """Masks that a helper gives; empty when it refuses."""
        first, second = endorsements
        message = Release(
            manifest=sha256(manifest),
            endorsements=(first, second),
            seeds=seeds,
            chunk_bytes=1 << 20,
        )
        answer = release(self.offices[helper], self.says(message))
        return b"".join(summed(answer)) if isinstance(answer, Opening) else b""

    def open_by_rules(
        self, reports: Sequence[Report], manifest: bytes, *bases: Base
    ) -> NDArray[np.int64] | None:
        """The sum, where two helpers play along; None where they do not."""
        words = []
        for helper in (0, 1):
            self.verdicts(helper, reports, *bases)
            word, envelope = self.endorsement(helper, manifest)
            if not word.accepted:
                return None
            words.append(envelope)
        parts = self.masks(0, manifest, words, (1, 2)), self.masks(1, manifest, words, (0,))
        return self.summed(reports, manifest, parts) if all(parts) else None

    def open_without_rules(self, reports: Sequence[Report], manifest: bytes) -> NDArray[np.int64]:
        """The sum that helpers would open who did whatever they are asked."""
        plan = parse_body(open_envelope(manifest, "manifest"), Manifest)
        masks = b""
        for bucket in sorted({member.bucket for member in plan.members}):
            terms = [
                Term(member.coefficient, tuple(self.all_seeds(report).values()))
                for report, member in zip(reports, plan.members, strict=True)
                if member.bucket == bucket
            ]
            masks += masks_of(terms, plan.count, plan.ring).tobytes()
        return self.summed(reports, manifest, [masks])

    def summed(
        self, reports: Sequence[Report], manifest: bytes, masks: Sequence[bytes]
    ) -> NDArray[np.int64]:
        """Sums of coefficient x integers with these masks taken off, bucket after bucket."""
        plan = parse_body(open_envelope(manifest, "manifest"), Manifest)
        filled = sorted({member.bucket for member in plan.members})
        totals = np.zeros((len(filled), plan.count), DTYPES[plan.ring])
        for report, member in zip(reports, plan.members, strict=True):
            total = totals[filled.index(member.bucket)]
            add_masked(total, report.content, member.coefficient, plan.ring)
        return opened(totals.ravel(), masks, plan.ring)

    # Collusion

    def all_seeds(self, report: Report, helpers: Sequence[int] = (0, 1, 2)) -> Seeds:
        """Seeds that these helpers' keys open."""
        found: Seeds = {}
        for helper in helpers:
            found |= seeds_for(report, self.helper_keys[helper].sealing)
        return found

    def held(self, report: Report, helpers: Sequence[int] = (2,)) -> NDArray[np.int64]:
        """A report as coordinator and these helpers can read it: missing masks stay on."""
        return read(report, self.all_seeds(report, helpers))

    def signed_by(self, signer: str, key: PrivateKey, message: Message) -> bytes:
        """Sign something in anybody's name."""
        return self._seal(message, signer, key)

    def _seal(self, message: Message, signer: str, key: PrivateKey) -> bytes:
        self._counter += 1
        return seal(message, federation=FEDERATION, signer=signer, counter=self._counter, key=key)


def summed(opening: Opening) -> list[bytes]:
    """What a helper that agreed sends, bucket after bucket."""
    return [masks_of(terms, opening.count, opening.ring).tobytes() for terms in opening.buckets]


def keys_of(name: str) -> OwnKeys:
    """New keys of a helper."""
    signing, sealing = PrivateKey.generate(), SealingKey.generate()
    public = HelperKeys(name=name, signing=signing.public.raw, sealing=sealing.public)
    return OwnKeys(signing, sealing, public)
