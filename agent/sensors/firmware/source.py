"""The source: connects to the bridge, takes one stream, and never gives up.

Everything that the bridge, its lines and the microcontroller do ends in the report, in Bad samples
and in gaps.  Source timestamps are the bridge's: the device's own clock, fitted to UTC.
"""

import asyncio
import random
import time
from collections.abc import Iterator

from agent.sensors.firmware.blocks import BlockMaker
from agent.sensors.firmware.client import BridgeClient, BridgeLostError, bridge_client
from agent.sensors.firmware.settings import FirmwareSettings, field_of
from agent.sensors.source import Blocks, SourceContext, SourceReport
from agent.sensors.steady_clock import SteadyClock
from agent.signals.block import EMPTY, Block
from wire.bridge import Devices, DeviceState, FromBridge, Gap, Samples
from wire.reconnecting import Reconnecting

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 5.0
_IDLE_S = 1.0
"""How often it says that it is alive while nothing comes."""


class _Stream:
    """One source: what stays when the bridge comes and goes."""

    def __init__(self, settings: FirmwareSettings, report: SourceReport) -> None:
        self.settings, self.report = settings, report
        self.blocks = BlockMaker(settings.channel)
        self._clock = SteadyClock()
        self._heard_s = time.monotonic()
        self._is_lost = True

    def take(self, message: FromBridge) -> Iterator[Block]:
        """The blocks of one message."""
        settings = self.settings
        if isinstance(message, Devices):
            yield from self._devices(message)
        elif isinstance(message, Samples | Gap) and (message.device, message.stream) == (
            settings.device,
            settings.stream,
        ):
            counted = self.blocks.gaps
            if isinstance(message, Gap):
                yield self.blocks.gap(message)
                self.report.count("lost_samples", message.lost or 0)
            else:
                self._heard_s, self._is_lost = time.monotonic(), False
                self.report.state = "reading"
                self.report.count("samples", message.count)
                yield self.blocks.samples(message)
            self.report.count("gaps", self.blocks.gaps - counted)

    def _devices(self, message: Devices) -> Iterator[Block]:
        device = next((e for e in message.devices if e.name == self.settings.device), None)
        problem = self._bind(device)
        if problem:
            self.report.problems["device"] = problem
            yield from self.lose(problem)
        else:
            self.report.problems.pop("device", None)

    def _bind(self, device: DeviceState | None) -> str:
        """Find the channels; why nothing can come, or empty."""
        if device is None:
            return f"the bridge has no device {self.settings.device!r}"
        stream = next((e for e in device.streams if e.name == self.settings.stream), None)
        if stream is None:
            return f"{device.name} has no stream {self.settings.stream!r} in the bridge's file"
        missing = self.blocks.bind(stream.channels)
        for field in map(field_of, self.settings.channel):
            self.report.problems.pop(field, None)
            if field in missing:
                self.report.problems[field] = "the stream has no channel of this name"
        return "" if device.state == "connected" else device.state

    def lose(self, reason: str) -> Iterator[Block]:
        """Say once that nothing comes."""
        self.report.state = f"lost: {reason}"
        if not self._is_lost:
            self._is_lost = True
            self.report.count("outages")
            yield self.blocks.lost("connection lost", self._clock.now_us())

    def look(self) -> Iterator[Block]:
        """Nothing came for a while."""
        silent_s = self.settings.silent_after_s
        if silent_s and not self._is_lost and time.monotonic() - self._heard_s > silent_s:
            yield from self.lose(f"no samples for {silent_s:g} s")


async def firmware_blocks(
    settings: FirmwareSettings, context: SourceContext, report: SourceReport
) -> Blocks:
    """The blocks of one stream, for ever; see the module."""
    stream = _Stream(settings, report)
    waits = Reconnecting(_FIRST_RETRY_S, _LONGEST_RETRY_S, random.Random())  # noqa: S311  jitter only
    socket = str(context.config_dir / settings.socket)
    while True:
        began_s = time.monotonic()
        lived_s = 0.0
        try:
            async with bridge_client(socket) as client:
                report.problems.pop("bridge", None)
                report.state = "connected, no samples yet"
                began_s = time.monotonic()
                while True:
                    for block in await _next_blocks(client, stream):
                        yield block
        except BridgeLostError as error:
            lived_s = time.monotonic() - began_s
            report.problems["bridge"] = str(error)
            for block in stream.lose(str(error)):
                yield block
        report.count("reconnects")
        await asyncio.sleep(waits.wait_s(lived_s))
        yield EMPTY


async def _next_blocks(client: BridgeClient, stream: _Stream) -> list[Block]:
    """What the next messages bring; an empty block when none come for a while."""
    try:
        async with asyncio.timeout(_IDLE_S):
            messages = await client.read()
    except TimeoutError:
        return [*stream.look(), EMPTY]
    blocks = [block for message in messages for block in stream.take(message)]
    return [*blocks, *stream.look()] or [EMPTY]
