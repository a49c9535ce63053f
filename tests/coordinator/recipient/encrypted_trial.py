"""Agents, a coordinator and a recipient, in memory but for the recipient's files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.config import Identity
from agent.wrapping import wrap
from coordinator.recipient.desk import Desk
from coordinator.recipient.keys import make_recipient, read_keys
from coordinator.recipient.store import DATABASE, RecipientStore
from coordinator.secure.encrypted import RING, EncryptedSums, Question
from coordinator.secure.rows import Sealed
from coordinator.secure.sums import Terms
from coordinator.store import Store
from wire.charters import KeptCharter, sign_charter
from wire.chunks import describe, sha256
from wire.codec import open_envelope, parse_body, seal
from wire.messages import (
    Charter,
    Credential,
    Endorsement,
    Examine,
    Manifest,
    Message,
    Policy,
    UpdateHeader,
)
from wire.sealing_keys import SealingKey
from wire.signing import PrivateKey
from wire.trust import Trust, read_charter, read_credential

FEDERATION, INCARNATION, COUNT = "plant-net", "00112233445566ff", 5000
SITES = ("north", "south", "east", "west", "hill")
POLICY = Policy(protection="encrypted", weight_cap=100)
TERMS = Terms(version=8, weight_cap=100, staleness_cap=20, is_damped=True)


@dataclass(frozen=True)
class Sent:
    """One encrypted update as the coordinator takes it.

    Attributes:
      integers: what is in it.
    """

    identity: Identity
    header: UpdateHeader
    envelope: bytes
    content: bytes
    integers: NDArray[np.int64]

    @property
    def report(self) -> bytes:
        return sha256(self.envelope)


@dataclass
class Trial:
    """A federation whose recipient lives in `directory`."""

    directory: Path
    k_min: int = 3
    root: PrivateKey = field(default_factory=PrivateKey.generate)
    enrolment: PrivateKey = field(default_factory=PrivateKey.generate)
    coordinator: PrivateKey = field(default_factory=PrivateKey.generate)
    sealing: SealingKey = field(default_factory=SealingKey.generate)

    def __post_init__(self) -> None:
        recipient = make_recipient(self.directory, "auditor")
        self.charter = Charter(
            federation=FEDERATION,
            epoch=1,
            enrolment_key=self.enrolment.public.raw,
            coordinator_key=self.coordinator.public.raw,
            author_keys=(PrivateKey.generate().public.raw,),
            k_min=self.k_min,
            coordinator_sealing_key=self.sealing.public,
            recipient=recipient,
        )
        self.context = (self.directory / "auditor.context").read_bytes()
        self.store = Store(":memory:")
        self.sums = EncryptedSums(self.store.secure, self.charter, self.coordinator, self.sealing)
        self.desk = self.opened()

    @property
    def trust(self) -> Trust:
        return read_charter(sign_charter(self.charter, self.root), self.root.public)

    def opened(self) -> Desk:
        """The recipient as after a start."""
        ends = ("signing.key", "bfv.key", "context")
        keys = read_keys("auditor", *(self.directory / f"auditor.{end}" for end in ends))
        kept = KeptCharter(self.directory / "charter.jm", self.root.public, self.trust)
        return Desk(RecipientStore(self.directory / DATABASE), keys, kept)

    # Agents

    def gateway(self, agent: str, site: str) -> Identity:
        key = PrivateKey.generate()
        said = Credential(agent=agent, site=site, public_key=key.public.raw, serial=1)
        envelope = self.signed(said, "enrolment", self.enrolment)
        credential = read_credential(envelope, self.trust)
        return Identity(self.trust, credential, envelope, key, self.context)

    def update(
        self,
        identity: Identity,
        integers: NDArray[Any] | None = None,
        *,
        sequence: int = 1,
        weight: int = 10,
        **others: Any,
    ) -> Sent:
        """An encrypted update that is as it should be, but for `others`."""
        values = np.zeros(COUNT, np.int64) if integers is None else integers.astype(np.int64)
        base = bytes([7] * 32)
        wrapped = wrap(values, POLICY, identity, (INCARNATION, sequence), base)
        header = UpdateHeader(
            agent=identity.agent,
            incarnation=INCARNATION,
            sequence=sequence,
            lineage=0,
            base_version=7,
            base_digest=base,
            examples=weight,
            weight=weight,
            scale=0.01,
            bits=8,
            content=describe(wrapped.content),
            encrypted=wrapped.context,
        )
        header = msgspec.structs.replace(header, **others)
        envelope = self.signed(header, identity.agent, identity.key)
        return Sent(identity, header, envelope, wrapped.content, values)

    def five(self, rng: np.random.Generator) -> list[Sent]:
        """One update from each of five sites, of different weights."""
        return [
            self.update(
                self.gateway(f"press-{site}", site),
                rng.integers(-127, 127, COUNT, endpoint=True),
                weight=10 + 3 * number,
            )
            for number, site in enumerate(SITES)
        ]

    # The coordinator

    def signed(self, message: Message, signer: str, key: PrivateKey) -> bytes:
        return seal(message, federation=FEDERATION, signer=signer, counter=1, key=key)

    def take(self, sent: Sent) -> None:
        """Keep an update as a row."""
        header, credential = sent.header, sent.identity.credential
        self.sums.check(header, sent.content, COUNT)
        sealed = Sealed(
            report=sent.report,
            purpose="update",
            subject=bytes(32),
            agent=header.agent,
            site=credential.site,
            incarnation=header.incarnation,
            sequence=header.sequence,
            weight=header.weight,
            base_version=header.base_version,
            base_digest=header.base_digest,
            lineage=header.lineage,
            count=COUNT,
            ring=RING,
            scale=header.scale,
            bits=header.bits,
        )
        with self.store.transaction():
            self.store.secure.keep_credential(header.agent, sent.identity.credential_envelope)
            self.store.secure.add(sealed, sent.envelope, sent.content)

    def decided(self, sent: Sequence[Sent]) -> tuple[bytes, Question]:
        """Take updates and decide on their sum: the manifest's digest, and what to ask."""
        for each in sent:
            self.take(each)
        with self.store.transaction():
            assert self.sums.propose(TERMS, lambda chosen: len(chosen) >= len(sent))
        ((digest, _),) = self.store.secure.undecided()
        return digest, self.sums.question(digest)

    def ask(self, question: Question) -> Endorsement:
        """Show members and manifest to the recipient."""
        self.show(question)
        return self.desk.endorse(question.manifest)

    def show(self, question: Question) -> None:
        headers, credentials = zip(*question.shown, strict=True)
        shown = Examine(reports=headers, credentials=credentials)
        self.desk.examine(self.signed(shown, "coordinator", self.coordinator))

    def forged(self, question: Question, **others: Any) -> Question:
        """The same question, of which the manifest says something else and is well signed."""
        manifest = self.manifest(question)
        body = msgspec.structs.replace(manifest, **others)
        envelope = self.signed(body, "coordinator", self.coordinator)
        return Question(envelope, question.shown)

    def manifest(self, question: Question) -> Manifest:
        return parse_body(open_envelope(question.manifest, "manifest"), Manifest)
