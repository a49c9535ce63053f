"""The real agent on its gateway: a machine of 50 items at 10 Hz, a broker, a coordinator.

Responsible for the run and for what must be right in it: every cycle of the machine is a row, and
every training an update that the coordinator committed.  Phases are read from the agent's status
file and from its processes: nothing in the agent knows that it is measured.
"""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Literal

import numpy as np

from agent.authoring import BundleSettings, build_bundle
from agent.declared import Mlp
from agent.history import History
from agent.status import Status, read_status
from benchmarks.flower_poc.relay import Relay
from benchmarks.footprint.usage import Memory, Totals, memory
from benchmarks.scores.machine import CYCLE, CYCLES, FAULT, MEASURED, NAMESPACE
from benchmarks.testbed import (
    FEDERATION,
    ROOT,
    BenchmarkError,
    Testbed,
    real_disk,
    testbed,
    wait_for,
)
from shopfloor.plant import JOB
from shopfloor.ports import free_port
from shopfloor.processes import Child, python
from wire.bundle import Channel, Label, Level
from wire.keys import AUTHOR_KEY, make_agent
from wire.signing import read_private_key

HZ = 10.0
INPUTS = MEASURED[:48]
CHANNELS = (*INPUTS, FAULT, CYCLE)
AGENT = "gateway"
_LOOK_S = 0.2
_EDGE_S = 1.5
"""The status file is half a second old at most, and a child takes a moment to leave."""
_IDLE_S = 2.0
_UNIT, _SETS = ROOT / "systemd" / "journeyman-agent.service", "Environment="
_IMPORTED = (
    "agent.app",
    "agent.main",
    "agent.learning.numpy_backend",
    "agent.learning.onnxruntime_backend",
    "agent.sensors.opcua.source",
)

Backend = Literal["numpy", "onnxruntime"]


@dataclass(frozen=True)
class Footprint:
    """What the agent took.

    Attributes:
      between_mib: most memory of the tree between two trainings, from the first training on.
      training_mib: most memory at any time.
      pss_between_mib, pss_training_mib: the same as the kernel counts, beside the benchmark itself.
      cpu_percent: of one core, mean.
      written_mb_a_day: caused to be written to the disk.
      mqtt_mb_a_day: bytes to and from the broker.
      updates: committed while it was measured.
      rows: in the history at the end.
      seconds: of the measurement.
    """

    between_mib: float
    training_mib: float
    pss_between_mib: float
    pss_training_mib: float
    cpu_percent: float
    written_mb_a_day: float
    mqtt_mb_a_day: float
    updates: int
    rows: int
    seconds: float


@dataclass(frozen=True)
class _Moment:
    at_s: float
    memory: Memory
    is_training: bool


def measure(backend: Backend, seconds: float, pause_s: float) -> Footprint:
    """Run an agent and measure it for so long after its first update.

    Args:
      backend: what trains.
      seconds: how long.
      pause_s: between two trainings.

    Raises:
      BenchmarkError: rows are missing, or no update was committed.
    """
    with testbed(real_disk(), _bundle) as bed:
        broker_port, machine_port = free_port(), free_port()
        broker = bed.start_broker(broker_port)
        bed.write_coordinator(
            broker_port,
            "[strategy]\ngoal = 1\n[gate]\nevery = 10000\n"
            f"[policy]\nmin_rows = {round(5 * HZ)}\nepochs = 20\n",
        )
        coordinator = bed.start_coordinator()
        machine = bed.processes.start(
            "machine", python("benchmarks.scores.machine", str(machine_port), str(HZ))
        )
        wait_for(lambda: "ready" in machine.last_words(), "the machine", machine)
        with _relayed(broker_port) as (relay, port):
            config = _write_agent(bed, port, machine_port, backend, pause_s)
            with _environment():
                _compile()
                agent = bed.processes.start("agent", python("agent.main", "run", config))
            children = (broker, coordinator, machine, agent)
            state = bed.directory / AGENT
            wait_for(lambda: _committed(state) > 0, "the first update", *children, timeout_s=120)
            figures = _watch(agent, state, relay, seconds)
            status = _status(state)
            bed.processes.stop()
        return figures(_check_rows(state, status))


def _watch(agent: Child, state: Path, relay: Relay, seconds: float) -> "_Figures":
    """Look until the time is over."""
    moments: list[_Moment] = []
    totals, begun = Totals(), time.monotonic()
    totals.look(agent.pid)
    before = (totals.cpu_s, totals.written_bytes, relay.up_bytes + relay.down_bytes)
    updates = _committed(state)
    while (now_s := time.monotonic()) < begun + seconds:
        if not agent.pid:
            raise BenchmarkError(f"the agent ended:\n{agent.last_words()}")
        seen = memory(agent.pid)
        totals.look(agent.pid)
        is_training = _status(state).learning == "training" or seen.processes > 1
        moments.append(_Moment(now_s, seen, is_training))
        time.sleep(_LOOK_S)
    after = (totals.cpu_s, totals.written_bytes, relay.up_bytes + relay.down_bytes)
    updates = _committed(state) - updates
    if not updates:
        raise BenchmarkError(f"no update in {seconds:g} s:\n{agent.last_words()}")
    used = [end - begin for begin, end in zip(before, after, strict=True)]
    return _Figures(moments, used, updates, time.monotonic() - begun)


@dataclass(frozen=True)
class _Figures:
    moments: list[_Moment]
    used: list[float]
    updates: int
    seconds: float

    def __call__(self, rows: int) -> Footprint:
        """All of it in the units of the table."""
        trained = np.array([each.at_s for each in self.moments if each.is_training])
        between = [
            each.memory
            for each in self.moments
            if not trained.size or np.abs(trained - each.at_s).min() > _EDGE_S
        ]
        everything = [each.memory for each in self.moments]
        cpu_s, written, sent = self.used
        a_day = 86_400 / self.seconds / 1e6
        return Footprint(
            between_mib=max((each.mib for each in between), default=np.nan),
            training_mib=max(each.mib for each in everything),
            pss_between_mib=max((each.pss_mib for each in between), default=np.nan),
            pss_training_mib=max(each.pss_mib for each in everything),
            cpu_percent=100 * cpu_s / self.seconds,
            written_mb_a_day=written * a_day,
            mqtt_mb_a_day=sent * a_day,
            updates=self.updates,
            rows=rows,
            seconds=self.seconds,
        )


def _status(state: Path) -> Status:
    found = read_status(state)
    return found if found is not None else Status(agent="", site="", federation="", pid=0)


def _committed(state: Path) -> int:
    """Updates that the coordinator has, whether or not a version holds them yet."""
    outcomes = _status(state).outcomes
    return outcomes.get("committed", 0) + outcomes.get("folded", 0)


def _check_rows(state: Path, status: Status) -> int:
    """Check that every cycle became a row; return how many there are.

    Raises:
      BenchmarkError: a row is missing, or is there twice.
    """
    lost = status.gaps + status.rows_dropped + status.rows_not_kept + status.incomplete_rows
    if lost or status.late:
        raise BenchmarkError(f"samples or rows were lost: {status}")
    history = History(state / "history.db", CHANNELS, 1_000_000, 0.1)
    parts = [history.read(held_out=side) for side in (False, True)]
    history.close()
    stamps = np.concatenate([part.source_timestamp_us for part in parts])
    cycles = np.concatenate([part.values[:, CHANNELS.index(CYCLE)] for part in parts])
    steps = np.diff(cycles[np.argsort(stamps)]) % CYCLES
    if len(steps) < HZ or np.any(steps != 1):
        raise BenchmarkError(f"rows are missing or twice, at {np.flatnonzero(steps != 1)[:10]}")
    return len(cycles)


def _compile() -> None:
    """Have all modules compiled, as a package does when it is installed.

    A process that compiles asyncua itself keeps some 30 MB of what that took.
    """
    subprocess.run([sys.executable, "-c", f"import {', '.join(_IMPORTED)}"], cwd=ROOT, check=True)


@contextmanager
def _environment() -> Iterator[None]:
    """What the agent's unit sets for it, and modules that are compiled once."""
    lines = _UNIT.read_text(encoding="utf-8").splitlines()
    words = " ".join(line.removeprefix(_SETS) for line in lines if line.startswith(_SETS))
    kept = dict(os.environ)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for word in words.split():
        name, _, value = word.partition("=")
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@contextmanager
def _relayed(broker_port: int) -> Iterator[tuple[Relay, int]]:
    """A relay to the broker that counts, in a thread with a loop of its own; and its port."""
    relay, ports = Relay(broker_port), Queue[int]()
    is_over = threading.Event()

    async def serve() -> None:
        server, port = await relay.start()
        ports.put(port)
        await asyncio.to_thread(is_over.wait)
        server.close()  # and what it carries is cancelled with the loop

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield relay, ports.get()
    finally:
        is_over.set()
        thread.join()


def _bundle(keys: Path) -> bytes:
    """A perceptron of all measured channels that says how likely a fault is."""
    settings = BundleSettings(
        name="press",
        channel=tuple(Channel(name=name, unit="") for name in INPUTS),
        label=Label(channel=FAULT),
        feature=tuple(Level(channel=name) for name in INPUTS),
        family=Mlp(hidden=(64, 32)),
    )
    return build_bundle(JOB, settings, FEDERATION, read_private_key(keys / AUTHOR_KEY))


def _write_agent(
    bed: Testbed, broker_port: int, machine_port: int, backend: Backend, pause_s: float
) -> Path:
    make_agent(bed.keys, FEDERATION, AGENT, "bench")
    channels = "".join(
        f'[[source.opcua.channel]]\nname = "{name}"\nnode = "s=Machine/{name}"\n'
        for name in CHANNELS
    )
    path = bed.directory / f"{AGENT}.toml"
    path.write_text(
        f"""\
[agent]
state_dir = "{AGENT}"
[trust]
root = "{bed.root}"
charter = "keys/charter.jm"
credential = "keys/{AGENT}.credential"
key = "keys/{AGENT}.key"
[broker]
port = {broker_port}
[rows]
trigger = "{CYCLE}"
[training]
backend = "{backend}"
pause_s = {pause_s}
idle_s = {_IDLE_S}
priority = "low"
[training.budget]
enabled = false
[personal]
enabled = false
[source.opcua]
endpoint = "opc.tcp://127.0.0.1:{machine_port}"
namespace_uri = "{NAMESPACE}"
{channels}"""
    )
    return path
