"""Folding client updates: integers in, one mean delta out.

Integers, so that the order of arrival can not change the model, and so that a masked update will
fold by the same line (`wire/PROTOCOL.md`, "Updates are integers").  Buffering after FedBuff
(Nguyen et al., arXiv:2106.06639, algorithm 1), weighted by examples as in FedAvg (McMahan et al.,
arXiv:1602.05629).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

MAX_WEIGHT_SUM = 1 << 46
"""int64 holds 2**46 of weight times 2**15 of a 16-bit step with room to spare."""
_BLOCK = 1 << 16
"""Parameters folded at a time: an int32 block of them stays in the second-level cache."""
_INT32_REACH = 1 << 31


@dataclass(frozen=True)
class Contribution:
    """One client update on its way into a sum.

    Attributes:
      delta: trained - base in steps of the public scale, int8 or int16, shape (P,).
      coefficient: positive integer, sample weight after staleness.
    """

    delta: NDArray[np.signedinteger]
    coefficient: int


@dataclass(frozen=True)
class Buffer:
    """What has been folded since the last version.

    Attributes:
      summed: int64, shape (P,); sum of coefficient x integer delta, without those that wait.
      weight: sum of the coefficients, those that wait included.
      agents: who is in it, in order of arrival.
      waiting: taken, and added up by the next `settled`: many at once cost a fraction.
    """

    summed: NDArray[np.int64]
    weight: int
    agents: tuple[str, ...]
    waiting: tuple[Contribution, ...] = ()

    @property
    def members(self) -> int:
        """Number of updates."""
        return len(self.agents)

    @property
    def total(self) -> NDArray[np.int64]:
        """Sum of coefficient x integer delta of all members, int64, shape (P,)."""
        return settled(self).summed


def empty(parameters: int) -> Buffer:
    """A buffer without members for a model of P parameters."""
    return Buffer(np.zeros(parameters, np.int64), 0, ())


def fold(buffer: Buffer, delta: NDArray[np.signedinteger], coefficient: int, agent: str) -> Buffer:
    """Return the buffer with one client update more; the given one is not changed.

    Args:
      buffer: as it was.
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
    waiting = (*buffer.waiting, Contribution(delta, coefficient))
    return Buffer(buffer.summed, weight, (*buffer.agents, agent), waiting)


def settled(buffer: Buffer) -> Buffer:
    """Return the same buffer with nothing waiting: exact integer sums, in any order the same."""
    if not buffer.waiting:
        return buffer
    summed = buffer.summed.copy()
    for group in _groups(buffer.waiting):
        _add(group, summed)
    return replace(buffer, summed=summed, waiting=())


def mean_delta(buffer: Buffer, scale: float) -> NDArray[np.float64]:
    """The weighted mean delta, float64, shape (P,)."""
    return np.multiply(buffer.total, scale / buffer.weight, dtype=np.float64)


def _groups(waiting: Sequence[Contribution]) -> Iterator[list[Contribution]]:
    """Contributions whose sum fits int32, or one alone whose product may not."""
    group: list[Contribution] = []
    reach = 0
    for item in waiting:
        largest = item.coefficient << (8 * item.delta.itemsize - 1)
        if group and reach + largest >= _INT32_REACH:
            yield group
            group, reach = [], 0
        group.append(item)
        reach += largest
    yield group


def _add(group: list[Contribution], summed: NDArray[np.int64]) -> None:
    """Add a group block by block: int32 inside, int64 once (`wire/PROTOCOL.md`, "The fold")."""
    if len(group) == 1:
        summed += np.multiply(group[0].delta, group[0].coefficient, dtype=np.int64)
        return
    partial, product = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.int32)
    for start in range(0, len(summed), _BLOCK):
        stop = min(start + _BLOCK, len(summed))
        part, temporary = partial[: stop - start], product[: stop - start]
        part[:] = 0
        for item in group:
            np.multiply(item.delta[start:stop], item.coefficient, out=temporary, dtype=np.int32)
            part += temporary
        summed[start:stop] += part
