"""What is watched, in the real agent: who is stuck is told, and who only has nothing is not."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.acquisition import Acquisition
from agent.health import Progress
from agent.samples import SampleStore, StoreTable
from agent.sensors.source import Blocks, ChannelSettings, SourceContext, SourceReport
from agent.signals.block import EMPTY
from agent.signals.cutting import Cutting, RowCutter
from agent.signals.quality import Quality
from agent.sources import ConfiguredSource, SourceTable, sources_of
from agent.status import Status
from tests.agent.federation import Federation, agent_toml
from wire.settings import Settings, parse_settings

NOBODY = "127.0.0.1:1"
"""Port 1 (tcpmux) refuses connections here."""
AWAY = {
    "opcua": f"""
[source.opcua]
endpoint = "opc.tcp://{NOBODY}/plc"
namespace_uri = "urn:plc"
retry_max_s = 0.2
channel = [{{ name = "torque", node = "s=Torque" }}]
""",
    "modbus": """
[source.modbus]
host = "127.0.0.1"
port = 1
channel = [{ name = "torque", table = "holding", address = 1, type = "uint16" }]
""",
    "lines": """
[source.lines]
format = "delimited"
device = "/dev/serial/by-id/nothing"
channel = [{ name = "torque", column = 0 }]
""",
    "replay": """
[source.replay]
file = "no-such-*.csv"
time_column = "time"
channel = [{ name = "torque", column = "torque" }]
""",
    "images": """
[source.images]
folder = "no-such-folder"
channel = [{ name = "picture", shape = [1, 8, 8] }]
""",
    "images of a command": """
[source.images]
command = ["/no/such/command"]
channel = [{ name = "picture", shape = [1, 8, 8] }]
""",
}


def configured(text: str) -> ConfiguredSource:
    class Table(Settings, frozen=True, kw_only=True):
        source: SourceTable

    (found,) = sources_of(parse_settings(text, Table, "agent.toml").source)
    return found


@pytest.mark.parametrize("kind", AWAY)
def test_a_source_whose_machine_is_away_goes_on_saying_that_it_lives(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.sensors.replay.source.RETRY_S", 0.2)
    source = configured(AWAY[kind])
    report = SourceReport(source.title)

    async def run() -> int:
        count = 0
        context = SourceContext(tmp_path, tmp_path, "gateway-1")
        async with asyncio.timeout(30), contextlib.aclosing(source.open(context, report)) as blocks:
            async for _ in blocks:
                count += 1
                if count == 4:
                    break
        return count

    assert asyncio.run(run()) == 4
    assert not report.is_well
    assert source.silent_s < 60


def scripted(key: str, blocks: int, *, ends: bool = False) -> ConfiguredSource:
    """A source that says so often that it lives, and then hangs or has finished."""

    async def give(_context: SourceContext, report: SourceReport) -> Blocks:
        report.state = "reading"
        for _ in range(blocks):
            yield EMPTY
            await asyncio.sleep(0.01)
        if ends:
            report.state = "finished"
            return
        await asyncio.get_running_loop().create_future()

    channel = (ChannelSettings(name=key),)
    return ConfiguredSource(key, "scripted", key, 0, channel, Settings(), give)


def test_a_source_that_hangs_is_told_and_no_other_task_is(tmp_path: Path) -> None:
    progress = Progress()
    acquisition = Acquisition(
        [scripted("hangs", 3), scripted("lives", 10_000), scripted("finished", 3, ends=True)],
        SourceContext(tmp_path, tmp_path, "gateway-1"),
        RowCutter(Cutting(channels=1, trigger=0)),
        SampleStore(tmp_path / "samples", ("one",), StoreTable()),
        Quality(("one",)),
        Status(agent="gateway-1", site="Ulm", federation="test", pid=1),
        progress,
    )

    async def run() -> list[str]:
        task = asyncio.create_task(acquisition.run())
        now_s = 0.0
        while not progress.stalled:
            for _ in range(4):  # twenty seconds for those who count, and time for all to come by
                progress.look(now_s := now_s + 5)
            await asyncio.sleep(0.08)
            assert now_s < 3600
        task.cancel()
        await asyncio.wait((task,))
        return [stall.name for stall in progress.stalled]

    assert asyncio.run(run()) == ["hangs"]
    assert progress.silences() == {}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        yield listener


def test_an_agent_without_machine_and_broker_feeds_the_watchdog_and_says_how_it_is(
    tmp_path: Path, federation: Federation, manager: socket.socket
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    table = ["[metrics]", f'listen = "{address}"']
    config = tmp_path / "agent.toml"
    config.write_text(
        agent_toml(federation, broker_port=1, endpoint=f"opc.tcp://{NOBODY}/x", more=table)
    )
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    with (tmp_path / "log").open("w") as log:
        agent = subprocess.Popen(
            [sys.executable, "-m", "agent.main", "run", str(config)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **environment},
            stderr=log,
        )
    try:
        told = [manager.recv(4096).decode() for _ in range(10)]
        assert any("READY=1" in each for each in told)
        assert sum("WATCHDOG=1" in each for each in told) >= 5
        assert asked(f"http://{address}/healthz") == (200, "ok\n")
        code, text = asked(f"http://{address}/readyz")
        assert code == 503
        assert "opcua opc.tcp://127.0.0.1:1/x: " in text
        figures = asked(f"http://{address}/metrics")[1]
        for line in (
            "alive 1",
            "ready 0",
            "link_up 0",
            "storage_ok 1",
            f'source_well{{source="opcua opc.tcp://{NOBODY}/x"}} 0',
        ):
            assert f"\njourneyman_agent_{line}\n" in figures
        for task in ("acquisition clock", "delivery", "learn", "source.opcua", "score rows"):
            assert f'journeyman_agent_task_silence_seconds{{task="{task}"}} ' in figures
    finally:
        agent.terminate()
        assert agent.wait(30) == 0, (tmp_path / "log").read_text()


def asked(address: str) -> tuple[int, str]:
    until_s = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
