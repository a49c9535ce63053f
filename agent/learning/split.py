"""Which rows are held out of training: whole groups, or whole stretches of time.

Pure and deterministic by seed. There is no random split by row: windows cut from one signal
overlap, and a held-out window that shares samples with a training window measures memory, not
learning. A machine, a tool or a work order is a group; one machine's signal is split by time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def split_by_group(
    groups: NDArray[np.integer[Any]] | NDArray[np.str_], share: float, seed: int
) -> NDArray[np.bool_]:
    """Hold out whole groups.

    A group is held out when the hash of (seed, its name) falls into the lowest `share`, so it
    stays on its side when other groups appear or leave. If this leaves one side empty, the group
    next to the border changes sides; it alone may move back when groups appear.

    Args:
      groups: (N,), each row's group: integers or strings.
      share: of the groups, in (0, 1); of the rows only about so.
      seed: another one gives another choice.

    Returns:
      bool (N,): true where a row is held out.

    Raises:
      ValueError: fewer than two groups, or an argument out of range.
    """
    _check_share(share)
    names, of_row = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{len(names)} group: need at least 2, one for each side")
    places = np.array([_place(seed, str(name)) for name in names])
    held_out = places < share
    if not held_out.any():
        held_out[places.argmin()] = True
    elif held_out.all():
        held_out[places.argmax()] = False
    chosen: NDArray[np.bool_] = held_out[of_row.reshape(-1)]
    return chosen


@dataclass(frozen=True)
class Split:
    """Two sides with nothing in common; what is on neither side is purged.

    Attributes:
      train: bool (N,), windows to train on.
      held_out: bool (N,), windows to judge by.
    """

    train: NDArray[np.bool_]
    held_out: NDArray[np.bool_]


def split_by_time(
    first: NDArray[Any],
    last: NDArray[Any],
    share: float,
    *,
    seed: int,
    blocks: int = 10,
    gap: float = 0.0,
) -> Split:
    """Hold out whole blocks of time, and purge the windows that reach across a border.

    Time is cut into blocks with equally many window beginnings; the seed chooses which are held
    out. A window is held out when it lies in held-out blocks alone, and trained on when it keeps
    at least `gap` away from every one of them. So no instant belongs to windows of both sides.
    Purging after Lopez de Prado, Advances in Financial Machine Learning (2018), section 7.4.

    Args:
      first: (N,), time of each window's first sample, in any unit.
      last: (N,), time of each window's last sample, `last` >= `first`.
      share: of the blocks, in (0, 1), rounded to at least one and not all.
      seed: another one gives another choice.
      blocks: how many, >= 2; each should be many windows long.
      gap: time to keep between a training window and a held-out block, in the same unit.

    Returns:
      The split, at least one window on each side.

    Raises:
      ValueError: an argument is out of range, or one side would be empty; says how many windows
        each side has.
    """
    _check_share(share)
    if blocks < 2 or gap < 0:
        raise ValueError(f"blocks = {blocks} and gap = {gap}: need at least 2, and no negative gap")
    if first.ndim != 1 or first.shape != last.shape or len(first) < 2:
        raise ValueError(f"times of shapes {first.shape} and {last.shape}: need two (N,), N >= 2")
    if not (last >= first).all():
        raise ValueError("a window ends before it begins, or its times are NaN")
    # Block b holds the times from borders[b - 1] up to, not including, borders[b].
    borders = np.sort(first)[np.arange(1, blocks) * len(first) // blocks]
    chosen = np.zeros(blocks, np.int64)
    number = min(blocks - 1, max(1, round(share * blocks)))
    chosen[np.random.default_rng(seed).permutation(blocks)[:number]] = 1
    touched, lengths = _count_touched(chosen, borders, first, last)
    near, _ = _count_touched(chosen, borders, first - gap, last + gap)
    split = Split(train=near == 0, held_out=touched == lengths)
    if not split.train.any() or not split.held_out.any():
        raise ValueError(
            f"of {len(first)} windows in {blocks} blocks, {split.train.sum()} are left for "
            f"training and {split.held_out.sum()} are held out: need longer blocks"
        )
    return split


def _count_touched(
    chosen: NDArray[np.int64], borders: NDArray[Any], first: NDArray[Any], last: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many chosen blocks, and how many blocks, each interval touches."""
    begin = np.searchsorted(borders, first, side="right")
    end = np.searchsorted(borders, last, side="right")
    before = np.concatenate([[0], np.cumsum(chosen)])
    return before[end + 1] - before[begin], end + 1 - begin


def _place(seed: int, name: str) -> float:
    """Return a number in [0, 1) that depends on seed and name alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share = {share} is not between 0 and 1")
