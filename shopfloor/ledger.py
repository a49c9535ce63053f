"""Reading the witness's ledger: what happened to every update, and does the model follow from it.

Pure over files.  `account` gives each update its outcome as the agents were told; `refold` repeats
every fold from the recorded bytes and memberships with the coordinator's own pure functions in
another order and compares weights bit by bit.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import empty, fold, mean_delta
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from shopfloor.observer import CONTENTS
from wire.chunks import sha256
from wire.messages import TERMINAL
from wire.tensors import (
    Params,
    Shapes,
    flatten,
    parameter_count,
    read_integers,
    read_params,
    unflatten,
    write_params,
)

UpdateId = tuple[str, str, int]


@dataclass
class Ledger:
    """The witness's facts, in order of time.

    Attributes:
      updates: facts of kind `update` by id; the first sight of each.
      outcomes: terminal outcomes that the coordinator told, by id; more than one is an error.
      heads: facts of kind `head`.
      offers: how many headers were seen.
      bytes_up: bytes of headers and chunks.
    """

    directory: Path
    updates: dict[UpdateId, dict[str, object]] = field(default_factory=dict)
    outcomes: dict[UpdateId, set[tuple[str, int]]] = field(default_factory=dict)
    heads: list[dict[str, object]] = field(default_factory=list)
    offers: int = 0
    bytes_up: int = 0
    conflicts: int = 0
    _at: int = 0

    def read_new(self) -> list[dict[str, object]]:
        """Read what was appended since the last call; whole lines only."""
        path = self.directory / "ledger.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        facts: list[dict[str, object]] = [json.loads(line) for line in whole.splitlines()]
        for fact in facts:
            self._take(fact)
        return facts

    def _take(self, fact: dict[str, object]) -> None:
        if fact["kind"] == "head":
            self.heads.append(fact)
            return
        agent, incarnation, sequence = fact["update"]  # type: ignore[misc]
        key = (str(agent), str(incarnation), int(sequence))
        if fact["kind"] == "update":
            self.offers += 1
            self.bytes_up += int(str(fact["header_bytes"]))
            known = self.updates.setdefault(key, fact)
            self.conflicts += known["digest"] != fact["digest"]
        elif fact["kind"] == "chunk":
            self.bytes_up += int(str(fact["bytes"]))
        elif fact["status"] in TERMINAL:
            outcome = (str(fact["status"]), int(str(fact["version"])))
            self.outcomes.setdefault(key, set()).add(outcome)

    def content_of(self, key: UpdateId) -> bytes:
        """The bytes of an update, from its chunks."""
        agent, incarnation, sequence = key
        stem = f"update-{agent}-{incarnation}-{sequence}"
        return self._joined(stem)

    def model(self, digest: str) -> bytes:
        """The bytes of a model by its SHA-256, verified."""
        data = self._joined(f"model-{digest}")
        if sha256(data).hex() != digest:
            reason = f"the witness does not have model {digest[:16]} whole"
            raise ValueError(reason)
        return data

    def has_model(self, digest: str) -> bool:
        """Whether the witness has some bytes of this model."""
        return (self.directory / CONTENTS / f"model-{digest}-0").exists()

    def _joined(self, stem: str) -> bytes:
        parts = []
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
    for key in produced:
        for outcome, _ in ledger.outcomes.get(key, ()):
            by_outcome[outcome] += 1
    lost = sum(key not in ledger.outcomes for key in produced)
    doubled = sum(len(outcomes) > 1 for outcomes in ledger.outcomes.values())
    return Account(len(produced), by_outcome, lost, doubled)


Membership = tuple[int, str, str, int, int]
"""(version, agent, incarnation, sequence, coefficient)"""


def refold(
    start: Params,
    shapes: Shapes,
    memberships: list[Membership],
    ledger: Ledger,
    optimizer: ServerOptimizerSettings,
) -> dict[int, str]:
    """Compute every version again from the witness's bytes.

    Args:
      start: the bundle's weights, version 0.
      shapes: the flat vector's tensors.
      memberships: which updates made which version, as the coordinator's store says.
      ledger: where the updates' bytes are.
      optimizer: the server optimizer's settings.

    Returns:
      Version to SHA-256 (hex) of its weights, to be compared with what the heads announced.
    """
    step = make_server_optimizer(optimizer)
    params: NDArray[np.float32] = flatten(start)
    state = step.init(parameter_count(shapes))
    digests: dict[int, str] = {}
    for version in sorted({membership[0] for membership in memberships}):
        buffer = empty(parameter_count(shapes))
        members = [membership for membership in memberships if membership[0] == version]
        scale = 1.0
        for _, agent, incarnation, sequence, coefficient in reversed(members):
            key = (agent, incarnation, sequence)
            fact = ledger.updates[key]
            scale = float(str(fact["scale"]))
            bits = 8 if fact["bits"] == 8 else 16  # noqa: PLR2004
            delta = read_integers(ledger.content_of(key), bits, parameter_count(shapes))
            buffer = fold(buffer, delta, coefficient, agent)
        state, params = step.apply(mean_delta(buffer, scale), state, params)
        digests[version] = sha256(write_params(unflatten(params, shapes))).hex()
    return digests


def read_model(ledger: Ledger, digest: str, shapes: Shapes) -> Params:
    """A model's weights as the witness saw them published."""
    return read_params(ledger.model(digest), shapes)
