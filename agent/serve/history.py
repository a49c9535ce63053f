"""Scores of the last while, for HistoryRead: a bounded ring of numbers for each model's node.

20 bytes a score, where a list of asyncua's DataValues would take a kilobyte.  Values come back in
the order of their source timestamps, also when rows came late; of those with one timestamp the one
that was made last.  No bounding values (OPC 10000-11, 6.5.3), no modified history.

A continuation point is the source timestamp of the next value, so that nothing is kept for readers
who never come back.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from agent.serve.score import microseconds_of, time_of
from agent.serve.values import data_value

_NEVER_US: Final = microseconds_of(ua.get_win_epoch())
"""1601-01-01: a time that is not given (OPC 10000-11, 6.5.3.2)."""
_POINT_BYTES: Final = 8


@dataclass(frozen=True)
class Span:
    """What to read.

    Attributes:
      begin_us: where reading begins, included.
      stop_us: where it ends, included; None at the last value in that direction.
      is_backwards: newest first.
      most: values.
    """

    begin_us: int
    stop_us: int | None
    is_backwards: bool
    most: int


class Ring:
    """The newest `size` scores of one node."""

    def __init__(self, size: int) -> None:
        self._time_us = np.zeros(size, np.int64)
        self._value = np.zeros(size, np.float64)
        self._status = np.zeros(size, np.uint32)
        self._count = 0

    def add(self, time_us: int, value: float, status: int) -> None:
        """Add a score; the oldest goes when it is full."""
        at = self._count % len(self._time_us)
        self._time_us[at], self._value[at], self._status[at] = time_us, value, status
        self._count += 1

    def read(
        self, span: Span
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.uint32], int | None]:
        """Values of a span, in the order asked for, and the time of the next one if there is one.

        Returns:
          times int64 (N,), values float64 (N,), statuses uint32 (N,), the next value's time.
        """
        size = len(self._time_us)
        order = np.arange(max(0, self._count - size), self._count) % size
        order = order[::-1]  # the newest of equal times first, so that `unique` takes it
        times, first = np.unique(self._time_us[order], return_index=True)
        order = order[first]
        ends = (span.begin_us, span.stop_us)
        low, high = reversed(ends) if span.is_backwards else ends
        begin = 0 if low is None else int(np.searchsorted(times, low, "left"))
        end = len(times) if high is None else int(np.searchsorted(times, high, "right"))
        order = order[begin:end]
        if span.is_backwards:
            order = order[::-1]
        taken = order[: span.most]
        following = int(self._time_us[order[span.most]]) if len(order) > span.most else None
        return self._time_us[taken], self._value[taken], self._status[taken], following


class ScoreHistory:
    """Rings by node.

    Args:
      size: of each ring; 0: none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._rings: dict[ua.NodeId, Ring] = {}

    def keep(self, node: ua.NodeId) -> None:
        """Begin to keep the history of a node, or go on."""
        if self.size and node not in self._rings:
            self._rings[node] = Ring(self.size)

    def add(self, node: ua.NodeId, time_us: int, value: float, status: int) -> None:
        """Add a score to the history of a node, if it has one."""
        ring = self._rings.get(node)
        if ring is not None:
            ring.add(time_us, value, status)

    def read(self, node: ua.HistoryReadValueId, details: object, most: int) -> ua.HistoryReadResult:
        """Answer one node of a HistoryRead (OPC 10000-4, 5.11.3; OPC 10000-11, 6.5.3).

        Args:
          node: whose history, and where to continue.
          details: of the request; raw values are served, nothing else is.
          most: values in one answer.
        """
        if not isinstance(details, ua.ReadRawModifiedDetails) or details.IsReadModified:
            return _failed(ua.StatusCodes.BadHistoryOperationUnsupported)
        ring = self._rings.get(node.NodeId)
        if ring is None:
            return _failed(ua.StatusCodes.BadHistoryOperationUnsupported)
        span = _span(details, node.ContinuationPoint, most)
        if span is None:
            return _failed(ua.StatusCodes.BadInvalidTimestampArgument)
        times, values, statuses, following = ring.read(span)
        result = ua.HistoryReadResult()
        result.HistoryData = ua.HistoryData(
            [
                data_value(float(value), ua.VariantType.Double, int(status), time_of(int(time)))
                for time, value, status in zip(times, values, statuses, strict=True)
            ]
        )
        # With one end of the time open, so many values are all that was asked for.
        is_complete = span.stop_us is None and 0 < details.NumValuesPerNode <= most
        if following is not None and not is_complete:
            result.ContinuationPoint = following.to_bytes(_POINT_BYTES, "big", signed=True)
        return result


def _span(details: ua.ReadRawModifiedDetails, point: bytes | None, most: int) -> Span | None:
    """What a request asks for (OPC 10000-11, 6.5.3.2); None when it gives no time at all."""
    start, end = _given(details.StartTime), _given(details.EndTime)
    if start is None:
        start, end, is_backwards = end, None, True
    else:
        is_backwards = end is not None and end < start
    if start is None:
        return None
    if point and len(point) == _POINT_BYTES:
        start = int.from_bytes(point, "big", signed=True)
    return Span(start, end, is_backwards, min(details.NumValuesPerNode or most, most))


def _given(time: datetime | None) -> int | None:
    """A time in microseconds since 1970; None for one that is not given."""
    if time is None:
        return None
    microseconds = microseconds_of(time)
    return None if microseconds <= _NEVER_US else microseconds


def _failed(code: int) -> ua.HistoryReadResult:
    return ua.HistoryReadResult(StatusCode=ua.StatusCode(ua.UInt32(code)))
