"""When an update enters the buffer, with which coefficient, and when the buffer becomes a version.

A strategy is a frozen pair of pure functions, `admit` and `is_ready`, chosen in TOML.

`fedbuff`  asynchronous, buffered (Nguyen et al., arXiv:2106.06639): any update enters whatever its
           base version; a version comes after `goal` updates, or after `deadline_s` with fewer.
`fedavg`   synchronous rounds (McMahan et al., arXiv:1602.05629): one update per agent, trained
           from the current version; a round ends with `clients` updates, or at its deadline with
           at least one.  A late update is refused as `late`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from coordinator.aggregate import Buffer
from wire.messages import Policy, UpdateHeader
from wire.settings import Settings


class StrategySettings(Settings, frozen=True, kw_only=True):
    """The `[strategy]` table."""

    name: Literal["fedbuff", "fedavg"] = "fedbuff"
    goal: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    clients: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 3
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)] = 600.0


@dataclass(frozen=True)
class Rejected:
    """Why an update does not count; the agent is told."""

    reason: str


@dataclass(frozen=True)
class Strategy:
    """`admit(header, buffer, current version)` and `is_ready(buffer, its age in seconds)`."""

    admit: Callable[[UpdateHeader, Buffer, int], int | Rejected]
    is_ready: Callable[[Buffer, float], bool]


def make_strategy(settings: StrategySettings, policy: Policy) -> Strategy:
    """Return the strategy that the settings name."""
    make = {"fedbuff": _fedbuff, "fedavg": _fedavg}[settings.name]
    return make(settings, policy)


def staleness_coefficient(weight: int, staleness: int, policy: Policy) -> int:
    """Undamped up to the cap, then weight x cap / staleness, never below the floor.

    Age alone never refuses an update; a week-old one still counts a little.  The floor never lifts
    an update above its own weight: a stale one would count more than a fresh one.
    """
    if staleness <= policy.staleness_cap:
        return weight
    damped = weight * max(policy.staleness_cap, 1) // staleness
    return max(min(policy.staleness_floor, weight), damped)


def _fedbuff(settings: StrategySettings, policy: Policy) -> Strategy:
    def admit(header: UpdateHeader, _buffer: Buffer, current: int) -> int | Rejected:
        return staleness_coefficient(header.weight, current - header.base_version, policy)

    def is_ready(buffer: Buffer, age_s: float) -> bool:
        return buffer.members >= settings.goal or age_s >= settings.deadline_s

    return Strategy(admit, is_ready)


def _fedavg(settings: StrategySettings, _policy: Policy) -> Strategy:
    def admit(header: UpdateHeader, buffer: Buffer, current: int) -> int | Rejected:
        if header.base_version != current:
            return Rejected(f"late: round {header.base_version} is closed, now in round {current}")
        if header.agent in buffer.agents:
            return Rejected(f"second update of {header.agent} in round {current}")
        return header.weight

    def is_ready(buffer: Buffer, age_s: float) -> bool:
        return buffer.members >= settings.clients or age_s >= settings.deadline_s

    return Strategy(admit, is_ready)
