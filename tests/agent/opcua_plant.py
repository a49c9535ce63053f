"""What tests of the OPC UA source share: a plant of another make, a bad link, a collector."""

import asyncio
import json
import os
import selectors
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.sensors.opcua import OpcUaChannel, OpcUaSettings, opcua_blocks
from agent.sensors.source import SourceContext, SourceReport
from agent.signals.block import Block, Gap
from shopfloor.ports import free_port

PLANT_URI = "urn:journeyman:plant"
DEADLINE_S = 40.0


class Plant:
    """tests/node_opcua/plant.cjs in a process; `start` again after `kill` is the same plant."""

    def __init__(self, node: str, folder: Path, scratch: Path, **options: object) -> None:
        self._command = [node, str(folder / "plant.cjs")]
        self.port = free_port()
        self.scratch = scratch
        self.start_ms = int(time.time() * 1000) - 1000
        self.options: dict[str, object] = {
            "pki": str(scratch / "plant-pki"),
            "start_ms": self.start_ms,
            **options,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""

    @property
    def endpoint(self) -> str:
        """Its own, without a link."""
        return self.endpoint_at(self.port)

    @staticmethod
    def endpoint_at(port: int) -> str:
        """Where it is found behind a link that listens there."""
        return f"opc.tcp://127.0.0.1:{port}/plant"

    def start(self, **options: object) -> None:
        """Start it, with options changed, and wait until it is ready."""
        self.options.update(options)
        self._said = b""
        log = self.scratch / "plant.log"
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*self._command, str(self.port), json.dumps(self.options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
            )
        self._wait_for("READY", log)

    def tell(self, command: str) -> None:
        """Give a command and wait until it is done."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._wait_for("DONE", self.scratch / "plant.log")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _wait_for(self, word: str, log: Path) -> None:
        assert self._process is not None
        output = self._process.stdout
        assert output is not None
        deadline = time.monotonic() + DEADLINE_S
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while selector.select(timeout=max(0.0, deadline - time.monotonic())):
                some = os.read(output.fileno(), 65_536)
                self._said += some
                *lines, self._said = self._said.split(b"\n")
                if any(line.startswith(word.encode()) for line in lines):
                    return
                if not some:
                    break
        pytest.fail(f"the plant did not say {word}; it wrote:\n{log.read_text()[-4000:]}")


@contextmanager
def running_plant(node: str, folder: Path, scratch: Path, **options: object) -> Iterator[Plant]:
    """A plant that runs; killed at the end."""
    if not (folder / "node_modules" / "node-opcua").is_dir():
        pytest.skip("node-opcua is not installed: run tests/install.sh .venv/bin/python")
    plant = Plant(node, folder, scratch, **options)
    try:
        plant.start()
        yield plant
    finally:
        plant.kill()


class Wire:
    """A TCP proxy in the way of the plant; it can be cut, and it can swallow every byte."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._is_cut = False
        self._is_hole = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0

    @asynccontextmanager
    async def up(self) -> AsyncIterator["Wire"]:
        """Listen."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()
            self._abort()

    def cut(self) -> None:
        """Reset every connection, and every new one."""
        self._is_cut = True
        self._abort()

    def swallow(self) -> None:
        """Take bytes and forward none; nobody is told."""
        self._is_hole = True

    def mend(self) -> None:
        """Work again; what was swallowed is gone, and so are the connections that missed it."""
        if self._is_hole:
            self._abort()
        self._is_cut = self._is_hole = False

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        with suppress(asyncio.CancelledError):  # the test is over
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                if not self._is_hole:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        writer.transport.abort()


@dataclass
class Taken:
    """All that a source gave so far."""

    channels: tuple[str, ...]
    report: SourceReport
    blocks: list[Block] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """Values of one channel of numbers, in their order."""
        return self._column(name, "value")

    def times_us(self, name: str) -> list[int]:
        """Source timestamps of one channel of numbers, in their order."""
        return [int(each) for each in self._column(name, "source_timestamp_us")]

    def arrays(self, name: str) -> list[Any]:
        """Arrays of one channel."""
        at = self.channels.index(name)
        return [each.value for block in self.blocks for each in block.arrays if each.channel == at]

    def gaps(self, name: str) -> list[Gap]:
        """Gaps of one channel."""
        at = self.channels.index(name)
        return [gap for block in self.blocks for gap in block.gaps if gap.channel == at]

    @property
    def samples(self) -> int:
        """How many there are; a source that is alive gives empty blocks too."""
        return sum(block.samples for block in self.blocks)

    def missing(self, name: str) -> list[tuple[float, float]]:
        """Neighbors among the values of a running count between which some are missing."""
        values = self.values(name)
        return [(a, b) for a, b in pairwise(values) if b > a + 1]

    def repeated(self, name: str) -> list[tuple[float, float]]:
        """Neighbors among the values of a running count that do not rise."""
        values = self.values(name)
        return [(a, b) for a, b in pairwise(values) if b <= a]

    def _column(self, name: str, column: str) -> list[float]:
        at = self.channels.index(name)
        parts = [getattr(block, column)[block.channel == at] for block in self.blocks]
        return [float(each) for each in np.concatenate(parts)] if parts else []


def plant_settings(endpoint: str, *names: str, **keys: Any) -> OpcUaSettings:
    """Settings for channels of the plant, named as their nodes; short times."""
    more = {
        "Wave": {"shape": (8,)},
        "State": {"states": {"RUN": 1.0, "STOP": 0.0}},
        "Span": {"field": "High"},
    }
    short = {
        "publishing_interval_ms": 50.0,
        "keep_alive_s": 0.5,
        "silence_s": 2.0,
        "answer_s": 2.0,
        "retry_max_s": 1.0,
    }
    channels = tuple(
        OpcUaChannel(name=name, node=f"s={name}", **more.get(name, {}))  # type: ignore[arg-type]
        for name in names
    )
    given: dict[str, Any] = {"channel": channels, **short, **keys}
    return OpcUaSettings(endpoint=endpoint, namespace_uri=PLANT_URI, **given)


@asynccontextmanager
async def collecting(settings: OpcUaSettings, folder: Path) -> AsyncIterator[Taken]:
    """A source that runs, and what it gave."""
    report = SourceReport("opcua")
    taken = Taken(tuple(each.name for each in settings.channel), report)
    context = SourceContext(folder, folder / "state", "agent-1")

    async def collect() -> None:
        async with aclosing(opcua_blocks(settings, context, report)) as blocks:
            async for block in blocks:
                taken.blocks.append(block)

    task = asyncio.create_task(collect())
    try:
        yield taken
        if task.done():
            task.result()
            pytest.fail("the source ended")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], taken: Taken) -> None:
    """Wait for something to become true, and fail with the source's report if it does not."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"it did not come true; {taken.report}")
        await asyncio.sleep(0.02)


async def until_more(taken: Taken, *names: str, number: int = 5) -> None:
    """Wait until each of these channels has given so many samples more."""
    before = {name: _given(taken, name) for name in names}
    await until(lambda: all(_given(taken, name) >= before[name] + number for name in names), taken)


def _given(taken: Taken, name: str) -> int:
    return len(taken.values(name)) + len(taken.arrays(name))
