"""A real Modbus slave (libmodbus) and the line to it, which tests can cut, delay and garble."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.sensors.modbus import ModbusSettings, modbus_blocks, problems
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import Gap
from wire.settings import parse_settings

SOURCE = Path(__file__).parent / "slave.c"
DEADLINE_S = 20.0
BAUD = 115_200
LIVE_UNIT = 7


def build_slave(folder: Path) -> Path:
    """Compile slave.c; skips the test where gcc or libmodbus is missing."""
    for tool in ("gcc", "pkg-config"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: run tests/install.sh .venv/bin/python as root")
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libmodbus"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        pytest.skip("libmodbus-dev is not installed: run tests/install.sh .venv/bin/python as root")
    program = folder / "slave"
    subprocess.run(
        ["gcc", "-Wall", "-Werror", "-O1", "-o", program, SOURCE, *found.stdout.split()],
        check=True,
        timeout=60,
    )
    return program


@contextlib.contextmanager
def running(program: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The slave, from when it can be asked until the end of the block."""
    with subprocess.Popen(
        [program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("READY")
            yield process
        finally:
            process.kill()


class SerialWire:
    """Two pseudo-terminals and what passes between them: the agent's end and the slave's.

    `to_agent` and `to_slave` turn the bytes of one direction into what arrives; `asked` keeps the
    requests.  The agent's port is named by a link, as udev names an adapter by its identity.
    """

    def __init__(self, folder: Path) -> None:
        self.port = folder / "usb-adapter-0001"
        self.asked: list[bytes] = []
        self.to_agent: Callable[[bytes], bytes] = bytes
        self.to_slave: Callable[[bytes], bytes] = bytes
        self.delay_s = 0.0
        self._slave_master, self._slave_keeper = os.openpty()
        tty.setraw(self._slave_keeper)
        self.slave_path = os.ttyname(self._slave_keeper)
        self._agent_ends: tuple[int, int] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._slave_master, self._from_slave)
        self.plug()

    def plug(self) -> None:
        master, keeper = os.openpty()
        tty.setraw(keeper)
        self._agent_ends = master, keeper
        self.port.symlink_to(os.ttyname(keeper))
        self._loop.add_reader(master, self._from_agent)

    def unplug(self) -> None:
        assert self._agent_ends is not None
        self._loop.remove_reader(self._agent_ends[0])
        for end in self._agent_ends:
            os.close(end)
        self._agent_ends = None
        self.port.unlink()

    def close(self) -> None:
        if self._agent_ends is not None:
            self.unplug()
        self._loop.remove_reader(self._slave_master)
        os.close(self._slave_master)
        os.close(self._slave_keeper)

    def say(self, data: bytes) -> None:
        """Put bytes on the line that nobody sent."""
        if self._agent_ends is not None:
            os.write(self._agent_ends[0], data)

    def _from_agent(self) -> None:
        assert self._agent_ends is not None
        data = os.read(self._agent_ends[0], 4096)
        self.asked.extend(data[at : at + 8] for at in range(0, len(data), 8))
        os.write(self._slave_master, self.to_slave(data))

    def _from_slave(self) -> None:
        data = self.to_agent(os.read(self._slave_master, 4096))
        if self.delay_s:
            self._loop.call_later(self.delay_s, self.say, data)
        elif data:
            self.say(data)


@contextlib.asynccontextmanager
async def serial_wire(folder: Path) -> AsyncIterator[SerialWire]:
    wire = SerialWire(folder)
    try:
        yield wire
    finally:
        wire.close()


@dataclass(frozen=True)
class Seen:
    """One sample of a channel, by name."""

    name: str
    value: float
    status: int
    stamp_us: int


@dataclass
class Log:
    """What a source has said so far."""

    samples: list[Seen] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    report: SourceReport = field(default_factory=lambda: SourceReport("modbus"))

    def of(self, name: str) -> list[Seen]:
        return [each for each in self.samples if each.name == name]

    def good(self, name: str) -> list[float]:
        return [each.value for each in self.of(name) if each.status == 0]

    def bad(self, name: str) -> list[int]:
        return [each.status for each in self.of(name) if each.status != 0]

    def last(self, name: str) -> Seen | None:
        return next((each for each in reversed(self.samples) if each.name == name), None)


def line_settings(text: str) -> ModbusSettings:
    """Settings from `key = value` lines and, per channel, one line `name key=value ...`."""
    out: list[str] = []
    for line in text.strip().splitlines():
        if re.match(r"\s*(\w+ =|\[|#|$)", line):
            out.append(line.strip())
            continue
        name, *pairs = line.split()
        out += ["[[channel]]", f'name = "{name}"']
        for pair in pairs:
            key, _, value = pair.partition("=")
            plain = re.fullmatch(r"-?[\d.]+|0x[0-9a-f]+|\[.*\]", value)
            out.append(f"{key} = {value if plain else repr(value)}")
    settings = parse_settings("\n".join(out), ModbusSettings, "test")
    assert not list(problems(settings))
    return settings


class Reading:
    """A source that is read in the background; `until` waits for something to be seen."""

    def __init__(self, settings: ModbusSettings) -> None:
        self.log = Log()
        self._settings = settings
        self._news = asyncio.Event()

    async def run(self) -> None:
        names = [channel.name for channel in self._settings.channel]
        context = SourceContext(Path(), Path(), "agent")
        async with contextlib.aclosing(
            modbus_blocks(self._settings, context, self.log.report)
        ) as blocks:
            async for block in blocks:
                self.log.gaps += block.gaps
                self.log.samples += [
                    Seen(names[channel], float(value), int(status), int(stamp))
                    for channel, value, status, stamp in zip(
                        block.channel,
                        block.value,
                        block.status,
                        block.source_timestamp_us,
                        strict=True,
                    )
                ]
                self._news.set()

    async def until(self, holds: Callable[[Log], bool]) -> Log:
        """Wait until it holds for what was seen."""
        async with asyncio.timeout(DEADLINE_S):
            while not holds(self.log):
                self._news.clear()
                await self._news.wait()
        return self.log

    async def more_good(self, count: int, *names: str) -> Log:
        """Wait for so many Good samples more of each of these channels."""
        wanted = {name: len(self.log.good(name)) + count for name in names}
        return await self.until(
            lambda log: all(len(log.good(name)) >= many for name, many in wanted.items())
        )

    async def more_bad(self, count: int, *names: str) -> Log:
        """Wait for so many Bad samples more of each of these channels."""
        wanted = {name: len(self.log.bad(name)) + count for name in names}
        return await self.until(
            lambda log: all(len(log.bad(name)) >= many for name, many in wanted.items())
        )


@contextlib.asynccontextmanager
async def reading(settings: ModbusSettings) -> AsyncIterator[Reading]:
    source = Reading(settings)
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run(work: Awaitable[None]) -> None:
    """Run one asynchronous test."""

    async def main() -> None:
        await work

    asyncio.run(main())
