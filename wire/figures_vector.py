"""Evaluations and statistics as vectors of integers, so that masked ones add (`wire/SECURE.md`).

    evaluation of two classes    positives (256), negatives (256), alarms (2)
    of more classes              confusion matrix (C x C), row by row
    of numbers, reconstruction   rows, then error, absolute, squared, label, label_squared
    of a bundle with alarm.share rows, rows by error (256), then the same
    and each                     loss, then 1 where an output was no number (its loss counts as 0)
    statistics                   count, then sums, then squares

A count is one integer.  A real number is two: x = high * 2**20 + low * 2**-30, both rounded down,
0 <= low < 2**50; beyond +-2**70 it is clipped.  So a sum over up to 4,096 reports is exact to
2**-30 for each, and fits the ring of 64 bits with room for its sign.

Pure.  Refuses a sum that no reports can have.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wire.chunks import sha256
from wire.errors import MalformedError
from wire.messages import BINS, Errors, Evaluation, Statistics
from wire.tally import OVERFLOW, Kind

BITS = 52
"""Of each integer, with its sign: 2**12 of them fit the ring."""
RING: Literal[64] = 64
_HIGH, _LOW = 2.0**20, 2.0**-30
_MOST = 2.0**70
_ERRORS = ("error", "absolute", "squared", "label", "label_squared")


def subject_of(digests: Sequence[bytes]) -> bytes:
    """What an evaluation of several weights is about: SHA-256 of their digests, in order."""
    return sha256(b"".join(digests))


def evaluation_length(kind: Kind, classes: int, *, counts_errors: bool = False) -> int:
    """Integers for the evaluation of one model.

    Args:
      kind: of the bundle's task.
      classes: of the bundle; 0 for numbers.
      counts_errors: whether the bundle asks for rows by error (`Manifest.counts_errors`).
    """
    match kind:
        case "binary":
            own = 2 * BINS + 2
        case "classes":
            own = classes * classes
        case _:
            own = 1 + BINS * counts_errors + 2 * len(_ERRORS)
    return own + 3


def encode_evaluations(evaluations: Sequence[Evaluation]) -> NDArray[np.int64]:
    """Lay out evaluations of several models, one behind the other, int64."""
    return np.concatenate([_encoded(each) for each in evaluations])


def decode_evaluations(
    vector: NDArray[np.int64],
    digests: Sequence[bytes],
    kind: Kind,
    classes: int,
    sites: int,
    *,
    counts_errors: bool = False,
) -> list[Evaluation]:
    """Read the sum of evaluations.

    Args:
      vector: int64.
      digests: of the models, in order.
      kind: of the bundle's task.
      classes: of the bundle; 0 for numbers.
      sites: how many reported: where most of them got outputs that are no numbers, so did all.
      counts_errors: as for `evaluation_length`.

    Raises:
      MalformedError: another length, or a negative count.
    """
    length = evaluation_length(kind, classes, counts_errors=counts_errors)
    if len(vector) != length * len(digests):
        raise MalformedError(f"{len(vector)} integers, expected {length * len(digests)}")
    return [
        _decoded(vector[at * length : (at + 1) * length], digest, kind, sites)
        for at, digest in enumerate(digests)
    ]


def encode_statistics(statistics: Statistics) -> NDArray[np.int64]:
    """Lay out statistics, int64, 1 + 4 x columns."""
    numbers = np.array([*statistics.sums, *statistics.squares])
    return np.concatenate([np.array([statistics.count], np.int64), _two_each(numbers)])


def decode_statistics(vector: NDArray[np.int64], bundle: bytes, columns: int) -> Statistics:
    """Read the sum of statistics; `MalformedError` for another length or no rows."""
    if len(vector) != 1 + 4 * columns or vector[0] < 1:
        raise MalformedError(f"{len(vector)} integers are no statistics of {columns} columns")
    numbers = _one_each(vector[1:])
    return Statistics(
        bundle=bundle,
        count=int(vector[0]),
        sums=tuple(numbers[:columns].tolist()),
        squares=tuple(numbers[columns:].tolist()),
    )


def _encoded(evaluation: Evaluation) -> NDArray[np.int64]:
    is_number = evaluation.loss < OVERFLOW
    counts = [*evaluation.positives, *evaluation.negatives, *evaluation.confusion]
    if evaluation.positives:
        counts += evaluation.alarms
    numbers: list[float] = []
    if evaluation.errors is not None:
        counts = [evaluation.errors.rows, *evaluation.rows_by_error]
        numbers = [getattr(evaluation.errors, name) for name in _ERRORS]
    numbers.append(evaluation.loss if is_number else 0.0)
    parts = (np.array(counts, np.int64), _two_each(np.array(numbers)), np.array([not is_number]))
    return np.concatenate([part.astype(np.int64) for part in parts])


def _decoded(vector: NDArray[np.int64], digest: bytes, kind: Kind, sites: int) -> Evaluation:
    tail = 2 * len(_ERRORS) + 3 if kind in {"numbers", "reconstruction"} else 3
    counts = [int(count) for count in vector[: len(vector) - tail]]
    numbers = _one_each(vector[len(vector) - tail : -1]).tolist()
    overflowed = int(vector[-1])
    if min(counts, default=0) < 0 or not 0 <= overflowed <= sites:
        raise MalformedError("a sum of counts that no reports can have")
    loss = OVERFLOW if 2 * overflowed > sites else min(max(numbers[-1], 0.0), OVERFLOW)
    if tail > 3:
        sums = dict(zip(_ERRORS, numbers, strict=False))
        errors = Errors(rows=counts[0], **sums)
        return Evaluation(digest=digest, errors=errors, rows_by_error=tuple(counts[1:]), loss=loss)
    if kind == "classes":
        return Evaluation(digest=digest, confusion=tuple(counts), loss=loss)
    return Evaluation(
        digest=digest,
        positives=tuple(counts[:BINS]),
        negatives=tuple(counts[BINS : 2 * BINS]),
        alarms=(counts[2 * BINS], counts[2 * BINS + 1]),
        loss=loss,
    )


def _two_each(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    inside = np.clip(np.nan_to_num(numbers, nan=_MOST), -_MOST, _MOST)
    high = np.floor(inside / _HIGH)
    low = np.floor((inside - high * _HIGH) / _LOW)
    return np.stack([high, low], axis=1).ravel().astype(np.int64)


def _one_each(integers: NDArray[np.int64]) -> NDArray[np.float64]:
    pairs = integers.reshape(-1, 2).astype(np.float64)
    numbers: NDArray[np.float64] = pairs[:, 0] * _HIGH + pairs[:, 1] * _LOW
    return numbers
