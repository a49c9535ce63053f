"""Agents, a coordinator and three helpers that say to each other what wire/SECURE.md says.

Whatever a test wants to be wrong is given as an argument; everything else is as it should be, and
signed by whom it should be signed.
"""

import asyncio
import functools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.helper.config import CHARTER
from coordinator.helper.endorsing import endorse
from coordinator.helper.examining import examine
from coordinator.helper.identity import OwnKeys, make_helper, read_keys
from coordinator.helper.office import Office
from coordinator.helper.releasing import Opening, release
from coordinator.helper.store import Store, make_store
from coordinator.helper.summing import Answers
from coordinator.secure.rules import Entry, coefficients
from wire.charters import KeptCharter, sign_charter
from wire.chunks import describe, sha256
from wire.codec import Counter, seal
from wire.masking import add_masked, mask, opened, seal_seeds
from wire.messages import (
    Base,
    Charter,
    Credential,
    Endorsement,
    Examine,
    FiguresHeader,
    Manifest,
    ManifestMember,
    Masks,
    Message,
    Release,
    UpdateHeader,
    Verdict,
)
from wire.signing import PrivateKey
from wire.trust import read_charter
from wire.waiting import no_beat

FEDERATION = "plant-net"
INCARNATION = "00112233445566ff"
BASE = Base(version=7, digest=bytes([7] * 32))
NAMES = ("notary", "union", "insurer")
SITES = ("north", "south", "east", "west", "hill")


@functools.cache
def made_once() -> "tempfile.TemporaryDirectory[str]":
    """Keys and empty stores, to be copied: making them waits for the disk a dozen times."""
    made = tempfile.TemporaryDirectory(prefix="journeyman-helpers-")
    for name in NAMES:
        folder = Path(made.name) / name
        make_store(folder, make_helper(folder, name))
    return made


@dataclass(frozen=True)
class Gateway:
    """An agent with its credential."""

    name: str
    key: PrivateKey
    credential: bytes
    site: str


@dataclass(frozen=True)
class Report:
    """A signed header and the masked vector that only the coordinator has."""

    gateway: Gateway
    envelope: bytes
    vector: bytes
    integers: NDArray[np.int64]
    entry: Entry
    header: UpdateHeader | FiguresHeader

    @property
    def digest(self) -> bytes:
        return sha256(self.envelope)


@dataclass
class Trial:
    """The federation; helpers' folders are below `directory`."""

    directory: Path
    k_min: int = 3
    root: PrivateKey = field(default_factory=PrivateKey.generate)
    enrolment: PrivateKey = field(default_factory=PrivateKey.generate)
    coordinator: PrivateKey = field(default_factory=PrivateKey.generate)

    def __post_init__(self) -> None:
        self.counter = Counter(1)
        self.keys: dict[str, OwnKeys] = {}
        self.offices: dict[str, Office] = {}
        for name in NAMES:
            folder = self.directory / name
            shutil.copytree(Path(made_once().name) / name, folder)
            files = (folder / f"{name}.signing.key", folder / f"{name}.sealing.key")
            self.keys[name] = read_keys(name, *files)
        self.charter = Charter(
            federation=FEDERATION,
            epoch=1,
            enrolment_key=self.enrolment.public.raw,
            coordinator_key=self.coordinator.public.raw,
            author_keys=(PrivateKey.generate().public.raw,),
            helpers=tuple(self.keys[name].public for name in NAMES),
            k_min=self.k_min,
        )
        for name in NAMES:
            self.offices[name] = self.open(name)

    @property
    def charter_envelope(self) -> bytes:
        return sign_charter(self.charter, self.root)

    def open(self, name: str, folder: Path | None = None) -> Office:
        """The helper as after a start."""
        folder = folder or self.directory / name
        trust = read_charter(self.charter_envelope, self.root.public)
        store = Store(folder, self.keys[name].public)
        kept = KeptCharter(folder / CHARTER, self.root.public, trust)
        return Office(store, self.keys[name], kept)

    def restart(self, name: str) -> Office:
        """End a helper and start it again on its folder."""
        self.offices[name].store.close()
        self.offices[name] = self.open(name)
        return self.offices[name]

    def close(self) -> None:
        for office in self.offices.values():
            office.store.close()

    # Agents

    def gateway(self, name: str, site: str, serial: int = 1) -> Gateway:
        key = PrivateKey.generate()
        said = Credential(agent=name, site=site, public_key=key.public.raw, serial=serial)
        return Gateway(name, key, self.sealed_as(said, "enrolment", self.enrolment), site)

    def update(
        self,
        gateway: Gateway,
        integers: Sequence[int] | NDArray[Any] = (1, -2, 3),
        *,
        sequence: int = 1,
        weight: int = 10,
        ring: Any = 32,
        **others: Any,
    ) -> Report:
        values = np.asarray(integers, np.int64)
        vector, seeds = mask(values, ring)
        header = UpdateHeader(
            agent=gateway.name,
            incarnation=INCARNATION,
            sequence=sequence,
            lineage=0,
            base_version=BASE.version,
            base_digest=BASE.digest,
            examples=weight,
            weight=weight,
            scale=0.01,
            bits=8,
            content=describe(vector),
            masked=seal_seeds(
                seeds,
                ring,
                [helper.sealing for helper in self.charter.helpers],
                federation=FEDERATION,
                name=(gateway.name, f"{INCARNATION}/{sequence}"),
                digest=sha256(vector),
            ),
        )
        return self.signed(gateway, msgspec.structs.replace(header, **others), vector, values)

    def figures(
        self, gateway: Gateway, integers: Sequence[int] = (5, 6), subject: bytes = bytes(32)
    ) -> Report:
        values = np.asarray(integers, np.int64)
        vector, seeds = mask(values, 64)
        header = FiguresHeader(
            agent=gateway.name,
            purpose="evaluation",
            subject=subject,
            count=len(values),
            digest=sha256(vector),
            masked=seal_seeds(
                seeds,
                64,
                [helper.sealing for helper in self.charter.helpers],
                federation=FEDERATION,
                name=(gateway.name, f"evaluation/{subject.hex()}"),
                digest=sha256(vector),
            ),
        )
        return self.signed(gateway, header, vector, values)

    def signed(
        self,
        gateway: Gateway,
        header: UpdateHeader | FiguresHeader,
        vector: bytes = b"",
        integers: Any = (),
    ) -> Report:
        """Sign a header, whatever it says."""
        envelope = self.sealed_as(header, gateway.name, gateway.key)
        entry = Entry(sha256(envelope), gateway.name, gateway.site)
        if isinstance(header, UpdateHeader):
            entry = Entry(entry.report, entry.agent, entry.site, header.weight, header.base_version)
        return Report(gateway, envelope, vector, np.asarray(integers, np.int64), entry, header)

    def five(self, **others: Any) -> list[Report]:
        """One update from each of five sites."""
        return [self.update(self.gateway(f"press-{site}", site), **others) for site in SITES]

    # The coordinator

    def say(self, message: Message, key: PrivateKey | None = None) -> bytes:
        return self.sealed_as(message, "coordinator", key or self.coordinator)

    def show(
        self, name: str, reports: Sequence[Report], bases: Sequence[Base] = (BASE,)
    ) -> list[Verdict]:
        """A helper's verdicts of reports."""
        message = Examine(
            reports=tuple(report.envelope for report in reports),
            credentials=tuple({report.gateway.credential: None for report in reports}),
            bases=tuple(bases),
        )
        return list(examine(self.offices[name], self.say(message)).items)

    def accepted(self, reports: Sequence[Report], names: Sequence[str] = NAMES) -> None:
        """Let helpers accept reports."""
        for name in names:
            verdicts = self.show(name, reports)
            assert [each.reason for each in verdicts] == [""] * len(reports)
            assert all(each.accepted for each in verdicts)

    def manifest(
        self, reports: Sequence[Report], buckets: Sequence[int] | None = None, **others: Any
    ) -> Manifest:
        """A manifest that is as it should be, but for `others`."""
        header = reports[0].header
        buckets = buckets or [0] * len(reports)
        if isinstance(header, UpdateHeader):
            ring = header.masked.ring if header.masked else 32
            made = Manifest(
                number=1,
                epoch=self.charter.epoch,
                version=BASE.version + 1,
                lineage=header.lineage,
                count=max(1, header.content.size * 8 // ring),
                ring=ring,
                scale=header.scale,
                bits=header.bits,
                weight_cap=100,
                staleness_cap=20,
                members=(ManifestMember(report=bytes(32), coefficient=1),),
            )
        else:
            made = Manifest(
                number=1,
                epoch=self.charter.epoch,
                purpose=header.purpose,
                subject=header.subject,
                count=header.count,
                ring=64,
                bits=40,
                members=(ManifestMember(report=bytes(32), coefficient=1),),
            )
        made = msgspec.structs.replace(made, **others)
        if "members" in others:
            return made
        entries = [report.entry for report in reports]
        found = coefficients(made, entries, buckets, self.k_min) or [1] * len(reports)
        members = tuple(
            ManifestMember(report=report.digest, coefficient=share, bucket=bucket)
            for report, share, bucket in zip(reports, found, buckets, strict=True)
        )
        return msgspec.structs.replace(made, members=members)

    def put(self, name: str, envelope: bytes) -> Endorsement:
        """A helper's word about a manifest."""
        return endorse(self.offices[name], envelope)

    def sealed_by(self, name: str, message: Message) -> bytes:
        """What a helper says, signed."""
        return self.sealed_as(message, name, self.keys[name].signing)

    def endorsed(self, manifest: Manifest, names: Sequence[str]) -> tuple[bytes, list[bytes]]:
        """The manifest's envelope, and endorsements of it."""
        envelope = self.say(manifest)
        words = [self.put(name, envelope) for name in names]
        assert [each.reason for each in words] == [""] * len(names)
        return envelope, [
            self.sealed_by(name, word) for name, word in zip(names, words, strict=True)
        ]

    def ask(
        self, name: str, manifest: bytes, endorsements: Sequence[bytes], seeds: Sequence[int]
    ) -> Opening | Masks:
        """Ask a helper for masks."""
        message = Release(
            manifest=sha256(manifest),
            endorsements=tuple(endorsements),
            seeds=tuple(seeds),  # type: ignore[arg-type]
            chunk_bytes=1024,
        )
        return release(self.offices[name], self.say(message))

    def masks(
        self, name: str, manifest: bytes, endorsements: Sequence[bytes], seeds: Sequence[int]
    ) -> bytes:
        """The masks that a helper gives."""
        opening = self.ask(name, manifest, endorsements, seeds)
        assert isinstance(opening, Opening), opening.reason
        return asyncio.run(Answers().of(opening, no_beat))

    def sealed_as(self, message: Message, signer: str, key: PrivateKey) -> bytes:
        """Signed by whoever has this key, under any name."""
        number = self.counter.next()
        return seal(message, federation=FEDERATION, signer=signer, counter=number, key=key)


def sum_of(
    manifest: Manifest, reports: Sequence[Report], masks: Sequence[bytes]
) -> dict[int, NDArray[np.int64]]:
    """What the coordinator reads with masks of all three seeds: a sum for each bucket."""
    by_digest = {report.digest: report for report in reports}
    found = {}
    size = manifest.count * manifest.ring // 8
    for at, bucket in enumerate(sorted({member.bucket for member in manifest.members})):
        total = np.zeros(manifest.count, f"<u{manifest.ring // 8}")
        for member in manifest.members:
            if member.bucket == bucket:
                vector = by_digest[member.report].vector
                add_masked(total, vector, member.coefficient, manifest.ring)
        parts = [part[at * size : (at + 1) * size] for part in masks]
        found[bucket] = opened(total, parts, manifest.ring)
    return found
