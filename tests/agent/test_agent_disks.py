"""Whole agents, and their durable files, on disks that fail: nothing ends, and all of it heals."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.status import Status, read_status
from shopfloor.faults.shim import Control, ShimError, build, environment
from tests.agent.federation import Federation, agent_toml

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return build(tmp_path_factory.mktemp("shim"))
    except ShimError as error:
        pytest.skip(str(error))


WORK = """
import sys
from pathlib import Path
import agent.storage
from agent.history import History
from agent.outbox import Outbox, Settlement
from agent.signals.rows import rows_of
from shopfloor.faults.shim import Control
from wire.database import DiskError
from wire.messages import Receipt

agent.storage._REOPEN_S = 0.0
directory, control, error = Path(sys.argv[1]), Control(Path(sys.argv[2])), int(sys.argv[3])
outbox = Outbox(directory / "outbox.db", 1 << 30)
history = History(directory / "history.db", ["torque"], 1000, 0.0)

def build(incarnation, sequence):
    return b"header %d" % sequence, bytes([sequence]) * 20_000

def refused(work):
    try:
        work()
    except DiskError:
        return True
    return False

def folded(at):
    return Receipt(incarnation=at.incarnation, sequence=at.sequence, status="folded", version=1)

made = [outbox.add(0, 1, build) for _ in range(4)]
history.append(rows_of([(1.0,)] * 10))
incarnation, session = outbox.incarnation, outbox.next_session()
for turn in (1, 2, 3):
    control.fail(error)
    for _ in range(3):
        assert refused(lambda: outbox.add(0, 1, build))
        assert refused(lambda: history.append(rows_of([(1.0,)], [1000])))
        assert outbox.settle((folded(made[0]),), 1) == Settlement([], [])
        assert not outbox.bury(made[0], b"tombstone")
        assert outbox.renew("no") == incarnation == outbox.incarnation
        session += 1
        assert outbox.next_session() == session
        outbox.recover()
        assert outbox.problem and history.problem
    assert outbox.open_updates() == made, outbox.open_updates()
    assert all(outbox.offer(at) for at in made)
    assert outbox.counts()["pending"] == len(made)
    assert history.training_rows() == 9 + turn
    control.heal()
    outbox.recover()
    assert outbox.problem == ""
    made.append(outbox.add(0, 1, build))
    assert outbox.settle((folded(made[0]),), 1).settled == [made.pop(0)]
    assert history.append(rows_of([(1.0,)], [100 + turn])) == 1
    assert history.problem == ""
outbox.close()
found = Outbox(directory / "outbox.db", 1 << 30)
assert found.open_updates() == made
assert found.produced == 7
assert found.next_session() == session + 1
assert not found.set_aside
"""


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_files_on_a_disk_that_fails_again_and_again_lose_nothing_and_recover(
    shim: Path, tmp_path: Path, repository: Path, error: int
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with Control.create(tmp_path / "control") as control:
        done = subprocess.run(
            [sys.executable, "-c", WORK, str(state), str(control.path), str(error)],
            env={**os.environ, **environment(shim, control, state)},
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert control.failed > 10
    # Each trouble is told once when it begins and once when it ends, however often it is met.
    assert done.stderr.count("outbox.db: the disk works again") == 3
    assert done.stderr.count("history.db: the disk works again") == 3


@dataclass
class Gateway:
    """An agent without a machine or a broker, on a disk that the test commands."""

    config: Path
    control: Control
    variables: dict[str, str]

    @contextlib.contextmanager
    def running(self) -> Iterator["subprocess.Popen[str]"]:
        """Run the program as systemd does; it must live until it is told to stop."""
        log = (self.config.parent / "log").open("w")
        command = [sys.executable, "-m", "agent.main", "run", str(self.config)]
        with (
            log,
            subprocess.Popen(
                command,
                cwd=Path(__file__).parents[2],
                env={**os.environ, **self.variables},
                stderr=log,
                text=True,
            ) as process,
        ):
            try:
                yield process
                assert process.poll() is None, self.log
                process.send_signal(signal.SIGTERM)
                assert process.wait(DEADLINE_S) == 0, self.log
            finally:
                process.kill()

    @property
    def state(self) -> Path:
        return self.config.parent / "state"

    @property
    def log(self) -> str:
        return (self.config.parent / "log").read_text()

    def until(self, holds: Callable[[Status], bool], pid: int) -> Status:
        """Wait until this process's own status says so."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            status = read_status(self.state)
            if status is not None and status.pid == pid and holds(status):
                return status
            time.sleep(0.02)
        pytest.fail(f"never so: {read_status(self.state)}\n{self.log}")

    def until_logged(self, words: str) -> None:
        """Wait until the process has said so."""
        deadline = time.monotonic() + DEADLINE_S
        while words not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)


@pytest.fixture
def gateway(federation: Federation, shim: Path, tmp_path: Path) -> Iterator[Gateway]:
    config = tmp_path / "agent.toml"
    config.write_text(agent_toml(federation))
    (tmp_path / "state").mkdir()
    with Control.create(tmp_path / "control") as control:
        yield Gateway(config, control, environment(shim, control, tmp_path / "state"))


def test_an_agent_whose_files_are_all_rotten_starts_and_says_so(gateway: Gateway) -> None:
    with gateway.running() as process:
        gateway.until(lambda status: status.storage == "ok", process.pid)
    names = ["history.db", "models.db", "outbox.db"]
    for name in names:
        (gateway.state / name).write_bytes(b"rotten" * 1000)
    with gateway.running() as process:
        status = gateway.until(lambda status: status.storage != "ok", process.pid)
    for name in names:
        assert f"{name}.damaged-1" in status.storage
        assert (gateway.state / f"{name}.damaged-1").read_bytes() == b"rotten" * 1000
        assert f"{name} is damaged (file is not a database)" in gateway.log


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_agent_starts_on_a_disk_that_can_only_be_read_and_recovers_without_a_restart(
    gateway: Gateway, error: int
) -> None:
    with gateway.running() as process:
        gateway.until(lambda status: status.session > 1, process.pid)
    gateway.control.fail(error)
    with gateway.running() as process:
        gateway.until_logged("the status file is not written")
        gateway.until_logged("are not durable")
        gateway.control.heal()
        status = gateway.until(lambda status: status.storage == "ok", process.pid)
        assert status.session > 2


def test_an_agent_that_was_never_on_a_disk_it_can_not_write_says_what_to_do(
    gateway: Gateway,
) -> None:
    gateway.control.fail(errno.EROFS)
    done = subprocess.run(
        [sys.executable, "-m", "agent.main", "run", str(gateway.config)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **gateway.variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 2
    assert "agent.state_dir: can not use" in done.stderr
    assert "Traceback" not in done.stderr
