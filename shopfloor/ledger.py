"""The witness's ledger: what it holds, and what it says of every update.

`shopfloor/observer.py` writes it, one fact a line (JSON), with the bytes in files beside it;
everybody else only reads.  `account` gives each update the outcome that the agents were told.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from wire.chunks import sha256
from wire.messages import TERMINAL
from wire.tensors import Params, Shapes, read_params

CONTENTS = "contents"
FILE = "ledger.jsonl"

UpdateId = tuple[str, str, int]
"""(agent, incarnation, sequence)"""


class UpdateFact(msgspec.Struct, frozen=True, tag_field="kind", tag="update"):
    """A header was offered."""

    wall: float
    update: UpdateId
    digest: str
    scale: float
    bits: Literal[4, 8, 16]
    header_bytes: int


class ChunkFact(msgspec.Struct, frozen=True, tag_field="kind", tag="chunk"):
    """A chunk of an update was sent."""

    wall: float
    update: UpdateId
    chunk_bytes: int


class ReceiptFact(msgspec.Struct, frozen=True, tag_field="kind", tag="receipt"):
    """The coordinator told an agent what became of an update; each word once.

    `digest` is the SHA-256 of the content that it spoke of, in hex.
    """

    wall: float
    update: UpdateId
    digest: str
    status: str
    reason: str
    version: int


class HeadFact(msgspec.Struct, frozen=True, tag_field="kind", tag="head"):
    """A head was published; weights as (version, SHA-256 in hex)."""

    wall: float
    sequence: int
    training: str
    train: tuple[int, str]
    serve: tuple[int, str]
    candidate: tuple[int, str] | None = None


Fact = UpdateFact | ChunkFact | ReceiptFact | HeadFact


@dataclass
class Ledger:
    """The witness's facts, in order of time.

    Attributes:
      updates: the first sight of each update.
      outcomes: (terminal outcome, version) that the coordinator told; more than one is an error.
      told: the same by update and content, because a copied card makes two contents under one id.
      heads: every head.
      bytes_up: bytes of headers and chunks, those sent again included.
      conflicts: offers of a known id with another content.
    """

    directory: Path
    updates: dict[UpdateId, UpdateFact] = field(default_factory=dict)
    outcomes: dict[UpdateId, set[tuple[str, int]]] = field(default_factory=dict)
    told: dict[tuple[UpdateId, str], set[tuple[str, int]]] = field(default_factory=dict)
    heads: list[HeadFact] = field(default_factory=list)
    bytes_up: int = 0
    conflicts: int = 0
    _at: int = 0

    def read_new(self) -> list[Fact]:
        """Read what was appended since the last call; whole lines only."""
        path = self.directory / FILE
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        facts = [msgspec.json.decode(line, type=Fact) for line in whole.splitlines()]
        for fact in facts:
            self._take(fact)
        return facts

    def _take(self, fact: Fact) -> None:
        if isinstance(fact, HeadFact):
            self.heads.append(fact)
        elif isinstance(fact, UpdateFact):
            self.bytes_up += fact.header_bytes
            known = self.updates.setdefault(fact.update, fact)
            self.conflicts += known.digest != fact.digest
        elif isinstance(fact, ChunkFact):
            self.bytes_up += fact.chunk_bytes
        elif fact.status in TERMINAL:
            outcome = (fact.status, fact.version)
            self.outcomes.setdefault(fact.update, set()).add(outcome)
            self.told.setdefault((fact.update, fact.digest), set()).add(outcome)

    @property
    def head(self) -> HeadFact | None:
        """The newest head, None before the first."""
        return self.heads[-1] if self.heads else None

    def content_of(self, update: UpdateId) -> bytes:
        """The bytes of an update, from its chunks."""
        agent, incarnation, sequence = update
        return self._joined(f"update-{agent}-{incarnation}-{sequence}")

    def model(self, digest: str, shapes: Shapes) -> Params:
        """Weights as the witness saw them published.

        Raises:
          ValueError: the witness does not have them whole.
        """
        data = self._joined(f"model-{digest}")
        if sha256(data).hex() != digest:
            reason = f"the witness does not have model {digest[:16]} whole"
            raise ValueError(reason)
        return read_params(data, shapes)

    def has_model(self, digest: str) -> bool:
        """Whether the witness has some bytes of these weights."""
        return (self.directory / CONTENTS / f"model-{digest}-0").exists()

    def _joined(self, stem: str) -> bytes:
        parts: list[bytes] = []
        while (path := self.directory / CONTENTS / f"{stem}-{len(parts)}").exists():
            parts.append(path.read_bytes())
        return b"".join(parts)


@dataclass(frozen=True)
class Account:
    """Every update produced, and what became of it.

    Attributes:
      lost: produced, and no terminal outcome.
      doubled: more than one terminal outcome, or in more than one version.
    """

    produced: int
    by_outcome: dict[str, int]
    lost: int
    doubled: int


def account(produced: set[UpdateId], ledger: Ledger) -> Account:
    """Check that every update has exactly one outcome."""
    by_outcome = dict.fromkeys(TERMINAL, 0)
    for update in produced:
        for outcome, _ in ledger.outcomes.get(update, ()):
            by_outcome[outcome] += 1
    lost = sum(update not in ledger.outcomes for update in produced)
    doubled = sum(len(outcomes) > 1 for outcomes in ledger.outcomes.values())
    return Account(len(produced), by_outcome, lost, doubled)
