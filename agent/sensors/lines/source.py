"""The source: opens the port, reads or asks, and never gives up.

Everything that a device or a line does ends in the report, in Bad samples and in gaps.  A device
that vanishes is opened again by its path, for ever.  A device that speaks by itself and is silent
for `silent_after_ms`, or whose every frame is refused, is reported while the port stays open.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from typing import Protocol

from agent.sensors.lines.binary import BinaryDecoder
from agent.sensors.lines.blocks import BlockMaker
from agent.sensors.lines.port import Piece, Port, PortError, open_port
from agent.sensors.lines.readings import Readings
from agent.sensors.lines.settings import BinarySettings, LinesSettings, request_bytes
from agent.sensors.lines.stamps import Arrivals
from agent.sensors.lines.text import TextDecoder
from agent.sensors.source import Blocks, SourceContext, SourceReport
from agent.sensors.steady_clock import SteadyClock
from agent.signals.block import EMPTY, Block
from wire.reconnecting import Reconnecting

_GATHER_S = 0.01
"""Shortest time between two blocks of a device that speaks by itself: 100 a second are enough."""
_QUIET_S = 0.2
"""After so long without a byte an unfinished frame will not be completed."""
_IDLE_S = 1.0
"""How often a quiet port is looked after."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 2.0
_REFUSED_IN_A_ROW = 5
"""So many pieces without one good frame are reported."""
_ABSENT_FRAMES = 100
"""A channel that none of so many frames mentions is reported."""


class Decoder(Protocol):
    """From bytes to readings; text and binary."""

    @property
    def offset(self) -> int:
        """Bytes taken so far."""

    @property
    def kept(self) -> int:
        """Stream offset of the first byte that is kept."""

    def reset(self) -> None:
        """Forget what is kept."""

    def flush(self) -> Readings:
        """The line is quiet."""

    def push(self, data: bytes) -> Readings:
        """What these bytes complete."""


class _Line:
    """One source: what stays when the device comes and goes."""

    def __init__(self, settings: LinesSettings, report: SourceReport) -> None:
        self.settings, self.report = settings, report
        self.decoder: Decoder = (
            BinaryDecoder(settings)
            if isinstance(settings, BinarySettings)
            else TextDecoder(settings)
        )
        self.blocks = BlockMaker(
            tuple(channel.shape for channel in settings.channel),
            has_own_times=settings.timestamp is not None,
        )
        bits = 1 + settings.bytesize + (settings.parity != "none") + settings.stopbits
        self.arrivals = Arrivals(bits, settings.baudrate)
        self._clock = SteadyClock()
        self._absent = [0] * len(settings.channel)
        self._refused = 0

    def now_us(self) -> int:
        """The gateway's clock, never stepping backwards."""
        return self._clock.now_us()

    def begin(self) -> None:
        """Another connection: what is kept of the last one is not continued."""
        self.decoder.reset()

    def take(self, pieces: Sequence[Piece]) -> list[Block]:
        """The blocks of what was read; none for bytes that complete no frame."""
        together: list[bytes] = []
        offset = self.decoder.offset
        for piece in pieces:
            if piece.is_after_loss:
                self.decoder.reset()
            offset += len(piece.data)
            self.arrivals.note(offset, piece.at_us)
            together.append(piece.data)
        return self._made(self.decoder.push(b"".join(together))) if together else []

    def flush(self) -> list[Block]:
        """The blocks of what was waiting for more, now that the line is quiet."""
        return self._made(self.decoder.flush())

    def _made(self, readings: Readings) -> list[Block]:
        stamps = self.arrivals.stamps(readings.ends)
        self.arrivals.forget(self.decoder.kept)
        counted = self.blocks.bad_values, self.blocks.gaps
        block = self.blocks.block(readings, stamps)
        for name, count in readings.counters.items():
            self.report.count(name, count)
        self._count("bad_values", self.blocks.bad_values - counted[0])
        self._count("gaps", self.blocks.gaps - counted[1])
        self._note(readings)
        return [block] if len(readings) else []

    def _count(self, name: str, by: int) -> None:
        if by:
            self.report.count(name, by)

    def _note(self, readings: Readings) -> None:
        """Report frames that are all refused, and channels that no frame mentions."""
        if len(readings):
            self._refused = 0
            self.report.state = "reading"
            self.report.problems.pop("frames", None)
        elif readings.complaint:
            self._refused += 1
            if self._refused >= _REFUSED_IN_A_ROW:
                self.report.problems["frames"] = f"none is readable: {readings.complaint}"
        for at, channel in enumerate(self.settings.channel):
            if not len(readings):
                break
            is_there = bool(readings.is_present[:, at].any())
            self._absent[at] = 0 if is_there else self._absent[at] + len(readings)
            if is_there:
                self.report.problems.pop(channel.name, None)
            elif self._absent[at] >= _ABSENT_FRAMES:
                self.report.problems[channel.name] = f"not in the last {self._absent[at]} frames"

    def lost(self, reason: str, *, is_gap: bool = True) -> Block:
        """Bad samples for an outage that begins now, or for a poll without an answer."""
        return self.blocks.lost(reason, self.arrivals.mark(self.now_us()), is_gap=is_gap)


async def lines_blocks(
    settings: LinesSettings, context: SourceContext, report: SourceReport
) -> Blocks:
    """The blocks of one serial line, for ever; see the module."""
    del context  # a device's path is absolute, and nothing is kept on disk
    line = _Line(settings, report)
    waits = Reconnecting(_FIRST_RETRY_S, _LONGEST_RETRY_S, random.Random())  # noqa: S311  jitter only
    is_first = True
    while True:
        lived_s = 0.0
        reason = ""
        try:
            port = await open_port(settings, line.now_us)
        except PortError as error:
            reason = str(error)
        else:
            began_s = time.monotonic()
            report.state = "open, nothing heard yet"
            report.problems.pop("port", None)
            if not is_first:
                report.count("reconnects")
            line.begin()
            read = _asked if request_bytes(settings) else _heard
            try:
                async with contextlib.aclosing(read(line, port)) as blocks:
                    async for block in blocks:
                        yield block
            except PortError as error:
                reason = str(error)
            finally:
                port.close()
            lived_s = time.monotonic() - began_s
        report.state = f"lost: {reason}"
        report.problems["port"] = reason
        if is_first or lived_s:
            yield line.lost("connection lost")
        is_first = False
        await asyncio.sleep(waits.wait_s(lived_s))
        yield EMPTY


async def _heard(line: _Line, port: Port) -> Blocks:
    """Read a device that speaks by itself, until the port is lost."""
    silent_s = line.settings.silent_after_ms / 1000
    framed_s = checked_s = time.monotonic()
    is_silent = False
    while True:
        pieces = await port.read(_QUIET_S)
        blocks = line.take(pieces) if pieces else line.flush()
        now_s = time.monotonic()
        _count_dropped(line, port)
        for block in blocks:
            yield block
        if blocks:
            framed_s, is_silent = now_s, False
            await asyncio.sleep(_GATHER_S)
        elif silent_s and now_s - framed_s > silent_s and not is_silent:
            is_silent = True
            line.report.state = f"silent: no frame for {silent_s:g} s"
            line.report.count("silences")
            yield line.lost("no frame")
        if now_s - checked_s >= _IDLE_S:
            checked_s = now_s
            port.check()
            if not blocks:
                yield EMPTY


async def _asked(line: _Line, port: Port) -> Blocks:
    """Send the request and read the answer, again and again, until the port is lost."""
    interval_s = line.settings.poll_interval_ms / 1000
    due_s = time.monotonic()
    while True:
        answers = await _answer(line, port)
        if not answers:
            line.report.count("timeouts")
            line.report.state = "no answer"
            line.report.problems["device"] = "does not answer the request, or not in this format"
            answers = [line.lost("no answer", is_gap=False)]
        else:
            line.report.problems.pop("device", None)
        for block in answers:
            yield block
        _count_dropped(line, port)
        due_s = max(due_s + interval_s, time.monotonic())
        while (left_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, _IDLE_S))
            if left_s > _IDLE_S:
                yield EMPTY
        port.check()


async def _answer(line: _Line, port: Port) -> list[Block]:
    """The blocks of one answer; none when there was no good one, all retries included."""
    request = request_bytes(line.settings)
    for attempt in range(line.settings.retries + 1):
        if attempt:
            line.report.count("retries")
        port.discard_input()
        line.begin()
        await port.write(request)
        until_s = time.monotonic() + line.settings.answer_timeout_ms / 1000
        while (left_s := until_s - time.monotonic()) > 0:
            blocks = line.take(await port.read(left_s))
            if blocks:
                return blocks
        blocks = line.flush()
        if blocks:
            return blocks
    return []


def _count_dropped(line: _Line, port: Port) -> None:
    """Report what the agent was too slow to take."""
    if port.dropped_bytes:
        line.report.count("dropped_bytes", port.dropped_bytes)
        port.dropped_bytes = 0
