"""Which fault comes when, to whom: a pure function of the seed.

Spacing is exponential, drawn in strata so that a short run has the mean of a long one; faults come
in bursts and overlap.  Every kind comes once before any is
drawn by its weight, so that a short run has seen them all.  A fault names its targets in the order
in which it tries them; when it can happen to none (all are down), it is not a fault and not
counted, and therefore the schedule has no end: the run stops when enough have happened.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

AGENTS: Final = ("gateway-1", "gateway-2", "gateway-3", "gateway-4")
COORDINATOR: Final = "coordinator"
BROKER: Final = "broker"
HELPERS: Final = ("notary", "union", "insurer")
"""Of secure aggregation.  The last one is the one that is down throughout, or is restored."""
_CLIENTS: Final = (*AGENTS, COORDINATOR)

MEAN_SPACING_S: Final = 0.8
"""Below the promised second, because some faults find no target."""
_STRATA: Final = 20
_HOUR_S: Final = 3_600.0
_YEAR_S: Final = 365.25 * 86_400.0


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
      words: what it is, for the table.
      weight: how often it comes, relative to the others.
      targets: whom it can happen to.
      lasts_s: shortest and longest time until it is undone; for a kill, until the restart.
    """

    words: str
    weight: int
    targets: tuple[str, ...]
    lasts_s: tuple[float, float]


KINDS: Final[dict[str, Kind]] = {
    "kill-agent": Kind("kill -9 of an agent", 14, AGENTS, (0.1, 1.0)),
    "kill-coordinator": Kind("kill -9 of the coordinator", 8, (COORDINATOR,), (0.1, 1.0)),
    "kill-broker": Kind("kill -9 of the broker", 6, (BROKER,), (0.1, 1.0)),
    "wipe-broker": Kind("kill -9 of the broker, its state deleted", 4, (BROKER,), (0.1, 1.0)),
    "cut": Kind("link cut (reset)", 14, _CLIENTS, (0.3, 3.0)),
    "blackhole": Kind("link swallows everything", 9, _CLIENTS, (1.0, 6.0)),
    "slow": Kind("slow link", 9, _CLIENTS, (2.0, 6.0)),
    "repeat": Kind("messages come twice", 9, _CLIENTS, (3.0, 8.0)),
    "reorder": Kind("messages overtake each other", 9, _CLIENTS, (3.0, 8.0)),
    "clock": Kind("clock jumps", 8, _CLIENTS, (0.0, 0.0)),
    "disk-full": Kind("disk full (ENOSPC)", 7, _CLIENTS, (1.0, 5.0)),
    "disk-read-only": Kind("disk read-only (EROFS)", 5, _CLIENTS, (1.0, 5.0)),
    "restore-card": Kind("an agent's disk restored from an old copy", 2, AGENTS, (0.1, 1.0)),
    "wipe-card": Kind("an agent's disk wiped", 2, AGENTS, (0.1, 1.0)),
}


def kinds_of(helpers: Sequence[str]) -> dict[str, Kind]:
    """The kinds of a run with these helpers: what befalls a client befalls a helper too."""
    if not helpers:
        return dict(KINDS)
    everybody = (*_CLIENTS, *helpers)
    found = {
        name: replace(kind, targets=everybody) if kind.targets == _CLIENTS else kind
        for name, kind in KINDS.items()
    }
    found["kill-helper"] = Kind("kill -9 of a helper", 14, tuple(helpers), (0.1, 3.0))
    if HELPERS[-1] in helpers:
        words = "a helper's store restored from an old copy"
        found["restore-helper"] = Kind(words, 1, HELPERS[-1:], (0.1, 1.0))
    return found


ALL_KINDS: Final = kinds_of(HELPERS)


@dataclass(frozen=True)
class Fault:
    """One fault of the schedule.

    Attributes:
      at_s: seconds after the first moment.
      targets: whom it tries, in this order.
      lasts_s: until it is undone.
      amount: `clock`: seconds forward; `slow`: bytes per second; else 0.
      delay_s: `slow`: how late each piece comes; else 0.
    """

    at_s: float
    kind: str
    targets: tuple[str, ...]
    lasts_s: float
    amount: float = 0.0
    delay_s: float = 0.0


def schedule(
    seed: int, kinds: Sequence[str] = tuple(KINDS), rules: Mapping[str, Kind] = KINDS
) -> Iterator[Fault]:
    """Yield faults without end, in order of time.

    Args:
      seed: any integer; the same seed, kinds and rules give the same faults.
      kinds: which may come.
      rules: of all kinds.
    """
    rng = random.Random(f"chaos:{seed}")
    # Restored comes last of the first ones: an old copy has to become old.
    first = sorted(rng.sample(list(kinds), len(kinds)), key=lambda kind: kind != "restore-card")
    weights = [rules[kind].weight for kind in kinds]
    at_s = 0.0
    for spacing_s in _spacings(rng):
        at_s += spacing_s
        kind = first.pop() if first else rng.choices(list(kinds), weights)[0]
        yield _drawn(rng, at_s, kind, rules[kind])


def _spacings(rng: random.Random) -> Iterator[float]:
    """Exponential, each block with one value from each of equally likely ranges."""
    while True:
        shares = [(place + rng.random()) / _STRATA for place in range(_STRATA)]
        rng.shuffle(shares)
        yield from (-MEAN_SPACING_S * math.log(1.0 - share) for share in shares)


def _drawn(rng: random.Random, at_s: float, kind: str, rule: Kind) -> Fault:
    targets = tuple(rng.sample(rule.targets, len(rule.targets)))
    lasts_s = rng.uniform(*rule.lasts_s)
    if kind == "clock":
        return Fault(at_s, kind, targets, lasts_s, _jump(rng))
    if kind == "slow":
        rate_bytes_s = 10 ** rng.uniform(3.3, 4.7)  # 2 to 50 kB/s
        return Fault(at_s, kind, targets, lasts_s, rate_bytes_s, rng.uniform(0.02, 0.4))
    return Fault(at_s, kind, targets, lasts_s)


def _jump(rng: random.Random) -> float:
    """Hours (a wrong time zone, a summer time) or years (an empty clock battery), both ways."""
    size_s = rng.choice((rng.uniform(1, 48) * _HOUR_S, rng.uniform(1, 30) * _YEAR_S))
    return rng.choice((-1.0, 1.0)) * size_s
