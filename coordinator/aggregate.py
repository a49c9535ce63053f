"""Folding client updates: integers in, one mean delta out.

Integers, so that the order of arrival can not change the model, and so that a masked update will
fold by the same line (`wire/PROTOCOL.md`, "Updates are integers").  Buffering after FedBuff
(Nguyen et al., arXiv:2106.06639, algorithm 1), weighted by examples as in FedAvg (McMahan et al.,
arXiv:1602.05629).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_WEIGHT_SUM = 1 << 46
"""int64 holds 2**46 of weight times 2**15 of a 16-bit step with room to spare."""


@dataclass(frozen=True)
class Buffer:
    """What has been folded since the last version.

    Attributes:
      total: int64, shape (P,); sum of coefficient x integer delta.
      weight: sum of the coefficients.
      members: number of updates.
      agents: who is in it, in order of arrival.
    """

    total: NDArray[np.int64]
    weight: int
    members: int
    agents: tuple[str, ...]


def empty(parameters: int) -> Buffer:
    """A buffer without members for a model of P parameters."""
    return Buffer(np.zeros(parameters, np.int64), 0, 0, ())


def fold(
    buffer: Buffer,
    delta: NDArray[np.signedinteger],
    coefficient: int,
    agent: str,
) -> Buffer:
    """Return the buffer with one client update added.

    Args:
      buffer: as it was; its array is not changed.
      delta: trained - base in steps of the public scale, int8 or int16, shape (P,).
      coefficient: positive integer, sample weight after staleness.
      agent: who sent it.

    Raises:
      OverflowError: the sum of coefficients could overflow the accumulator.
    """
    weight = buffer.weight + coefficient
    if weight > MAX_WEIGHT_SUM:
        reason = f"the buffer's weight {weight} exceeds {MAX_WEIGHT_SUM}; lower weight_cap"
        raise OverflowError(reason)
    total = buffer.total + np.multiply(delta, coefficient, dtype=np.int64)
    return Buffer(total, weight, buffer.members + 1, (*buffer.agents, agent))


def mean_delta(buffer: Buffer, scale: float) -> NDArray[np.float64]:
    """The weighted mean delta, float64, shape (P,)."""
    return np.multiply(buffer.total, scale / buffer.weight, dtype=np.float64)
