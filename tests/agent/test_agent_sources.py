"""A whole agent with four kinds of source at once: what all of them say meets in its rows."""

import os
import signal
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from agent.history import History
from agent.samples import SampleStore, StoreTable
from agent.status import Status, read_channels, read_status
from shopfloor.ports import free_port
from tests.agent.federation import AGENT, Federation
from tests.modbus.slaves import build_slave, running

DEADLINE_S = 60.0
CHANNELS = ["temperature", "pressure", "weight", "shift", "defect"]


def agent_toml(federation: Federation, modbus_port: int, tty_path: Path, opcua: str) -> str:
    return f"""\
[agent]
state_dir = "state"

[trust]
root = "{federation.root}"
charter = "{federation.keys}/charter.jm"
credential = "{federation.keys}/{AGENT}.credential"
key = "{federation.keys}/{AGENT}.key"

[broker]
port = 1

[rows]
every_s = 0.1
grace_s = 1

[store]
flush_s = 0.5

[[labels.channel]]
name = "defect"

[source.opcua]
endpoint = "{opcua}"
namespace_uri = "urn:journeyman:test"
publishing_interval_ms = 50
[[source.opcua.channel]]
name = "temperature"
node = "s=Temperature"

[source.modbus]
host = "127.0.0.1"
port = {modbus_port}
[[source.modbus.channel]]
name = "pressure"
unit_id = 1
table = "holding"
address = 20
type = "uint16"
poll_interval_ms = 100

[source.lines]
format = "key_value"
device = "{tty_path}"
[[source.lines.channel]]
name = "weight"
key = "W"

[source.replay]
file = "shifts.csv"
time_column = "at"
time = "now"
[[source.replay.channel]]
name = "shift"
column = "shift"
"""


@contextmanager
def scale(folder: Path) -> Iterator[Path]:
    """A balance on a serial line: `W=1.5`, twenty times a second."""
    master, keeper = os.openpty()
    tty.setraw(keeper)
    path = folder / "balance"
    path.symlink_to(os.ttyname(keeper))
    done = threading.Event()

    def weigh() -> None:
        at = 0
        while not done.wait(0.05):
            at += 1
            os.write(master, f"W={at % 7 + 0.5}\n".encode())

    thread = threading.Thread(target=weigh)
    thread.start()
    try:
        yield path
    finally:
        done.set()
        thread.join()
        os.close(master)
        os.close(keeper)


@contextmanager
def agent(config: Path, text: str) -> Iterator["subprocess.Popen[bytes]"]:
    config.write_text(text)
    with (config.parent / "agent.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.main", "run", str(config)],
            cwd=Path(__file__).parents[2],
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(folder: Path, holds: Callable[[Status], bool]) -> Status:
    """Wait until the agent's own status says so."""
    end = time.monotonic() + DEADLINE_S
    status = None
    while time.monotonic() < end:
        status = read_status(folder / "state")
        if status is not None and holds(status):
            return status
        time.sleep(0.1)
    pytest.fail(f"never so: {status}\n{(folder / 'agent.log').read_text()[-3000:]}")


def test_rows_hold_what_four_kinds_of_source_say_and_a_stop_keeps_every_sample(
    federation: Federation, node_opcua_server: str, tmp_path: Path
) -> None:
    (tmp_path / "shifts.csv").write_text("at,shift\n1770000000,1\n1770086400,2\n")
    port, config = free_port(), tmp_path / "agent.toml"
    with (
        running(build_slave(tmp_path), "tcp", str(port)),
        scale(tmp_path) as path,
        agent(config, agent_toml(federation, port, path, node_opcua_server)) as process,
    ):
        status = until(tmp_path, lambda status: status.rows >= 20 and status.samples > 200)
        assert status.lacking == []
        assert [source.state for source in status.sources] == [
            "subscribed",
            "reading",
            "reading",
            "reading",
        ]
        until(tmp_path, lambda _: bool(read_channels(tmp_path / "state")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    final = read_status(tmp_path / "state")
    assert final is not None
    history = History(tmp_path / "state" / "history.db", CHANNELS, 10_000, 0.1)
    rows = [history.read(held_out=side) for side in (True, False)]
    values = np.concatenate([part.values for part in rows])
    assert ((values[:, 0] >= 20) & (values[:, 0] <= 30)).all()
    assert set(values[:, 1]) == {60.0}
    assert set(values[:, 2]) <= {at + 0.5 for at in range(7)}
    assert len(set(values[:, 2])) > 3
    assert set(values[:, 3]) == {1.0}
    assert np.isnan(values[:, 4]).all()  # nobody has said what was defective yet
    stamps = np.sort(np.concatenate([part.source_timestamp_us for part in rows]))
    assert (stamps % 100_000 == 0).all()
    store = SampleStore(tmp_path / "state" / "samples", CHANNELS, StoreTable())
    stored = sum(block.samples for block in store.read(0, 1 << 62))
    assert stored == final.samples
