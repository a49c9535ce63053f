"""A gateway to be hard on: a Debian that boots its own systemd, on a disk that can fill or be cut.

The machine's processes live in namespaces of their own, so it has its own process 1, its own
loopback and no other network.  Its root is an overlay: below, a tree that nothing writes to; above,
an ext4 in a file, which is the machine's disk.  What the machine has not synced is in the kernel's
memory and not in that file, so a copy of the file, made after process 1 was killed and before
anything is unmounted, is what a power cut leaves.

Needs root, loop devices, overlayfs and cgroup v2; the caller is in a mount namespace of its own
(`conftest.py`), so no mount outlives it, and the kernel kills the machine when its caller dies.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Self

BOOT_SCRIPT: Final = Path(__file__).with_name("boot.sh")
DISK_BYTES: Final = 3 << 30
"""Sparse; room for two versions of the package at once, as during an upgrade."""
DEADLINE_S: Final = 120.0
"""Nothing is judged by time: what did not happen by then never will."""
_LOOK_S: Final = 0.2
_INSIDE: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


class CommandError(AssertionError):
    """A command in the machine failed; says what it printed."""


def make_disk(path: Path) -> None:
    """Make an empty disk: an ext4 without blocks reserved for root, so that full means full."""
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    _run("mkfs.ext4", "-q", "-m", "0", str(path))


def copy_disk(source: Path, target: Path) -> None:
    """Copy what has reached a disk, holes left out."""
    _run("cp", "--sparse=always", "--reflink=auto", str(source), str(target))


class Machine:
    """One machine, off at first; use as a context manager, which leaves nothing behind.

    Attributes:
      root: its file system, to be looked at from outside, also while it is off.
    """

    def __init__(self, directory: Path, tree: Path, disk: Path) -> None:
        """Put a machine together.

        Args:
          directory: empty, its own.
          tree: the lower layer of its root; never changed.
          disk: made by `make_disk` or `copy_disk`; the machine's own.
        """
        self.root = directory / "root"
        self._directory, self._tree, self._disk = directory, tree, disk
        self._mount = directory / "disk"
        self._cgroup = _cgroup_root() / f"journeyman-boot-{os.getpid()}-{directory.name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Self:
        for each in (self.root, self._mount):
            each.mkdir()
        self._attach()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_on:
            self._kill()
        self._detach()

    @property
    def is_on(self) -> bool:
        """Whether its process 1 runs."""
        return self._process is not None and self._process.poll() is None

    def boot(self) -> None:
        """Start it and wait until its systemd has started everything."""
        assert not self.is_on
        self._cgroup.mkdir(exist_ok=True)
        # In its cgroup before `--cgroup`, because where a process is then is the root of the new
        # namespace; and nobody but process 1, whose systemd can then hand on memory limits.
        members = shlex.quote(str(self._cgroup / "cgroup.procs"))
        script = shlex.join([str(BOOT_SCRIPT), str(self.root)])
        command = [
            *("setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"),
            *("--pid", "--mount", "--uts", "--ipc", "--net", "--propagation", "private"),
            *("bash", "-c", f"echo 0 >{members}; exec unshare --cgroup {script}"),
        ]
        with (self._directory / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        self._init = self._first_process()
        self.until(self._has_started, "systemd has started everything")

    def run(self, command: str, *, check: bool = True, timeout_s: float = DEADLINE_S) -> str:
        """Run a shell command as root in the machine; returns what it printed.

        Raises:
          CommandError: it failed, and `check` is true.
        """
        done = subprocess.run(
            [*self._nsenter(), "bash", "-c", f"set -euo pipefail; {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_INSIDE,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise CommandError(f"{command}: status {done.returncode}\n{done.stdout[-6000:]}")
        return done.stdout

    def reboot(self) -> None:
        """As `systemctl reboot`: everything is stopped in order, then it starts again."""
        self.power_off("reboot")
        self.boot()

    def power_off(self, how: str = "poweroff") -> None:
        """Shut it down in order; its disk is written."""
        assert self._process is not None
        self.run(f"systemctl {how}", check=False)
        self._process.wait(DEADLINE_S)
        self._let_go()
        self._detach()
        self._attach()

    def cut_power(self) -> None:
        """Stop it in an instant; what it had not synced is gone, as with a real disk."""
        self._kill()
        after = self._disk.with_suffix(".after")
        copy_disk(self._disk, after)
        self._detach()
        after.replace(self._disk)
        self._attach()

    def state(self, unit: str) -> str:
        """What systemd says of a unit: active, activating, failed, inactive ..."""
        return self.run(f"systemctl is-active {unit}", check=False).strip()

    def shown(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run(f"systemctl show --property={name} --value {unit}").strip()

    def main_pid(self, unit: str) -> int:
        """The process id, in the machine, of a service's main process; 0 for none."""
        return int(self.shown(unit, "MainPID"))

    def wait_active(self, *units: str) -> None:
        """Wait until units are active."""
        for unit in units:
            self.until(partial(self._is_active, unit), f"{unit} is active")

    def wait_replaced(self, unit: str, pid: int, timeout_s: float = DEADLINE_S) -> None:
        """Wait until a service is active with another main process than `pid`."""

        def is_replaced() -> bool:
            return self._is_active(unit) and self.main_pid(unit) not in {0, pid}

        self.until(is_replaced, f"{unit} was started again", timeout_s)

    def inside(self, path: Path) -> Path:
        """Where this process finds an absolute path of the running machine, /run included."""
        return Path(f"/proc/{self._init}/root") / path.relative_to("/")

    def journal(self, unit: str = "", lines: int = 60) -> str:
        """The end of the journal."""
        which = f"--unit={unit}" if unit else ""
        return self.run(f"journalctl --no-pager --output=short-iso -n {lines} {which}", check=False)

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait until something holds; whatever it is, the journal is shown where it never does."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if not self.is_on:
                raise AssertionError(f"the machine went off before {what}:\n{self._console()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"never came true: {what}\n{self.journal(lines=40)}")
            time.sleep(_LOOK_S)

    def fill_disk(self) -> None:
        """Leave not a byte free on its disk."""
        self.run(
            "fallocate -l $(df --output=avail -B1 / | tail -1) /filler || true;"
            "dd if=/dev/zero of=/filler.rest bs=1k 2>/dev/null || true"
        )

    def free_disk(self) -> None:
        """Undo `fill_disk`."""
        self.run("rm -f /filler /filler.rest")

    def _is_active(self, unit: str) -> bool:
        return self.state(unit) == "active"

    def _has_started(self) -> bool:
        return self.run("systemctl is-system-running", check=False).strip() in {
            "running",
            "degraded",
        }

    def _console(self) -> str:
        return (self._directory / "console.log").read_text(errors="replace")[-3000:]

    def _nsenter(self) -> list[str]:
        return [
            *("nsenter", f"--target={self._init}", "--pid", "--mount", "--uts", "--ipc", "--net"),
            *("--cgroup", "--root", "--wd"),
        ]

    def _first_process(self) -> int:
        """Wait for systemd; returns its process id out here."""
        assert self._process is not None
        outer = self._process.pid
        children = Path(f"/proc/{outer}/task/{outer}/children")
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and self.is_on:
            with contextlib.suppress(OSError, ValueError):
                pid = int(children.read_text())
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return pid
            time.sleep(0.02)
        raise AssertionError(f"no systemd became process 1:\n{self._console()}")

    def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)
        self._process.wait(DEADLINE_S)
        self._let_go()

    def _let_go(self) -> None:
        """Remove the cgroups that the machine's systemd made."""
        self._process = None
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()

    def _attach(self) -> None:
        _run("mount", "-o", "loop,noatime", str(self._disk), str(self._mount))
        upper, work = self._mount / "upper", self._mount / "work"
        for each in (upper, work):
            each.mkdir(exist_ok=True)
        layers = f"lowerdir={self._tree},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "-o", layers, "overlay", str(self.root))

    def _detach(self) -> None:
        _run("umount", str(self.root))
        _run("umount", str(self._mount))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{shlex.join(command)}: {done.stdout}{done.stderr}")


def _cgroup_root() -> Path:
    """Where the system has the cgroup v2 hierarchy."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise CommandError("no cgroup v2 hierarchy is mounted here; systemd needs one")
