"""Machines for `make boot`, which runs these tests alone; `make test` does not come here.

They need root, debootstrap, loop devices and namespaces, and take minutes.  Where something is
missing they fail and say what: nothing is ever skipped here, so a green run means a booted gateway.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.boot import gateway
from tests.boot.machine import Machine, copy_disk, make_disk
from tests.boot.packages import build_package
from tests.boot.tree import debian_tree

NEEDED = ("debootstrap", "unshare", "nsenter", "setpriv", "mkfs.ext4", "losetup", "dpkg-deb", "npm")
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count what was skipped, and fail when that is not nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # not in a worker
        skipped = len(reporter.stats.get("skipped", []))
        reporter.write_line(f"skipped: {skipped}")
        if skipped:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _private_mounts() -> None:
    """Give this process mounts of its own, which end with it."""
    if os.geteuid() != 0:
        pytest.fail("booting machines needs root: sudo make boot", pytrace=False)
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.fail(f"missing: {', '.join(missing)}; run tests/boot/install.sh", pytrace=False)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        reason = os.strerror(ctypes.get_errno())
        pytest.fail(f"no mount namespace can be made here: {reason}", pytrace=False)


@pytest.fixture(scope="session")
def build(repository: Path) -> Path:
    """Where the tree is kept between runs."""
    return repository / "build" / "boot"


@pytest.fixture(scope="session")
def tree(repository: Path, build: Path, _private_mounts: None) -> Path:
    """A clean Debian 12."""
    return debian_tree(build, repository / "tests/node_opcua/node_modules")


@pytest.fixture(scope="session")
def shared(build: Path, tree: Path) -> Iterator[Path]:
    """What all workers of this run share; gone when the last of them is."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = build / f"run-{run}"
    _sweep(each for each in build.glob("run-*") if each != folder)
    folder.mkdir(exist_ok=True)
    with (folder / "users.lock").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield folder
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another worker goes on, and will do this
            return
        shutil.rmtree(folder)


def _sweep(folders: Iterable[Path]) -> None:
    """Remove what runs that were killed left behind."""
    for folder in folders:
        with contextlib.suppress(OSError), (folder / "users.lock").open() as users:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


def _once(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Have one worker make a folder, while the others wait for it."""
    made = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            unfinished = folder / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(made)
    return made


@pytest.fixture(scope="session")
def package(repository: Path, shared: Path) -> Path:
    """The project's package: JOURNEYMAN_TEST_PACKAGE, or one of these sources."""
    if given := os.environ.get("JOURNEYMAN_TEST_PACKAGE"):
        return Path(given).resolve()
    folder = _once(shared, "package", lambda out: build_package(repository, out))
    (found,) = folder.glob("*.deb")
    return found


@pytest.fixture(scope="session")
def prepared_disk(shared: Path, tree: Path, package: Path) -> Path:
    """The disk of a gateway that was installed, enrolled, has learned, and was shut down."""
    return _once(shared, "prepared", lambda out: _prepare(out, tree, package)) / "disk"


def _prepare(out: Path, tree: Path, package: Path) -> None:
    make_disk(out / "disk")
    place = out / "machine"
    place.mkdir()
    with Machine(place, tree, out / "disk") as machine:
        machine.boot()
        gateway.install(machine, package)
        gateway.found_federation(machine)
        gateway.enrol(machine)
        gateway.start(machine)
        machine.wait_active(gateway.AGENT, gateway.COORDINATOR, gateway.PAGE)
        gateway.wait_for_updates(machine)
        machine.power_off()


@pytest.fixture
def place(shared: Path) -> Iterator[Path]:
    """An empty folder for one machine."""
    folder = Path(tempfile.mkdtemp(prefix="machine-", dir=shared))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def clean_machine(place: Path, tree: Path) -> Iterator[Machine]:
    """A Debian that has never heard of Journeyman, booted."""
    make_disk(place / "disk.img")
    with Machine(place, tree, place / "disk.img") as machine:
        machine.boot()
        yield machine


@pytest.fixture
def running_gateway(place: Path, tree: Path, prepared_disk: Path) -> Iterator[Machine]:
    """A gateway at work, with its coordinator, broker and milling machine on it."""
    copy_disk(prepared_disk, place / "disk.img")
    with Machine(place, tree, place / "disk.img") as machine:
        machine.boot()
        machine.wait_active(gateway.AGENT, gateway.COORDINATOR, gateway.PAGE, gateway.BROKER)
        machine.until(lambda: gateway.readiness(machine) == "ok", "the agent is ready")
        gateway.wait_for_updates(machine, 1)
        yield machine
