"""The source on real pseudo-terminals."""

import asyncio
import errno
import os
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serial

from agent.sensors.lines import port as port_module
from agent.sensors.lines import problems
from agent.sensors.lines.checksums import checksum
from agent.sensors.lines.port import Port, open_port
from agent.sensors.lines.settings import (
    BinaryChannel,
    BinarySettings,
    DelimitedChannel,
    DelimitedSettings,
    KeyValueChannel,
    KeyValueSettings,
    LinesSettings,
)
from agent.sensors.lines.source import lines_blocks
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import Block, Gap

BAD_NO_COMMUNICATION = 0x80310000
BAD_DECODING_ERROR = 0x80070000
LIMIT_S = 20


class Plug:
    """A device behind a path that stays the same while devices come and go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.master = -1
        self._slave = -1

    def plug_in(self) -> None:
        self.master, self._slave = os.openpty()
        os.set_blocking(self.master, False)
        beside = self.path.with_suffix(".new")
        beside.symlink_to(os.ttyname(self._slave))
        beside.rename(self.path)

    def draw(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.master)
        os.close(self._slave)
        self.master = self._slave = -1

    def send(self, data: bytes) -> None:
        assert os.write(self.master, data) == len(data)


class Reading:
    """A running source, and all that came out of it."""

    def __init__(self, settings: LinesSettings, tmp_path: Path) -> None:
        self.report = SourceReport("lines")
        self._blocks = lines_blocks(settings, SourceContext(tmp_path, tmp_path, "a"), self.report)
        self.blocks: list[Block] = []

    async def run(self) -> None:
        async with aclosing(self._blocks) as blocks:
            async for block in blocks:
                self.blocks.append(block)

    def samples(self, channel: int = 0) -> list[tuple[float, int, int]]:
        """Value, status and source timestamp; the value of a Bad sample is None-like -1."""
        return [
            (float(np.nan_to_num(value, nan=-1.0)), int(status), int(time_us))
            for block in self.blocks
            for at, value, status, time_us in zip(
                block.channel, block.value, block.status, block.source_timestamp_us, strict=True
            )
            if at == channel
        ]

    def good(self, channel: int = 0) -> list[float]:
        return [value for value, status, _ in self.samples(channel) if not status]

    def gaps(self) -> list[Gap]:
        return [gap for block in self.blocks for gap in block.gaps]

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not is_so():  # noqa: ASYNC110  a report is a plain object
                await asyncio.sleep(0.005)

    async def until_open(self) -> None:
        await self.until(lambda: self.report.state.startswith("open"))


@pytest.fixture
def plug(tmp_path: Path) -> Plug:
    found = Plug(tmp_path / "usb-scale-if00")
    found.plug_in()
    return found


@asynccontextmanager
async def reading(settings: LinesSettings, tmp_path: Path) -> AsyncIterator[Reading]:
    assert list(problems(settings)) == []
    source = Reading(settings, tmp_path)
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


def table(path: Path, **more: Any) -> DelimitedSettings:
    channels = tuple(DelimitedChannel(name=name, column=at) for at, name in enumerate("ab"))
    return DelimitedSettings(device=str(path), columns=2, channel=channels, **more)


def test_lines_in_pieces_become_samples_with_rising_times(plug: Plug, tmp_path: Path) -> None:
    async def scenario() -> None:
        before_us = time.time_ns() // 1000
        async with reading(table(plug.path), tmp_path) as source:
            await source.until_open()
            plug.send(b"7,7\n1,10\r\n2,2")
            await asyncio.sleep(0.03)
            plug.send(b"0\r\nx,30\r\n4,nan\r\n5,1e999\r\n")
            await source.until(lambda: len(source.samples(1)) == 5)
            assert source.good(0) == [1, 2, 4, 5]
            assert source.good(1) == [10, 20, 30]
            bad = [status for _, status, _ in source.samples(1) if status]
            assert bad == [BAD_DECODING_ERROR, BAD_DECODING_ERROR]
            assert source.report.counters["bad_values"] == 3
            times = [time_us for _, _, time_us in source.samples(0)]
            assert times == sorted(set(times))
            assert before_us <= times[0] <= times[-1] <= time.time_ns() // 1000
            assert source.report.state == "reading"
            assert source.gaps() == []

    asyncio.run(scenario())


def test_a_drawn_plug_is_waited_for_and_the_outage_is_marked(plug: Plug, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with reading(table(plug.path), tmp_path) as source:
            await source.until_open()
            plug.send(b"\n1,10\n2,20\n")
            await source.until(lambda: len(source.good(1)) == 2)
            plug.draw()
            await source.until(lambda: source.samples(1)[-1][1] == BAD_NO_COMMUNICATION)
            await source.until(lambda: "no such device" in source.report.state)
            plug.plug_in()
            await source.until_open()
            plug.send(b"99\n3,30\n")
            await source.until(lambda: len(source.good(1)) == 3)
            assert source.good(0) == [1, 2, 3]
            first, last = (source.samples(0)[at][2] for at in (1, 3))
            assert source.gaps() == [
                Gap(channel, first, last, "connection lost") for channel in (0, 1)
            ]
            assert source.report.counters["reconnects"] == 1
            assert source.report.problems == {}
            times = [time_us for _, _, time_us in source.samples(0)]
            assert times == sorted(set(times))

    asyncio.run(scenario())


def test_another_device_behind_the_path_is_noticed_though_the_old_one_says_nothing(
    plug: Plug, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with reading(table(plug.path), tmp_path) as source:
            await source.until_open()
            plug.send(b"\n1,1\n")
            await source.until(lambda: source.good(1) == [1])
            plug.plug_in()  # the old one stays open, and silent
            await source.until(lambda: source.report.counters.get("reconnects") == 1)
            await source.until_open()
            plug.send(b"\n2,2\n")
            await source.until(lambda: source.good(1) == [1, 2])

    asyncio.run(scenario())


def test_the_port_is_held_exclusively_until_the_source_ends(plug: Plug, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with reading(table(plug.path), tmp_path) as source:
            await source.until_open()
            with pytest.raises(serial.SerialException) as refused:
                serial.Serial(str(plug.path), exclusive=True)
            assert refused.value.errno in (errno.EAGAIN, errno.EBUSY)
        serial.Serial(str(plug.path), exclusive=True).close()

    asyncio.run(scenario())


def test_a_port_that_another_program_holds_is_reported_and_taken_when_free(
    plug: Plug, tmp_path: Path
) -> None:
    async def scenario() -> None:
        other = serial.Serial(str(plug.path), exclusive=True)
        async with reading(table(plug.path), tmp_path) as source:
            await source.until(lambda: "another program" in source.report.problems.get("port", ""))
            other.close()
            await source.until_open()
            plug.send(b"\n1,1\n")
            await source.until(lambda: source.good(0) == [1])
            assert source.report.problems == {}

    asyncio.run(scenario())


def test_a_device_that_is_no_serial_port_is_an_error_that_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "file").write_bytes(b"")
        async with reading(table(tmp_path / "file"), tmp_path) as source:
            await source.until(lambda: source.report.state.startswith("lost"))
            assert "port" in source.report.problems["port"]
            assert str(tmp_path / "file") in source.report.problems["port"]

    asyncio.run(scenario())


def test_silence_is_an_outage_while_the_port_stays_open(plug: Plug, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with reading(table(plug.path, silent_after_ms=600), tmp_path) as source:
            await source.until_open()
            plug.send(b"\n1,1\n")
            await source.until(lambda: len(source.samples(1)) == 2)
            assert source.samples(1)[1][1] == BAD_NO_COMMUNICATION
            assert source.report.state.startswith("silent")
            plug.send(b"2,2\n")
            await source.until(lambda: source.good(1) == [1, 2])
            assert [gap.reason for gap in source.gaps()] == ["no frame", "no frame"]
            assert source.report.state == "reading"

    asyncio.run(scenario())


def test_lines_of_another_form_are_reported_with_the_last_of_them(
    plug: Plug, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with reading(table(plug.path), tmp_path) as source:
            await source.until_open()
            for at in range(20):
                plug.send(b"\nvoltage=%d\n" % at)
                await asyncio.sleep(0.02)
            await source.until(lambda: "frames" in source.report.problems)
            assert "1 columns instead of 2: b'voltage=" in source.report.problems["frames"]
            assert source.report.counters["refused_lines"] > 0
            plug.send(b"1,1\n")
            await source.until(lambda: source.report.problems == {})

    asyncio.run(scenario())


def test_binary_frames_with_a_waveform_arrive_whole(plug: Plug, tmp_path: Path) -> None:
    settings = BinarySettings(
        device=str(plug.path),
        sync="AA 55",
        byte_order="big",
        fields={"t": "h", "wave": "64h"},
        checksum="crc32",
        channel=(
            BinaryChannel(name="t", field="t", scale=0.1),
            BinaryChannel(name="wave", field="wave", shape=(64,), scale=0.5, offset=1.0),
        ),
    )
    body = b"\xaa\x55" + struct.pack(">h64h", -125, *range(64))
    frame = body + checksum("crc32").of(body).to_bytes(4, "big")

    async def scenario() -> None:
        async with reading(settings, tmp_path) as source:
            await source.until_open()
            plug.send(frame[:40])
            await asyncio.sleep(0.02)
            plug.send(frame[40:] + frame[:-1] + b"!" + frame)
            await source.until(lambda: len(source.good(0)) == 2)
            assert source.good(0) == [-12.5, -12.5]
            arrays = [array for block in source.blocks for array in block.arrays]
            assert [array.channel for array in arrays] == [1, 1]
            assert arrays[0].value.dtype == np.float32
            assert arrays[1].value.tolist() == [0.5 * at + 1 for at in range(64)]
            assert len(source.gaps()) == 2
            assert source.report.counters["bad_frames"] >= 1

    asyncio.run(scenario())


def asked(path: Path, **more: Any) -> KeyValueSettings:
    return KeyValueSettings(
        device=str(path),
        request="READ?\r\n",
        poll_interval_ms=30,
        channel=(KeyValueChannel(name="t", key="T"), KeyValueChannel(name="p", key="P")),
        **more,
    )


class Instrument:
    """Answers each request with the next of these answers; None is silence."""

    def __init__(self, plug: Plug, answers: list[bytes | None]) -> None:
        self._plug, self.answers = plug, answers
        self.requests: list[bytes] = []
        self._heard = b""

    def hear(self) -> None:
        self._heard += os.read(self._plug.master, 1000)
        *requests, self._heard = self._heard.split(b"\r\n")
        for request in requests:
            self.requests.append(request)
            answer = self.answers.pop(0) if self.answers else None
            if answer:
                self._plug.send(answer)


def test_an_instrument_that_must_be_asked_is_asked_again_when_it_does_not_answer(
    plug: Plug, tmp_path: Path
) -> None:
    async def scenario() -> None:
        answers = [b"T=1;P=10\n", None, b"T=2;P=20\n", b"T=3;", b"READ?\r\nT=3;P=30\n", b"T=4\n"]
        instrument = Instrument(plug, answers)
        asyncio.get_running_loop().add_reader(plug.master, instrument.hear)
        async with reading(asked(plug.path, answer_timeout_ms=400), tmp_path) as source:
            await source.until(lambda: len(source.good(0)) == 4)
            assert source.good(0) == [1, 2, 3, 4]
            assert source.good(1) == [10, 20, 30]
            assert source.report.counters["retries"] == 2
            assert set(instrument.requests) == {b"READ?"}
            assert "refused_lines" not in source.report.counters
            assert source.gaps() == []
            await source.until(lambda: source.samples(1)[-1][1] == BAD_NO_COMMUNICATION)
            assert source.report.state == "no answer"
            assert "device" in source.report.problems
            instrument.answers = [b"T=5;P=50\n"] * 1000
            await source.until(lambda: source.good(1)[-1] == 50)
            assert source.report.problems == {}
            assert source.report.state == "reading"

    asyncio.run(scenario())


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(
    plug: Plug, tmp_path: Path
) -> None:
    async def scenario() -> None:
        instrument = Instrument(plug, [])
        asyncio.get_running_loop().add_reader(plug.master, instrument.hear)
        settings = asked(plug.path, answer_timeout_ms=60, retries=0)
        async with reading(settings, tmp_path) as source:
            await source.until(lambda: len(source.samples()) == 1)
            plug.send(b"T=666;P=6")
            count = len(source.samples())
            await source.until(lambda: len(source.samples()) >= count + 2)
            instrument.answers = [b"T=1;P=1\n"] * 1000
            await source.until(lambda: bool(source.good(0)))
            assert 666 not in source.good(0)
            assert source.good(1)[0] == 1

    asyncio.run(scenario())


def test_an_agent_that_is_too_slow_drops_the_oldest_bytes_and_says_so(
    plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_module, "MAX_WAITING_BYTES", 300)

    async def scenario() -> None:
        port: Port = await open_port(table(plug.path), lambda: 0)
        try:
            for _ in range(5):
                plug.send(b"x" * 100)
                await asyncio.sleep(0.02)
            pieces = await port.read(1.0)
            assert sum(len(piece.data) for piece in pieces) == 300
            assert [piece.is_after_loss for piece in pieces] == [True, False, False]
            assert port.dropped_bytes == 200
        finally:
            port.close()

    asyncio.run(scenario())


def test_a_request_that_the_line_does_not_take_does_not_hang(
    plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_module, "_WRITE_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        port: Port = await open_port(table(plug.path), lambda: 0)
        try:
            with pytest.raises(port_module.PortError, match="flow control"):
                await port.write(b"x" * 100_000)
        finally:
            port.close()

    asyncio.run(scenario())
