"""Full and read-only disks, real ones: a small tmpfs in a mount namespace of its own.

Each scenario runs in a child process, because a namespace is entered by a process and gone with it.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import agent.learner
import agent.storage
from agent.history import History
from agent.outbox import Outbox, Settlement, UpdateId
from agent.reserve import RESERVE_BYTES
from agent.signals.rows import rows_of
from tests.agent.federation import agent_toml, feed, found_federation, read_back
from tests.agent.test_learner import Site, failing_rows, learning
from wire.database import DiskError, lock_directory
from wire.messages import Receipt

QUOTA = 1 << 30
NAMESPACE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """How to start a program that may mount."""
    if not shutil.which("unshare"):
        pytest.skip("unshare (util-linux) is not installed")
    probe = [*NAMESPACE, "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine does not let us mount: {tried.stderr.strip()}")
    return NAMESPACE


@pytest.fixture
def on_a_disk(
    namespace: list[str], tmp_path: Path, repository: Path
) -> Callable[[Callable[[Path], None], str], None]:
    """Run a scenario of this module with a disk of a given size, as it is written for mount."""

    def run(scenario: Callable[[Path], None], size: str) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        code = f"from tests.agent.test_outbox_disks import *; {scenario.__name__}(Path('{disk}'))"
        mounted = f"mount -t tmpfs -o size={size} none {disk} && exec {sys.executable} -c "
        done = subprocess.run(
            [*namespace, "sh", "-c", f'{mounted} "{code}"'],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return run


OnADisk = Callable[[Callable[[Path], None], str], None]


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path) -> Path:
    """Another program takes all that is free."""
    ballast = disk / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)
    assert free_bytes(disk) == 0
    return ballast


def build(_incarnation: str, sequence: int) -> tuple[bytes, bytes]:
    return b"header %d" % sequence, bytes([sequence % 256]) * 50_000


def folded(at: UpdateId) -> Receipt:
    return Receipt(incarnation=at.incarnation, sequence=at.sequence, status="folded", version=2)


def headers(outbox: Outbox) -> list[bytes]:
    offers = [outbox.offer(at) for at in outbox.open_updates()]
    assert all(offer is not None and offer.content is not None for offer in offers)
    return [offer.header for offer in offers if offer is not None]


def filled_by_its_own_updates(disk: Path) -> None:
    outbox = Outbox(disk / "outbox.db", QUOTA)
    made: list[UpdateId] = []
    try:
        while True:
            made.append(outbox.add(0, 1, build))
    except DiskError as error:
        assert "make room" in str(error)  # noqa: PT017 - the loop has no other end
    assert len(made) > 20
    assert "full" in outbox.problem
    assert (disk / "outbox.reserve").stat().st_blocks * 512 == RESERVE_BYTES
    assert outbox.open_updates() == made

    assert outbox.settle(tuple(map(folded, made[:10])), 7).settled == made[:10]
    assert outbox.problem == ""
    assert outbox.receipt_counter == 7
    again = [outbox.add(0, 2, build) for _ in range(5)]
    assert [at.sequence for at in again] == [len(made) + at for at in (1, 2, 3, 4, 5)]
    outbox.close()
    found = Outbox(disk / "outbox.db", QUOTA)
    assert found.open_updates() == made[10:] + again
    assert headers(found) == [b"header %d" % at.sequence for at in found.open_updates()]


def test_a_full_disk_refuses_new_updates_and_settles_old_ones(on_a_disk: OnADisk) -> None:
    on_a_disk(filled_by_its_own_updates, "6m")


def filled_by_another_program(disk: Path) -> None:
    outbox = Outbox(disk / "outbox.db", QUOTA)
    made = [outbox.add(0, 1, build) for _ in range(10)]
    session = outbox.next_session()
    ballast = fill(disk)
    with contextlib.suppress(DiskError):
        while True:  # what the log still had room for
            made.append(outbox.add(0, 1, build))
    assert outbox.settle(tuple(map(folded, made[:-2])), 3).settled == made[:-2]
    assert outbox.next_session() == session + 1
    assert outbox.bury(made[-2], b"tombstone")
    outbox.recover()
    assert not (disk / "outbox.reserve").exists()
    ballast.unlink()
    outbox.recover()
    made.append(outbox.add(0, 1, build))
    assert outbox.problem == ""
    assert (disk / "outbox.reserve").stat().st_blocks * 512 == RESERVE_BYTES
    outbox.close()
    found = Outbox(disk / "outbox.db", QUOTA)
    assert found.open_updates() == made[-3:]
    assert found.next_session() == session + 2


def test_receipts_are_applied_from_the_reserve_which_is_made_again(on_a_disk: OnADisk) -> None:
    on_a_disk(filled_by_another_program, "6m")


def started_on_a_full_disk(disk: Path) -> None:
    outbox = Outbox(disk / "outbox.db", QUOTA)
    made = [outbox.add(0, 1, build) for _ in range(10)]
    outbox.close()
    fill(disk)
    assert (disk / "outbox.reserve").exists()
    outbox = Outbox(disk / "outbox.db", QUOTA)
    assert outbox.open_updates() == made
    assert len(headers(outbox)) == 10
    assert outbox.settle((folded(made[0]),), 1).settled == made[:1]


def test_an_agent_that_starts_on_a_full_disk_delivers_and_settles(on_a_disk: OnADisk) -> None:
    on_a_disk(started_on_a_full_disk, "8m")


def becomes_read_only(disk: Path) -> None:
    agent.storage._REOPEN_S = 0.0  # noqa: SLF001 - tests do not wait
    outbox = Outbox(disk / "outbox.db", QUOTA)
    made = [outbox.add(0, 1, build) for _ in range(5)]
    first = outbox.next_session()
    incarnation = outbox.incarnation
    # A mount with open files can not be made read-only politely; a disk that fails does not ask.
    outbox.close()
    remount(disk, "ro")
    outbox = Outbox(disk / "outbox.db", QUOTA)
    for _ in range(3):
        assert headers(outbox) == [b"header %d" % at.sequence for at in made]
        with pytest.raises(DiskError):
            outbox.add(0, 1, build)
        assert "can not be" in outbox.problem
        assert outbox.settle((folded(made[0]),), 1) == Settlement([], [])
        assert not outbox.bury(made[0], b"tombstone")
        assert not outbox.replace_header(made[0], b"other")
        assert outbox.renew("a reason") == incarnation
        outbox.recover()
    assert [outbox.next_session(), outbox.next_session()] == [first + 1, first + 2]
    assert outbox.made_from(0, 1) == 5
    assert (outbox.produced, outbox.counts()) == (5, {"pending": 5})
    remount(disk, "rw")
    outbox.recover()
    assert outbox.problem == ""
    assert outbox.settle((folded(made[0]),), 1).settled == made[:1]
    assert outbox.add(0, 1, build) == UpdateId(incarnation, 6)
    outbox.close()
    outbox = Outbox(disk / "outbox.db", QUOTA)
    assert outbox.next_session() == first + 3


def test_a_read_only_disk_is_read_and_used_again_when_it_can_be_written(
    on_a_disk: OnADisk,
) -> None:
    on_a_disk(becomes_read_only, "4m")


def read_only_after_a_crash(disk: Path) -> None:
    process = os.fork()
    if process == 0:
        outbox = Outbox(disk / "outbox.db", QUOTA)
        for _ in range(5):
            outbox.add(0, 1, build)
        os._exit(0)
    os.waitpid(process, 0)
    assert (disk / "outbox.db-wal").stat().st_size > 0
    remount(disk, "ro")
    outbox = Outbox(disk / "outbox.db", QUOTA)
    assert headers(outbox) == [b"header %d" % at for at in (1, 2, 3, 4, 5)]


def test_after_a_crash_a_read_only_disk_shows_everything_that_was_committed(
    on_a_disk: OnADisk,
) -> None:
    on_a_disk(read_only_after_a_crash, "4m")


def new_on_a_read_only_disk(disk: Path) -> None:
    remount(disk, "ro")
    with pytest.raises(DiskError):
        Outbox(disk / "outbox.db", QUOTA)
    with pytest.raises(OSError, match="Read-only"):
        lock_directory(disk, "agent")
    remount(disk, "rw")
    os.close(lock_directory(disk, "agent"))
    remount(disk, "ro")
    held = lock_directory(disk, "agent")
    with pytest.raises(OSError, match="another agent"):
        lock_directory(disk, "agent")
    os.close(held)


def test_a_directory_that_was_never_written_is_refused_and_one_that_was_is_locked(
    on_a_disk: OnADisk,
) -> None:
    on_a_disk(new_on_a_read_only_disk, "4m")


def rows_on_a_full_disk(disk: Path) -> None:
    history = History(disk / "history.db", ["torque", "failure"], 1 << 20, 0.0)
    kept = history.append(rows_of([(float(at), 1.0) for at in range(100)]))
    ballast = fill(disk)
    at = kept
    with contextlib.suppress(DiskError):
        while True:
            kept += history.append(rows_of([(float(at), 1.0)], [at]))
            at += 1
    assert "full" in history.problem
    assert history.count == kept == history.training_rows() == len(history.read(held_out=False))
    ballast.unlink()
    assert history.append(rows_of([(float(at), 1.0)], [at])) == 1
    assert history.problem == ""
    assert history.count == history.training_rows() == kept + 1


def test_rows_that_a_full_disk_does_not_take_are_not_counted_as_kept(on_a_disk: OnADisk) -> None:
    on_a_disk(rows_on_a_full_disk, "2m")


def training_on_a_full_disk(disk: Path) -> None:
    agent.learner._AFTER_FAILURE_S = 0.1  # noqa: SLF001 - tests do not wait
    federation, config = found_federation(disk.parent / "keys"), disk.parent / "agent.toml"
    config.write_text(agent_toml(federation))
    identity = read_back(config)[1]

    async def scenario(site: Site) -> None:
        site.learner.operator.paused = True
        site.history.append(failing_rows(400))
        feed(site.adoption, federation.publish(1))
        ballast = fill(disk)
        site.learner.operator.paused = False
        await site.until(lambda: site.status.learning.startswith("waiting for the disk"))
        assert site.outbox.produced == 0
        assert "make room" in site.outbox.problem
        ballast.unlink()
        await site.until(lambda: site.status.learning == "waiting for a version after 0")
        assert len(headers(site.outbox)) == 1
        assert site.outbox.problem == ""

    learning(federation, identity, disk, scenario)


def test_what_was_trained_on_a_full_disk_becomes_one_update_when_there_is_room(
    on_a_disk: OnADisk,
) -> None:
    on_a_disk(training_on_a_full_disk, "8m")
