"""`journeyman-bridge run` as a process, with the C library's device on a real pseudo-terminal."""

import asyncio
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from agent.sensors.firmware import FirmwareSettings, firmware_blocks
from agent.sensors.firmware.client import BridgeLostError, bridge_client
from agent.sensors.firmware.settings import FirmwareChannel
from agent.sensors.source import Blocks, SourceContext, SourceReport
from agent.signals.block import Block
from firmware_bridge.port import Port, PortError, byte_time_us, open_port
from shopfloor.microcontroller import build_program
from shopfloor.ports import free_port
from wire.bridge import ENDED_STAGES, Confirm, Deploy, Deployment, Devices, Samples

DEADLINE_S = 40.0
SENSOR_HZ = 50
CONFIG = """
[bridge]
socket = "bridge.sock"
client_bytes = 1048576
metrics = "127.0.0.1:{port}"
[[line]]
name = "usb"
port = "{device}"
[[line.device]]
name = "spindle"
[[line.device.stream]]
number = 0
name = "slow"
[[line.device.stream.channel]]
name = "a"
scale = 0.5
[[line.device.stream.channel]]
name = "b"
[[line.device.stream.channel]]
name = "c"
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program(tmp_path_factory.mktemp("device"))


@dataclass
class Plugged:
    """A device that can be drawn and plugged in again under one stable name."""

    program: Path
    name: Path
    process: subprocess.Popen[str] | None = None

    def plug(self) -> None:
        options = ["--pty", "--sensor", str(SENSOR_HZ), "--drift", "40"]
        command = [str(self.program), *options, "--flash", str(self.name.with_suffix(".flash"))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.name.symlink_to(self.process.stdout.readline().strip())

    def reset(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)

    def draw(self) -> None:
        if self.process is not None:
            self.name.unlink()
            self.process.kill()
            self.process.communicate()
            self.process = None


@dataclass
class Running:
    """A bridge, its folder, its device."""

    folder: Path
    device: Plugged
    process: subprocess.Popen[str]
    port: int

    @property
    def socket(self) -> str:
        return str(self.folder / "bridge.sock")

    def page(self, path: str, host: str = "127.0.0.1") -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        request.add_header("Host", host)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return str(answer.read().decode())


def is_up(bridge: Running) -> bool:
    """Whether socket and page both take connections: they open one after the other."""
    with socket.socket() as probe:
        has_page = probe.connect_ex(("127.0.0.1", bridge.port)) == 0
    return has_page and Path(bridge.socket).exists()


@contextmanager
def bridge_of(folder: Path, program: Path, repository: Path) -> Iterator[Running]:
    device = Plugged(program, folder / "tty")
    device.plug()
    port = free_port()
    config = folder / "bridge.toml"
    config.write_text(CONFIG.format(device=device.name, port=port))
    command = [sys.executable, "-m", "firmware_bridge.main", "run", str(config)]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)
    running = Running(folder, device, process, port)
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while not is_up(running) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        yield running
    finally:
        process.kill()
        process.communicate()
        device.draw()


@pytest.fixture
def bridge(tmp_path: Path, program: Path, repository: Path) -> Iterator[Running]:
    with bridge_of(tmp_path, program, repository) as running:
        yield running


def source_of(bridge: Running, report: SourceReport) -> Blocks:
    channels = (
        FirmwareChannel(name="speed", field="a"),
        FirmwareChannel(name="wave", field="b", shape=(8,)),
    )
    settings = FirmwareSettings(
        socket="bridge.sock", device="spindle", stream="slow", channel=channels
    )
    context = SourceContext(bridge.folder, bridge.folder, "gateway-1")
    return firmware_blocks(settings, context, report)


def test_samples_of_a_device_reach_the_agents_source_in_its_time(bridge: Running) -> None:
    report = SourceReport("firmware")
    blocks: list[Block] = []
    ages_s: list[float] = []

    async def read() -> None:
        async with asyncio.timeout(DEADLINE_S), aclosing(source_of(bridge, report)) as source:
            async for block in source:
                blocks.append(block)
                if len(block):
                    ages_s.append(time.time() - block.source_timestamp_us[-1] / 1e6)
                if len(ages_s) == 40:
                    break

    asyncio.run(read())
    assert report.state == "reading"
    assert not report.problems
    stamps_us = np.concatenate([block.source_timestamp_us for block in blocks])
    steps_us = np.diff(stamps_us)
    assert np.median(steps_us) == pytest.approx(1e6 / SENSOR_HZ, rel=0.05)
    assert steps_us.min() > 0
    assert min(ages_s) < 1.0
    values = np.concatenate([block.value for block in blocks])
    assert not np.any(values * 2 % 1)  # halves: raw * 0.5
    arrays = [array for block in blocks for array in block.arrays]
    assert len(arrays) == 5
    assert arrays[0].value.shape == (8,)


def test_an_unplugged_device_is_an_outage_and_comes_back(bridge: Running) -> None:
    report = SourceReport("firmware")
    seen: list[str] = []

    async def read() -> None:
        async with asyncio.timeout(DEADLINE_S), aclosing(source_of(bridge, report)) as source:
            async for block in source:
                if len(block) and block.status[0] == 0 and not seen:
                    seen.append("samples")
                    bridge.device.draw()
                elif len(block) and block.status[0] == 0x80310000 and seen == ["samples"]:
                    seen.append("lost")
                    assert report.state.startswith("lost: ")
                    bridge.device.plug()
                elif block.gaps and seen[1:]:
                    seen.append(block.gaps[0].reason)
                    break

    asyncio.run(read())
    assert seen == ["samples", "lost", "device was reset"]  # a plug that is drawn cuts its power


def test_a_model_is_deployed_confirmed_and_shown(bridge: Running, repository: Path) -> None:
    content = struct.pack("<IHHHHI", 20_000, 0, 0, 0, 0, 0) + os.urandom(20_000)
    told: list[Deployment] = []

    async def deploy() -> None:
        async with asyncio.timeout(DEADLINE_S), bridge_client(bridge.socket) as client:
            await client.send(Deploy("spindle", content, 60))
            await client.send(Deploy("pump", content, 60))
            while not told or told[-1].stage not in ENDED_STAGES or told[-1].device == "pump":
                for message in await client.read():
                    if isinstance(message, Deployment):
                        told.append(message)
                        if message.stage == "on trial":
                            await client.send(Confirm("spindle", message.sha256))

    asyncio.run(deploy())
    stages = [each.stage for each in told if each.device == "spindle"]
    assert [stage for stage in stages if stage in ("on trial", "confirmed")] == [
        "on trial",
        "confirmed",
    ]
    (refused,) = (each for each in told if each.device == "pump")
    assert (refused.stage, refused.reason) == ("failed", "there is no device of this name")
    command = [sys.executable, "-m", "firmware_bridge.main", "status"]
    shown = subprocess.run(
        [*command, str(bridge.folder / "bridge.toml")],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    ).stdout
    assert "spindle (line usb, address 0): connected" in shown
    assert f"A: confirmed {told[-1].sha256.hex()[:16]}, 20016 of 20016 bytes, runs" in shown


def test_a_client_that_does_not_read_or_talks_nonsense_harms_nobody(bridge: Running) -> None:
    with (
        socket.socket(socket.AF_UNIX) as sleeper,
        socket.socket(socket.AF_UNIX) as stranger,
    ):
        sleeper.connect(bridge.socket)
        stranger.connect(bridge.socket)
        stranger.sendall(b"\xff" * 64)
        stranger.settimeout(DEADLINE_S)
        while stranger.recv(65_536):  # ends: it is disconnected
            pass

        async def read() -> int:
            count = 0
            async with asyncio.timeout(DEADLINE_S), bridge_client(bridge.socket) as client:
                (first, *_) = await client.read()
                assert isinstance(first, Devices)
                while count < 30:
                    count += sum(isinstance(each, Samples) for each in await client.read())
            return count

        assert asyncio.run(read()) >= 30


def test_figures_and_health_are_told_to_this_machine_by_its_own_names(bridge: Running) -> None:
    assert bridge.page("/healthz") == "ok\n"
    text = bridge.page("/metrics", host=f"localhost:{bridge.port}")
    assert 'journeyman_bridge_line_open{line="usb"}' in text
    assert 'journeyman_bridge_device_samples_total{device="spindle"}' in text
    with pytest.raises(urllib.error.HTTPError) as refused:
        bridge.page("/metrics", host="evil.example")
    assert refused.value.code == 421


def test_the_service_ends_in_order_and_leaves_no_socket(bridge: Running) -> None:
    bridge.process.send_signal(signal.SIGTERM)
    assert bridge.process.wait(DEADLINE_S) == 0
    assert not Path(bridge.socket).exists()

    async def connect() -> None:
        async with bridge_client(bridge.socket):
            pass

    with pytest.raises(BridgeLostError, match="does journeyman-bridge run"):
        asyncio.run(connect())


def test_a_second_bridge_does_not_take_the_socket_of_one_that_lives(
    bridge: Running, repository: Path
) -> None:
    command = [sys.executable, "-m", "firmware_bridge.main", "run"]
    ended = subprocess.run(
        [*command, str(bridge.folder / "bridge.toml")],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 2
    assert "another bridge serves this socket" in ended.stderr
    assert Path(bridge.socket).exists()


def test_a_port_is_held_alone_and_its_loss_is_told_once() -> None:
    device, side = pty.openpty()
    name = os.ttyname(side)
    taken: list[bytes] = []
    lost: list[str] = []

    async def use() -> None:
        news = asyncio.Event()

        def take(data: bytes) -> None:
            taken.append(data)
            news.set()

        def lose(reason: str) -> None:
            lost.append(reason)
            news.set()

        port = await open_port(name, 115_200, take, lose)
        assert isinstance(port, Port)
        with pytest.raises(PortError, match="another program uses it"):
            await open_port(name, 115_200, taken.append, lost.append)
        os.write(device, b"\x11\x13\x00\xff")
        port.write(b"\x00\x0a\x0d")
        while b"".join(taken) != b"\x11\x13\x00\xff":
            await news.wait()
            news.clear()
        assert os.read(device, 10) == b"\x00\x0a\x0d"
        os.close(side)
        os.close(device)
        await news.wait()
        port.write(b"nobody")
        port.check()
        port.close()

    async def within() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await use()

    asyncio.run(within())
    assert len(lost) == 1


def test_a_port_without_a_rate_of_its_own_has_no_byte_time(tmp_path: Path) -> None:
    device, side = pty.openpty()
    link = tmp_path / "tty"
    link.symlink_to(os.ttyname(side))
    assert byte_time_us(str(link), 115_200) == 0
    assert byte_time_us("/dev/ttyUSB7", 115_200) == pytest.approx(86.8, abs=0.1)
    os.close(side)
    os.close(device)
