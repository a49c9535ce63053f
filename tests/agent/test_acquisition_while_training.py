"""No sample is lost while the gateway trains: counted, on one core that all of it shares.

Fifty channels come ten times a second over a serial line, from a machine that waits for nobody:
what its line does not take at once is gone.  Acquisition and training child have one core together,
and the child trains all the time, with the higher of the two priorities that it can have.
"""

import asyncio
import os
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.acquisition import Acquisition
from agent.budget import read_machine
from agent.learning.families import mlp
from agent.learning.graph import initial_params, write_graph
from agent.learning.limits import LOW
from agent.learning.losses import Loss
from agent.learning.plan import TrainingPlan
from agent.learning.worker import TrainingProcess
from agent.samples import SampleStore, StoreTable
from agent.sensors.source import SourceContext
from agent.signals.cutting import Cutting, RowCutter
from agent.signals.quality import Quality
from agent.signals.rows import Rows, joined
from agent.sources import SourceTable, sources_of
from agent.status import Status

CHANNELS, LINES = 50, 30
NAMES = [f"channel_{at}" for at in range(CHANNELS)]
LIMIT_S = 60
MACHINE = """
import os, sys, time
line, channels, lines = (int(each) for each in sys.argv[1:])
os.set_blocking(line, False)
sys.stdin.readline()
os.write(line, b"the end of a line that began before anybody listened\\n")
due_s, lost = time.monotonic(), 0
for number in range(lines):
    values = ",".join(str(number + at) for at in range(channels))
    data = f"{time.time_ns() // 1000},{values}\\n".encode()
    try:
        lost += os.write(line, data) != len(data)
    except BlockingIOError:
        lost += 1
    due_s += 0.1
    time.sleep(max(0.0, due_s - time.monotonic()))
print(lost)
"""


@pytest.fixture
def one_core() -> Iterator[None]:
    """This process and what it starts have one core together."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)


class Gateway:
    """Acquisition from a serial line, and a training that does not end."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        line = {
            "format": "delimited",
            "device": device,
            "columns": CHANNELS + 1,
            "timestamp": 0,
            "timestamp_format": "epoch_us",
            "channel": [{"name": name, "column": at + 1} for at, name in enumerate(NAMES)],
        }
        self.status = Status(agent="gateway-1", site="Ulm", federation="test", pid=1)
        self.cutter = RowCutter(Cutting(channels=CHANNELS, trigger=0, grace_s=0.5))
        self.acquisition = Acquisition(
            sources_of(msgspec.convert({"lines": line}, SourceTable)),
            SourceContext(folder, folder, "gateway-1"),
            self.cutter,
            self._store(),
            Quality(NAMES),
            self.status,
        )

    async def run(self, machine: "subprocess.Popen[str]") -> tuple[Rows, int]:
        """Run until the machine has said all; its rows, and how many lines it lost."""
        async with asyncio.timeout(LIMIT_S), TrainingProcess(nice=LOW) as child:
            training = asyncio.create_task(train_for_ever(child))
            acquiring = asyncio.create_task(self.acquisition.run())
            while not self._is_open() or ran_s(child) < 0.5:  # noqa: ASYNC110  of the kernel
                await asyncio.sleep(0.05)
            before_s = ran_s(child)
            said = asyncio.create_task(asyncio.to_thread(machine.communicate, "go\n"))
            parts = [await self.acquisition.rows()]
            while sum(map(len, parts)) < LINES and not said.done():
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        parts.append(await self.acquisition.rows())
            lost = int((await said)[0])
            assert ran_s(child) > before_s
            assert not training.done(), "the training ended"
            for task in (training, acquiring):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        return joined([*parts, self.acquisition.rows_now()]), lost

    def _is_open(self) -> bool:
        return self.acquisition.reports[0].state.startswith("open")

    def stored(self) -> int:
        store = self._store()
        found = sum(len(block) for block in store.read(0, time.time_ns()))
        store.close()
        return found

    def _store(self) -> SampleStore:
        return SampleStore(self._folder / "samples", NAMES, StoreTable(flush_s=1))


def ran_s(child: TrainingProcess) -> float:
    worker = read_machine(child.pid).worker
    return 0.0 if worker is None else worker.ran_s


async def train_for_ever(child: TrainingProcess) -> None:
    model = mlp(CHANNELS, (64, 32), 1, seed=0)
    await child.prepare(write_graph(model), Loss.BINARY_CROSS_ENTROPY)
    x = np.random.default_rng(0).standard_normal((2000, CHANNELS)).astype(np.float32)
    plan = TrainingPlan(epochs=10**6, batch_size=32, optimizer="sgd", learning_rate=1e-3)
    labels = (x[:, :1] > 0).astype(np.float32)
    await child.train(initial_params(model), x, labels, plan, checkpoint_s=0.5)


@pytest.mark.usefixtures("one_core")
def test_every_sample_becomes_part_of_a_row_and_of_the_store_while_the_child_trains(
    tmp_path: Path,
) -> None:
    line, device = os.openpty()
    tty.setraw(device)
    command = [sys.executable, "-c", MACHINE, str(line), str(CHANNELS), str(LINES)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[line]
    ) as machine:
        try:
            gateway = Gateway(tmp_path, os.ttyname(device))
            rows, lost = asyncio.run(gateway.run(machine))
        finally:
            machine.kill()
    os.close(line)
    os.close(device)
    assert lost == 0
    status, report = gateway.status, gateway.acquisition.reports[0]
    assert (status.samples, status.bad, status.gaps) == (CHANNELS * LINES, 0, 0)
    assert gateway.stored() == CHANNELS * LINES
    assert (gateway.cutter.late, gateway.cutter.incomplete, status.rows_dropped) == (0, 0, 0)
    expected = np.add.outer(np.arange(LINES), np.arange(CHANNELS))
    assert np.array_equal(rows.values, expected)
    assert not report.problems
