"""Sums of masked reports, held against a fold of what the agents put in.

A case is K reports of d integers with random weights and bases, one helper down throughout, and
agents that are all gone, with their keys, once their one report is out.
The fold knows seeds of a random generator, not the product's code: it draws each agent's integers
again, computes the coefficients by the words of `wire/SECURE.md` and adds up.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.secagg.hall import HELPERS, Hall, Sent, overhead_bytes, report
from coordinator.secure.rules import largest_weight
from coordinator.secure.sums import Opened, Terms
from wire.chunks import sha256
from wire.messages import Policy

VERSION, STALENESS_CAP, K_MIN = 30, 20, 3
BITS: Final = 8
_WAITING_BYTES = 64 << 20
"""Of reports that wait to be committed together."""


@dataclass(frozen=True)
class Case:
    """What is summed.

    Attributes:
      members: K, reports in the sum.
      count: d, integers in each.
      ring: bits of an integer on the wire.
      buckets: sums that are opened side by side.
      seed: of weights, bases, integers, and of which helper is down.
    """

    members: int
    count: int
    ring: Literal[16, 32]
    buckets: int = 1
    seed: int = 0

    @property
    def policy(self) -> Policy:
        """Weights as large as the ring has room for."""
        cap = max(1, min(largest_weight(self.ring, BITS) // self.members, 1 << 20))
        return Policy(bits=BITS, ring=self.ring, weight_cap=cap, protection="masked")

    @property
    def down(self) -> str:
        """The helper that is never there."""
        return HELPERS[self.seed % len(HELPERS)]


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
      wrong: integers of the sums that are not those of the fold.
      overhead_bytes: the largest of all reports.
      helpers_s, coordinator_s: CPU time, of all reports and helpers together.
    """

    wrong: int
    overhead_bytes: int
    helpers_s: float
    coordinator_s: float


def run_case(case: Case, directory: Path | None = None) -> Found:
    """Do a case in a new directory under `directory`; the system's for such when None."""
    with tempfile.TemporaryDirectory(prefix="secagg-", dir=directory) as folder:
        hall = Hall(Path(folder), k_min=K_MIN, down=case.down)
        try:
            overhead = _report_all(hall, case)
            terms = Terms(
                version=VERSION,
                weight_cap=case.policy.weight_cap,
                staleness_cap=STALENESS_CAP,
                is_damped=True,
                buckets=case.buckets,
            )
            opened = hall.open(terms, case.members)
        finally:
            hall.close()
    return Found(
        wrong_integers(case, opened), overhead, hall.cpu_s["helpers"], hall.cpu_s["coordinator"]
    )


def _report_all(hall: Hall, case: Case) -> int:
    """Let every agent report once and go; return the largest overhead in bytes."""
    weights, bases, policy = _weights(case), _bases(case), case.policy
    overhead, waiting = 0, list[Sent]()
    for at in range(case.members):
        agent = hall.enrol(f"agent-{at}", f"site-{at}")
        base = (int(bases[at]), sha256(b"version %d" % bases[at]))
        sent = report(agent, _integers(case, at), policy, base, weight=int(weights[at]))
        overhead = max(overhead, overhead_bytes(sent, agent, case.count * case.ring // 8))
        waiting.append(sent)
        if len(waiting) * len(sent.content) >= _WAITING_BYTES or at + 1 == case.members:
            hall.take(waiting)
            waiting.clear()
    return overhead


def _integers(case: Case, at: int) -> NDArray[np.int8]:
    reach = (1 << (BITS - 1)) - 1
    rng = np.random.default_rng([case.seed, 1, at])
    return rng.integers(-reach, reach + 1, case.count, dtype=np.int8)


def _weights(case: Case) -> NDArray[np.int64]:
    rng = np.random.default_rng([case.seed, 2])
    return rng.integers(1, case.policy.weight_cap + 1, case.members)


def _bases(case: Case) -> NDArray[np.int64]:
    return np.random.default_rng([case.seed, 3]).integers(0, VERSION + 1, case.members)


# The fold, which shares no line with the product


def wrong_integers(case: Case, opened: Opened) -> int:
    """Integers that are not those of the fold."""
    where = [member.bucket for member in opened.manifest.members]
    agents = [int(sealed.agent.removeprefix("agent-")) for sealed in opened.members]
    if sorted(agents) != list(range(case.members)):
        raise RuntimeError(f"{len(agents)} reports are in the sum, of {case.members}")
    due = [
        _due(int(weight), VERSION - int(base))
        for weight, base in zip(_weights(case), _bases(case), strict=True)
    ]
    wrong = 0
    for row, bucket in zip(opened.sums, sorted(set(where)), strict=True):
        inside = [agent for agent, other in zip(agents, where, strict=True) if other == bucket]
        total = np.zeros(case.count, np.int64)
        for agent, share in zip(inside, _levelled([due[each] for each in inside]), strict=True):
            total += _integers(case, agent).astype(np.int64) * share
        wrong += int(np.count_nonzero(total != row))
    return wrong


def _due(weight: int, staleness: int) -> int:
    return weight if staleness <= STALENESS_CAP else max(1, weight * STALENESS_CAP // staleness)


def _levelled(due: list[int]) -> list[int]:
    """Each site has one report here, so that its weight is the report's."""
    cap = max(due)
    while True:
        capped = [min(each, cap) for each in due]
        if sum(capped) ** 2 >= K_MIN * sum(each * each for each in capped):
            return capped
        cap //= 2
