"""What the simulation knows of its agents: one array for each figure, one entry for each agent."""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from shopfloor.simulate.network import Weights


class State(IntEnum):
    """What an agent is doing."""

    IDLE = 0
    FETCHING = 1
    TRAINING = 2
    SENDING = 3


@dataclass
class Agents:
    """N agents at one moment.

    Attributes:
      state: int8, a `State`.
      serial: int64, raised when what was planned for an agent no longer holds.
      base: int64, version of the newest training, -1 before the first.
      made: int64, trainings from that version.
      asked_s, asked_version: when an agent asked for a slot last, and with which version.
      awaits: bool, it must hear of its last update before it makes another (calibration).
      loss: float64, mean loss at the start of its last training; NaN before.
      uplink_s: float64, from made to arrived, of its last update.
      folded: int64, updates that became part of a version.
    """

    state: NDArray[np.int8]
    serial: NDArray[np.int64]
    base: NDArray[np.int64]
    made: NDArray[np.int64]
    asked_s: NDArray[np.float64]
    asked_version: NDArray[np.int64]
    awaits: NDArray[np.bool_]
    loss: NDArray[np.float64]
    uplink_s: NDArray[np.float64]
    folded: NDArray[np.int64]

    def may_begin(self, version: int, updates_per_version: int) -> NDArray[np.bool_]:
        """Who is idle and has not used up its trainings from this version, (N,)."""
        has_trained = (self.base == version) & (self.made >= updates_per_version)
        free: NDArray[np.bool_] = (self.state == State.IDLE) & ~self.awaits & ~has_trained
        return free

    def forget_ask(self, who: NDArray[np.intp]) -> None:
        """They have to ask again before they are granted a slot."""
        self.asked_s[who] = -math.inf


@dataclass
class Work:
    """One training, from its grant until the coordinator has the update.

    Attributes:
      base: weights that it is from, float32 (P,).
      left_s: seconds of link that the present transfer still needs.
      ends_s: when the training ends; infinite before it begins.
      delta: trained - base, once it was computed.
      loss: mean loss in the first epoch.
    """

    base_version: int
    base: Weights
    left_s: float
    ends_s: float = math.inf
    delta: Weights | None = None
    loss: float = 0.0


def idle_agents(count: int) -> Agents:
    """N agents that have done nothing yet."""
    return Agents(
        state=np.zeros(count, np.int8),
        serial=np.zeros(count, np.int64),
        base=np.full(count, -1, np.int64),
        made=np.zeros(count, np.int64),
        asked_s=np.full(count, -math.inf),
        asked_version=np.full(count, -1, np.int64),
        awaits=np.zeros(count, np.bool_),
        loss=np.full(count, math.nan),
        uplink_s=np.zeros(count),
        folded=np.zeros(count, np.int64),
    )
