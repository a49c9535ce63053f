"""What is served reaches a device through the real bridge, and stays there only while it agrees."""

import asyncio
import functools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.adopted import Adopted
from agent.adoption import Adoption
from agent.authoring import build_bundle, read_bundle_settings
from agent.devices import DeviceReport, DeviceTable
from agent.devices.task import DeviceTask
from agent.learning.personalise import GLOBAL, Candidate
from agent.models import Models
from agent.own_model import Serving
from agent.sensors.firmware import FirmwareSettings
from agent.sensors.firmware.settings import FirmwareChannel
from agent.signals.rows import Rows, rows_of
from tests.agent.federation import FEDERATION, Federation, feed, found_federation
from tests.agent.judging_device import CHANNELS, JudgingDevice, bridge_of, write_bridge

JOB = Path(__file__).parents[2] / "configs" / "jobs" / "microcontroller.toml"
NAMES = ["slow", "fast", "product"]
DEADLINE_S = 60.0
TABLE = DeviceTable(
    socket="bridge.sock",
    device="board",
    stream="motion",
    trial_s=60,
    rest_s=0,
    least_rows=5,
    window_rows=50,
)
SOURCE = FirmwareSettings(
    socket="bridge.sock",
    device="board",
    stream="motion",
    channel=tuple(
        FirmwareChannel(name=name, field=field) for name, field in zip(NAMES, CHANNELS, strict=True)
    ),
)


@functools.cache
def rows() -> Rows:
    number = np.arange(600)
    values = [np.rint(800 * np.sin(number / (2 + at))) / 1024 for at in range(3)]
    return rows_of(np.stack(values, axis=1))


def served(adopted: Adopted) -> Serving:
    return Serving(Candidate(GLOBAL, adopted.serve), adopted.head.serve.content.digest)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    found = found_federation(tmp_path_factory.mktemp("keys") / "keys")
    settings = read_bundle_settings(JOB)
    assert settings.window is not None
    window = msgspec.structs.replace(settings.window, length=8, stride=1)
    settings = msgspec.structs.replace(settings, window=window)
    bundle = build_bundle(JOB, settings, FEDERATION, found.author)
    return Federation(found.keys, found.root, found.trust, found.coordinator, found.author, bundle)


@dataclass
class Gateway:
    """The parts of an agent that a device concerns."""

    folder: Path
    adoption: Adoption
    federation: Federation

    def task(self) -> DeviceTask:
        socket = str(self.folder / "bridge.sock")
        return DeviceTask(
            TABLE, SOURCE, socket, self.adoption, served, lambda _: rows(), self.folder
        )

    def serve(self, sequence: int, step: float) -> None:
        serve = self.federation.moved(step)
        feed(self.adoption, self.federation.publish(sequence, version=sequence, serve=serve))


@pytest.fixture
def gateway(tmp_path: Path, federation: Federation) -> Gateway:
    adoption = Adoption(Models(":memory:"), federation.trust, NAMES)
    found = Gateway(tmp_path, adoption, federation)
    found.serve(1, 0.0)
    return found


@pytest.fixture
def device(tmp_path: Path) -> Iterator[JudgingDevice]:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: run tests/install.sh .venv/bin/python as root")
    found = JudgingDevice(tmp_path)
    found.start()
    yield found
    found.stop()


@asynccontextmanager
async def at_work(task: DeviceTask) -> AsyncIterator[DeviceReport]:
    working = asyncio.create_task(task.run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield task.report
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def until(report: DeviceReport, holds: Callable[[DeviceReport], bool]) -> None:
    while not holds(report):  # noqa: ASYNC110  what is waited for is in another thread, or process
        await asyncio.sleep(0.05)


def test_a_served_version_runs_on_the_device_and_one_that_lies_is_taken_back_for_good(
    gateway: Gateway, device: JudgingDevice, repository: Path
) -> None:
    config = write_bridge(gateway.folder, device)

    async def first() -> None:
        async with at_work(gateway.task()) as report:
            await until(report, lambda it: it.stage == "confirmed" and it.compared >= 8)
            assert (report.version, report.rejections) == (1, 0)
            assert report.bits_equal == report.rows
            assert report.largest <= report.bound
            assert report.score == pytest.approx(report.gateway_score, abs=report.bound)

    async def again() -> None:
        """Agent and bridge begin anew; then the device lies about the next version."""
        async with at_work(gateway.task()) as report:
            await until(report, lambda it: it.stage == "confirmed" and it.compared >= 3)
            assert device.content == good
            device.honest.add(good)
            device.lies = True
            gateway.serve(2, 0.01)
            await until(report, lambda it: it.rejections > 0)
            assert report.reason.startswith("taken back: ")
            assert report.version == 1
            await until(report, lambda _: device.content == good)  # it went back

    with bridge_of(gateway.folder, config, repository):
        asyncio.run(first())
        good = device.content
        assert good
    with bridge_of(gateway.folder, config, repository):
        asyncio.run(again())

        async def offered_nothing() -> str:
            device.lies = False
            async with at_work(gateway.task()) as report:
                # The good one runs again, and is watched; the other is not brought again.
                await until(report, lambda it: it.compared >= 8 and "; rejected" in it.state)
                assert (report.version, report.bits_equal) == (1, report.rows)
                return report.state

        state = asyncio.run(offered_nothing())
    assert "differ from the int8 reference" in state
    assert device.content == good
    log = (gateway.folder / "bridge.log").read_text()
    assert log.count(" on trial, ") == 2  # each model once, over all restarts
