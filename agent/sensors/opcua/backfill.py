"""What was missed, read from the server's history (HistoryRead, OPC 10000-11, 6.4.3).

Reads raw values from the last sample that came to the first that comes again.  Whether nothing is
missing is known only where the history holds both of them; wherever it does not, the gap stays.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from asyncua import ua
from asyncua.client.ua_session import UaSession

from agent.sensors.opcua.intake import Intake
from agent.sensors.opcua.link import MALFORMED, reason_of
from agent.sensors.opcua.pending import Pending
from agent.sensors.opcua.session import items_of
from agent.sensors.opcua.settings import OpcUaSettings
from agent.sensors.opcua.timeline import NEVER_US, Timeline
from agent.sensors.opcua.values import Numbers, Values
from agent.sensors.source import SourceReport
from agent.signals.block import ArraySample

_VALUES_PER_CALL: Final = 10_000
_MARGIN_US: Final = 1000  # servers that keep milliseconds still have the bounds inside
_FIRST_SAMPLE_S: Final = 2.0
_POLL_S: Final = 0.05
_ALIKE_US: Final = 60_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_ALL: Final = "connection lost; the server's history does not show that it has all"
_NO_HISTORY: Final = "connection lost; the server's history can not be read"


@dataclass
class Span:
    """What is to be read for one channel.

    Attributes:
      before_us: source timestamp of the last sample before.
      until_us: of the first one after; None when none has come.
      placed_us: of the last sample that was placed.
      has_before: the history holds the last sample before.
      has_until: the history holds the first one after.
      problem: why the history could not be read to its end; empty when it could.
    """

    before_us: int
    until_us: int | None
    placed_us: int
    has_before: bool = False
    has_until: bool = False
    problem: str = ""


class Backfill:
    """Fills gaps of channels whose server keeps a history.

    Args:
      settings: of the source.
      timeline: of its channels.
      values: makes numbers and arrays of what a history gives.
      intake: holds what comes live meanwhile.
      pending: may be too full for a history.
      report: where samples are counted.
    """

    def __init__(
        self,
        settings: OpcUaSettings,
        timeline: Timeline,
        values: Values,
        intake: Intake,
        pending: Pending,
        report: SourceReport,
    ) -> None:
        self._settings, self._timeline, self._intake = settings, timeline, intake
        self._values, self._pending, self._report = values, pending, report
        self._node_ids: dict[int, ua.NodeId] = {}
        self._wanted = asyncio.Event()

    def expect(self, channels: Iterable[int]) -> None:
        """Hold those of these channels that miss something, until `want` says which are read."""
        self._intake.hold(each for each in channels if self._timeline.is_open(each))

    def want(self, node_ids: Mapping[int, ua.NodeId]) -> None:
        """Read the history of these channels, as soon as `run` runs; others are not held."""
        self._node_ids.update({c: n for c, n in node_ids.items() if self._intake.is_held(c)})
        self._release_unwanted()
        if self._node_ids:
            self._wanted.set()

    def give_up(self) -> None:
        """Let everything flow that is held; what is missing stays marked."""
        self._node_ids.clear()
        self._release_unwanted()

    def _release_unwanted(self) -> None:
        self._intake.release(set(self._intake.held()) - self._node_ids.keys())

    async def run(self, session: UaSession, most: int) -> None:
        """Fill what is wanted, for ever; `most` nodes in one call."""
        self._release_unwanted()  # of a creation that was cut short
        while True:
            if not self._node_ids:
                self._wanted.clear()
                await self._wanted.wait()
            await self._first_samples()
            some = self._alike(most)
            await self._fill(session, some)
            for channel in some:
                self._node_ids.pop(channel, None)

    def _alike(self, most: int) -> dict[int, ua.NodeId]:
        """Channels whose spans begin at about the same time: a call has one span for all."""
        last_us = self._timeline.last_us
        channels = sorted(self._node_ids, key=lambda channel: int(last_us[channel]))
        first_us = int(last_us[channels[0]])
        return {
            channel: self._node_ids[channel]
            for channel in channels[:most]
            if int(last_us[channel]) - first_us <= _ALIKE_US
        }

    async def _first_samples(self) -> None:
        """Wait a moment until each channel has a sample again, which ends its span."""
        patience_s = _FIRST_SAMPLE_S + 2 * self._settings.publishing_interval_ms / 1000
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s:
            if all(self._intake.first_held_us(c) is not None for c in self._node_ids):
                return
            await asyncio.sleep(_POLL_S)

    async def _fill(self, session: UaSession, node_ids: Mapping[int, ua.NodeId]) -> None:
        spans = {channel: self._span(channel) for channel in node_ids}
        due = {channel: node_ids[channel] for channel, span in spans.items() if span is not None}
        try:
            async for channel, values in self._history(session, due, spans):
                span = spans[channel]
                if span is not None and self._intake.is_held(channel):
                    self._replay(channel, span, values)
        except (TimeoutError, ua.UaError, *MALFORMED) as error:  # the subscription may be well
            for span in spans.values():
                if span is not None:
                    span.problem = reason_of(error)
        for channel, span in spans.items():
            if span is not None:
                self._conclude(channel, span)
        self._intake.release(spans)

    def _span(self, channel: int) -> Span | None:
        """What to read; None when nothing can be missing, or not be asked for."""
        from_us = int(self._timeline.last_us[channel])
        until_us = self._intake.first_held_us(channel)
        if from_us == NEVER_US or (until_us is not None and until_us <= from_us):
            return None
        return Span(from_us, until_us, from_us)

    async def _history(
        self,
        session: UaSession,
        node_ids: Mapping[int, ua.NodeId],
        spans: Mapping[int, Span | None],
    ) -> AsyncIterator[tuple[int, list[ua.DataValue]]]:
        """Pages of values by channel; each page is placed before the next is asked for."""
        nodes = [
            (channel, ua.HistoryReadValueId(NodeId=node_id))
            for channel, node_id in node_ids.items()
        ]
        # Spans differ, and a call has only one: read the longest, and leave out what is known.
        found = [span for channel, _ in nodes if (span := spans[channel]) is not None]
        while nodes and found:
            await self._pending.room()
            results = await self._read(session, [node for _, node in nodes], found)
            again: list[tuple[int, ua.HistoryReadValueId]] = []
            for (channel, node), result in zip(nodes, results, strict=True):
                span = spans[channel]
                if span is not None and not result.StatusCode.is_good():
                    span.problem = result.StatusCode.name
                    continue
                yield channel, _values_of(result)
                if result.ContinuationPoint:
                    node.ContinuationPoint = result.ContinuationPoint
                    again.append((channel, node))
            nodes = again

    async def _read(
        self, session: UaSession, nodes: list[ua.HistoryReadValueId], spans: Iterable[Span]
    ) -> list[ua.HistoryReadResult]:
        now_us = time.time_ns() // 1000
        ends_us = [now_us if span.until_us is None else span.until_us for span in spans]
        begin_us = min(span.before_us for span in spans)
        begin_us = max(begin_us, max(ends_us) - int(self._settings.history_max_s * 1e6))
        details = ua.ReadRawModifiedDetails(
            IsReadModified=False,
            StartTime=_datetime(begin_us - _MARGIN_US),
            EndTime=_datetime(max(ends_us) + _MARGIN_US),
            NumValuesPerNode=ua.UInt32(_VALUES_PER_CALL),
            ReturnBounds=False,
        )
        results = await session.history_read(
            ua.HistoryReadParameters(
                HistoryReadDetails=details,
                TimestampsToReturn=ua.TimestampsToReturn.Both,
                ReleaseContinuationPoints=False,
                NodesToRead=nodes,
            )
        )
        if len(results) != len(nodes):
            reason = f"the server answered {len(results)} of {len(nodes)} histories"
            raise ua.UaError(reason)
        return list(results)

    def _replay(self, channel: int, span: Span, values: list[ua.DataValue]) -> None:
        """Place what is new of one page."""
        items = items_of(((channel, value) for value in values), datetime.now(UTC))
        numbers, arrays = self._values.typed(items)
        numbers = _in_time(numbers)
        times_us = {sample.source_timestamp_us for sample in arrays} | set(numbers[3].tolist())
        span.has_before |= span.before_us in times_us
        span.has_until |= span.until_us in times_us
        new = _within(numbers, span)
        new_arrays = _arrays_within(arrays, span)
        if span.has_before and (len(new[0]) or new_arrays):
            self._timeline.close_gap(channel)
        self._report.count("backfilled_samples", len(new[0]) + len(new_arrays))
        self._intake.place(new, new_arrays, is_replayed=True)
        if len(new[0]) or new_arrays:
            span.placed_us = int(self._timeline.last_us[channel])

    def _conclude(self, channel: int, span: Span) -> None:
        """Close the gap where all is known to be there; else say why it is not."""
        # Where samples were placed, the gap before them was marked, or is proven not to be.
        begins_whole = span.has_before or span.placed_us != span.before_us
        self._timeline.close_gap(channel)
        if span.problem:
            self._timeline.open_gaps([channel], f"{_NO_HISTORY}: {span.problem}")
        elif not (begins_whole and span.has_until):
            self._timeline.open_gaps([channel], _NOT_ALL)


def _values_of(result: ua.HistoryReadResult) -> list[ua.DataValue]:
    data = result.HistoryData
    return list(data.DataValues or ()) if isinstance(data, ua.HistoryData) else []


def _datetime(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)


def _in_time(numbers: Numbers) -> Numbers:
    """In the order of their timestamps, each once: some historians keep a value twice."""
    channel, value, status, at_us = numbers
    at_us, order = np.unique(at_us, return_index=True)
    return channel[order], value[order], status[order], at_us


def _within(numbers: Numbers, span: Span) -> Numbers:
    channel, value, status, at_us = numbers
    chosen = at_us > span.placed_us
    if span.until_us is not None:
        chosen &= at_us < span.until_us
    return channel[chosen], value[chosen], status[chosen], at_us[chosen]


def _arrays_within(samples: list[ArraySample], span: Span) -> list[ArraySample]:
    until_us = np.inf if span.until_us is None else span.until_us
    found = {
        each.source_timestamp_us: each
        for each in samples
        if span.placed_us < each.source_timestamp_us < until_us
    }
    return [found[at_us] for at_us in sorted(found)]
