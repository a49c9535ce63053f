"""Where masked reports become sums: agents that come once, a coordinator, helpers; no broker.

The parts are the product's own.  An agent wraps its integers (`agent/wrapping.py`) and signs a
header; the coordinator keeps both as a row in its SQLite file and decides (`coordinator/secure/`);
helpers judge, each with its own store (`coordinator/helper/`).  What they say to each other are
signed bytes, passed on by this loop with a clock that it turns.  Only strategy and model are not
here: who is in a sum is said by whoever opens it.

Invariant: of an agent nothing is kept once its report is out.  It can not be asked anything, which
is what vanishing means.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.config import Identity
from agent.wrapping import wrap
from coordinator.helper.config import CHARTER
from coordinator.helper.identity import OwnKeys, make_helper, read_keys
from coordinator.helper.judging import judge
from coordinator.helper.office import Office
from coordinator.helper.releasing import Opening
from coordinator.helper.store import Store, make_store
from coordinator.helper.summing import Answers
from coordinator.secure.exchange import AGAIN_S, Complete, Exchange
from coordinator.secure.rows import SECURE_SCHEMA, Sealed, SecureRows
from coordinator.secure.sums import Opened, Sums, Terms
from wire.charters import KeptCharter, sign_charter
from wire.chunks import describe, sha256, split
from wire.codec import Counter, kind_of, parse_body, seal
from wire.database import open_database, transaction
from wire.messages import (
    Charter,
    Credential,
    Endorsement,
    HelperState,
    Masks,
    Message,
    Policy,
    UpdateHeader,
    Verdicts,
)
from wire.signing import PrivateKey
from wire.trust import COORDINATOR, ENROLMENT, read_charter
from wire.waiting import no_beat

FEDERATION = "bench-secagg"
HELPERS = ("notary", "union", "insurer")
INCARNATION = "0123456789abcdef"
CHUNK_BYTES = 120_000
_LONGEST_TURNS = 100


@dataclass(frozen=True)
class Sent:
    """A report as it leaves the site.

    Attributes:
      envelope: the signed header.
      content: the vector as it travels.
      site, credential: of its agent, which the coordinator knows from the agent's birth.
    """

    header: UpdateHeader
    envelope: bytes
    content: bytes
    site: str
    credential: bytes

    @property
    def sealed(self) -> Sealed:
        """The coordinator's row about it.

        Raises:
          ValueError: it is not masked.
        """
        header = self.header
        if header.masked is None:
            raise ValueError("only masked reports wait for a sum")
        return Sealed(
            report=sha256(self.envelope),
            purpose="update",
            subject=bytes(32),
            agent=header.agent,
            site=self.site,
            incarnation=header.incarnation,
            sequence=header.sequence,
            weight=header.weight,
            base_version=header.base_version,
            base_digest=header.base_digest,
            lineage=header.lineage,
            count=len(self.content) * 8 // header.masked.ring,
            ring=header.masked.ring,
            scale=header.scale,
            bits=header.bits,
        )


class Hall:
    """The coordinator's side, and the helpers that are there.

    Args:
      directory: for the coordinator's file and the helpers' folders; new or empty.
      k_min: of the charter.
      down: the helper that is never there; empty: none.

    Attributes:
      cpu_s: process time of the coordinator and of all helpers together, in seconds.
    """

    def __init__(self, directory: Path, *, k_min: int = 3, down: str = "") -> None:
        self._root, self._key, self._enrolment = (PrivateKey.generate() for _ in range(3))
        self._helpers = {name: _made(directory / name, name) for name in HELPERS}
        self.charter = Charter(
            federation=FEDERATION,
            epoch=1,
            enrolment_key=self._enrolment.public.raw,
            coordinator_key=self._key.public.raw,
            author_keys=(PrivateKey.generate().public.raw,),
            helpers=tuple(keys.public for keys in self._helpers.values()),
            k_min=k_min,
        )
        self.trust = read_charter(sign_charter(self.charter, self._root), self._root.public)
        self._offices = {name: self._office(directory / name, name) for name in HELPERS}
        self._answers = {name: Answers() for name in HELPERS}
        self._database = open_database(directory / "coordinator.db", SECURE_SCHEMA, durable=True)
        self.rows = SecureRows(self._database)
        self.sums = Sums(self.rows, self.charter, self._key)
        self._exchange = Exchange(self.sums, FEDERATION, CHUNK_BYTES)
        self._counter, self._now_s = Counter(1), 0.0
        self.cpu_s = {"coordinator": 0.0, "helpers": 0.0}
        for name in HELPERS:
            if name != down:
                self._come(name)

    def close(self) -> None:
        """Release all files."""
        self._database.close()
        for office in self._offices.values():
            office.store.close()

    def _office(self, folder: Path, name: str) -> Office:
        kept = KeptCharter(folder / CHARTER, self._root.public, self.trust)
        keys = self._helpers[name]
        return Office(Store(folder, keys.public), keys, kept)

    def _come(self, name: str) -> None:
        state = HelperState(status="online", session=1, store=INCARNATION)
        key = self._helpers[name].public.signing.hex()
        self._exchange.on_state(key, state, (1 << 32) + 3)

    # Agents

    def enrol(self, agent: str, site: str) -> Identity:
        """Give an agent its key and credential."""
        key = PrivateKey.generate()
        credential = Credential(agent=agent, site=site, public_key=key.public.raw, serial=1)
        envelope = self._signed(credential, ENROLMENT, self._enrolment)
        return Identity(self.trust, credential, envelope, key)

    def take(self, reports: Iterable[Sent]) -> None:
        """Keep reports as rows, committed together."""
        with self._cpu("coordinator"), transaction(self._database):
            for each in reports:
                self.rows.keep_credential(each.header.agent, each.credential)
                self.rows.add(each.sealed, each.envelope, each.content)

    # Sums

    def open(self, terms: Terms, members: int) -> Opened:
        """Open a sum of the next so many reports.

        Raises:
          RuntimeError: coordinator and helpers do not come to one.
        """
        for _ in range(_LONGEST_TURNS):
            self._now_s += AGAIN_S
            with self._cpu("coordinator"):
                if not self.rows.undecided():
                    with transaction(self._database):
                        self.sums.propose("update", terms, lambda chosen: len(chosen) >= members)
                asks = self._exchange.due(self._now_s)
            for ask in asks:
                data = ask.message
                if not isinstance(data, bytes):
                    data = self._signed(data, COORDINATOR, self._key)
                complete = self._ask(ask.helper, data)
                if complete is not None:
                    return self._opened(complete)
        raise RuntimeError("the helpers opened no sum")

    def _opened(self, complete: Complete) -> Opened:
        with self._cpu("coordinator"), transaction(self._database):
            opened = self.sums.open(complete.manifest, complete.masks)
            self.rows.forget([sealed.report for sealed in opened.members])
        return opened

    def _ask(self, name: str, data: bytes) -> Complete | None:
        """Put a question to a helper, and hear what it answers."""
        key = self._helpers[name].signing
        chunks: list[bytes] = []
        with self._cpu("helpers"):
            answer = judge(self._offices[name], data)
            if isinstance(answer, Opening):
                asked = answer.release
                masks = asyncio.run(self._answers[name].of(answer, no_beat))
                content = describe(masks, asked.chunk_bytes)
                chunks = split(masks, asked.chunk_bytes)
                answer = Masks(manifest=asked.manifest, seeds=asked.seeds, content=content)
            envelope = self._signed(answer, name, key)
        with self._cpu("coordinator"):
            self._hear(name, envelope)
            if not isinstance(answer, Masks) or answer.content is None:
                return None
            digest, complete = answer.content.digest, None
            for at, chunk in enumerate(chunks):
                complete = self._exchange.on_chunk(name, digest, at, chunk) or complete
        return complete

    def _hear(self, name: str, envelope: bytes) -> None:
        kind = kind_of(envelope, ("verdicts", "endorsement", "masks"))
        helper, opened = self._exchange.verified(envelope, kind, name)
        if kind == "masks":
            self._exchange.on_masks(helper, parse_body(opened, Masks))
            return
        with transaction(self._database):
            if kind == "verdicts":
                verdicts = parse_body(opened, Verdicts).items
                refused = [each.reason for each in verdicts if not each.accepted]
                self.sums.take_verdicts(helper, verdicts)
            else:
                word = parse_body(opened, Endorsement)
                refused = [] if word.accepted else [word.reason]
                self.sums.take_endorsement(helper, word, envelope)
        if refused:
            raise RuntimeError(f"{name} refuses what is well-formed: {refused[0]}")

    def _signed(self, message: Message, signer: str, key: PrivateKey) -> bytes:
        number = self._counter.next()
        return seal(message, federation=FEDERATION, signer=signer, counter=number, key=key)

    @contextmanager
    def _cpu(self, whose: str) -> Iterator[None]:
        began_s = time.process_time()
        yield
        self.cpu_s[whose] += time.process_time() - began_s


def _made(folder: Path, name: str) -> OwnKeys:
    make_store(folder, make_helper(folder, name))
    signing, sealing = (folder / f"{name}.{kind}.key" for kind in ("signing", "sealing"))
    return read_keys(name, signing, sealing)


def report(
    identity: Identity,
    integers: NDArray[np.signedinteger],
    policy: Policy,
    base: tuple[int, bytes],
    *,
    sequence: int = 1,
    weight: int = 1,
) -> Sent:
    """What an agent does with its integers: mask them, describe them, sign the header.

    Args:
      identity: the agent.
      integers: its delta in steps, shape (P,).
      policy: of the head.
      base: number and digest of the version that it was trained from.
      sequence: of the update.
      weight: what it counts.
    """
    version, digest = base
    wrapped = wrap(integers, policy, identity, (INCARNATION, sequence), digest)
    header = UpdateHeader(
        agent=identity.agent,
        incarnation=INCARNATION,
        sequence=sequence,
        lineage=0,
        base_version=version,
        base_digest=digest,
        examples=weight * policy.weight_unit,
        weight=weight,
        scale=policy.scale,
        bits=policy.bits,
        content=describe(wrapped.content, CHUNK_BYTES),
        masked=wrapped.masked,
        encrypted=wrapped.context,
    )
    envelope, site = _signed(header, identity), identity.credential.site
    return Sent(header, envelope, wrapped.content, site, identity.credential_envelope)


def overhead_bytes(sent: Sent, identity: Identity, vector_bytes: int) -> int:
    """What masks add: to the signed header, and to the bytes of the vector in its ring."""
    bare = _signed(msgspec.structs.replace(sent.header, masked=None), identity)
    return len(sent.envelope) - len(bare) + len(sent.content) - vector_bytes


def _signed(header: UpdateHeader, identity: Identity) -> bytes:
    return seal(
        header,
        federation=FEDERATION,
        signer=identity.agent,
        counter=(1 << 32) + header.sequence,
        key=identity.key,
    )
