"""Folding client updates: integers in, exact sums out.

Integers, so that the order of arrival can not change the model, and so that a masked update will
fold by the same line (`wire/PROTOCOL.md`, "Updates are integers").  Buffering after FedBuff
(Nguyen et al., arXiv:2106.06639, algorithm 1), weighted by examples as in FedAvg (McMahan et al.,
arXiv:1602.05629).

A buffer has one sum, or several buckets for a rule that compares them (`coordinator/robust.py`).
Its memory does not grow with its members but for a few numbers about each.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

MAX_WEIGHT_SUM = 1 << 46
"""int64 holds 2**46 of weight times 2**15 of a 16-bit step with room to spare."""
_BLOCK = 1 << 16
"""Parameters folded at a time: fewer cost calls, more do not fit the caches."""
_ROWS = 16
"""Updates widened at a time; they and a block bound the scratch memory, 4 MiB."""
_MOST_WAITING = 64
"""Contributions that wait; another makes them all be added up, which bounds the memory."""
_INT32_REACH = 1 << 31


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One client update of a buffer, without its numbers.

    Attributes:
      agent, site: who sent it.
      base_version: what it was trained from.
      weight: what it adds to its bucket's divisor; positive.
      coefficient: what its integers are multiplied by; `weight`, or less where it was clipped, or
        zero where it was too far away to count.
      distance: how far it was from the centre that clipping is about, in parameters' units; zero
        where nothing is clipped.
      bucket: which of the buffer's sums it is in.
    """

    agent: str
    site: str
    base_version: int
    weight: Annotated[int, msgspec.Meta(ge=1)]
    coefficient: Annotated[int, msgspec.Meta(ge=0)]
    distance: float = 0.0
    bucket: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclass(frozen=True)
class Contribution:
    """One client update on its way into a sum.

    Attributes:
      delta: trained - base in steps of the public scale, int8 or int16, shape (P,).
      coefficient: what it is multiplied by.
      bucket: which sum it belongs to.
    """

    delta: NDArray[np.signedinteger]
    coefficient: int
    bucket: int = 0


@dataclass(frozen=True)
class Buffer:
    """What has been folded since the last version.

    Attributes:
      summed: int64, shape (B, P); of each bucket the sum of coefficient x integer delta, without
        those that wait.
      members: who is in it, in order of arrival.
      weight: sum of all members' weights.
      waiting: taken, and added up by the next `settled`: many at once cost a fraction.
    """

    summed: NDArray[np.int64]
    members: tuple[Member, ...]
    weight: int = 0
    waiting: tuple[Contribution, ...] = ()

    @property
    def agents(self) -> tuple[str, ...]:
        """Who is in it, in order of arrival."""
        return tuple(member.agent for member in self.members)

    @property
    def sites(self) -> set[str]:
        """The distinct sites behind it."""
        return {member.site for member in self.members}

    @property
    def total(self) -> NDArray[np.int64]:
        """Sums of coefficient x integer delta of all members, int64, shape (B, P)."""
        return settled(self).summed


def empty(parameters: int, buckets: int = 1) -> Buffer:
    """A buffer without members for a model of P parameters."""
    return Buffer(np.zeros((buckets, parameters), np.int64), ())


def fold(buffer: Buffer, delta: NDArray[np.signedinteger], member: Member) -> Buffer:
    """Return the buffer with one client update more; the given one is not changed.

    Args:
      buffer: as it was.
      delta: trained - base in steps of the public scale, int8 or int16, shape (P,).
      member: whose it is, and what it counts.

    Raises:
      OverflowError: the sum of weights could overflow the accumulator.
    """
    weight = buffer.weight + member.weight
    if weight > MAX_WEIGHT_SUM:
        reason = f"the buffer's weight {weight} exceeds {MAX_WEIGHT_SUM}; lower weight_cap"
        raise OverflowError(reason)
    before = settled(buffer) if len(buffer.waiting) == _MOST_WAITING else buffer
    waiting = (*before.waiting, Contribution(delta, member.coefficient, member.bucket))
    return Buffer(before.summed, (*buffer.members, member), weight, waiting)


def settled(buffer: Buffer) -> Buffer:
    """Return the same buffer with nothing waiting: exact integer sums, in any order the same."""
    if not buffer.waiting:
        return buffer
    summed = np.empty_like(buffer.summed)
    rows = np.empty((min(_ROWS, len(buffer.waiting)), min(_BLOCK, summed.shape[1])), np.int32)
    is_new = len(buffer.waiting) == len(buffer.members)  # then zeros need not be read
    for bucket, (before, after) in enumerate(zip(buffer.summed, summed, strict=True)):
        waiting = [item for item in buffer.waiting if item.bucket == bucket]
        if not waiting:
            after[:] = before
        base = None if is_new else before
        for group in _groups(waiting):
            _add(group, base, after, rows)
            base = after
    return replace(buffer, summed=summed, waiting=())


def bucket_means(
    buffer: Buffer, scale: float, centre: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean delta of each bucket that has members that count, and its weight.

    A clipped member moves from the centre by its clipped distance only, so the part of its weight
    that clipping took away is the centre's:  c (1 - C/W) + scale * S/W, with the sums S of
    coefficient x delta, C of coefficients and W of weights.  A member whose coefficient is zero
    counts for nothing; where no member counts, the one mean is zero.

    Args:
      buffer: with at least one member.
      scale: value of one integer step.
      centre: float64, shape (P,); None for zero.

    Returns:
      float64 (b, P) and float64 (b,), in the order of the buckets.
    """
    weights, taken = Counter[int](), Counter[int]()
    for member in buffer.members:
        if member.coefficient:
            weights[member.bucket] += member.weight
            taken[member.bucket] += member.coefficient
    filled = sorted(weights)
    total = buffer.total
    if not filled:
        return np.zeros((1, total.shape[1])), np.ones(1)
    means = np.empty((len(filled), total.shape[1]), np.float64)
    for row, bucket in enumerate(filled):
        np.multiply(total[bucket], scale / weights[bucket], out=means[row], dtype=np.float64)
        if centre is not None and taken[bucket] != weights[bucket]:
            means[row] += centre * (1.0 - taken[bucket] / weights[bucket])
    return means, np.array([weights[bucket] for bucket in filled], np.float64)


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
    if group:
        yield group


def _add(
    group: list[Contribution],
    base: NDArray[np.int64] | None,
    out: NDArray[np.int64],
    rows: NDArray[np.int32],
) -> None:
    """Put base (None: zero) + group into `out`, block by block: int32 inside, int64 once.

    One pass widens each update into a row of the scratch memory, one multiplies and adds the rows.
    No BLAS: for integers there is none, and its threads spin for longer than a fold takes.
    """
    if len(group) == 1:
        product = np.multiply(group[0].delta, group[0].coefficient, dtype=np.int64)
        np.add(product, 0 if base is None else base, out=out)
        return
    coefficients = np.array([item.coefficient for item in group], np.int32)
    block = rows.shape[1]
    scratch = np.empty((2, block), np.int32)
    for start in range(0, len(out), block):
        here = slice(start, min(start + block, len(out)))
        partial, more = scratch[:, : here.stop - start]
        for first in range(0, len(group), _ROWS):
            items = group[first : first + _ROWS]
            tile = rows[: len(items), : here.stop - start]
            for row, item in zip(tile, items, strict=True):
                row[:] = item.delta[here]
            weights = coefficients[first : first + _ROWS]
            np.einsum("u,up->p", weights, tile, out=more if first else partial)
            if first:
                partial += more
        if base is None:
            out[here] = partial
        else:
            np.add(base[here], partial, out=out[here])
