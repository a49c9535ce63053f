"""A real Flower deployment on loopback: one SuperLink and a SuperNode for each site.

Flower starts further processes (an executor, the server app, a client app for each task), some in
sessions of their own.  While `running`, this process adopts orphans, so that all of them stay its
descendants, and on the way out it ends every descendant: nothing outlives it.  Linux only.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay import Relay

APP = Path(__file__).resolve().parent / "app"
_LISTENS_WITHIN_S = 60.0
_ENDS_WITHIN_S = 5.0
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_SUBMITS_WITHIN_S = 120.0


class DeploymentError(RuntimeError):
    """Flower did not start, or a part of it ended by itself; the message says where to look."""


@dataclass(frozen=True)
class Deployment:
    """What runs: its scratch folder (logs too), its programs and the sites' common relay."""

    folder: Path
    programs: dict[str, subprocess.Popen[bytes]]
    relay: Relay

    def check_alive(self) -> None:
        """Raise `DeploymentError` if a program has ended, with the end of its log."""
        for name, program in self.programs.items():
            if program.poll() is not None:
                raise DeploymentError(
                    f"{name} ended ({program.returncode}): ...{self.log_end(name)}"
                )

    def log_end(self, name: str) -> str:
        """Return the last 2,000 characters of a program's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]

    async def submit(self, settings: dict[str, str | int | float]) -> None:
        """Start the app with these settings (`flwr run`)."""
        words = [f'{k}="{v}"' if isinstance(v, str) else f"{k}={v}" for k, v in settings.items()]
        command = ["flwr", "run", str(APP), "poc", "--run-config", " ".join(words)]
        program = _start(self.folder, "submit", command)
        self.programs["submit"] = program
        try:
            await asyncio.to_thread(program.wait, _SUBMITS_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise DeploymentError(f"flwr run took over {_SUBMITS_WITHIN_S:g} s") from None
        if program.returncode:
            self.check_alive()
        del self.programs["submit"]


@contextlib.asynccontextmanager
async def running(folder: Path, sites: Sequence[str]) -> AsyncIterator[Deployment]:
    """Start everything in `folder`; stop it all on the way out, however that comes about."""
    link_port, *node_ports = _free_ports(1 + len(sites))
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "poc"\n\n[superlink.poc]\naddress = "127.0.0.1:{link_port}"\n'
        "insecure = true\n",
        encoding="utf-8",
    )
    _adopt_orphans()
    relay = Relay(link_port)
    server, relay_port = await relay.start()
    deployment = Deployment(folder, {}, relay)
    try:
        deployment.programs["superlink"] = _start(
            folder,
            "superlink",
            [
                *("flower-superlink", "--insecure", "--disable-runtime-dependency-installation"),
                *("--host", "127.0.0.1", "--port", str(link_port)),
            ],
        )
        await _listening(link_port, deployment)
        for site, port in zip(sites, node_ports, strict=True):
            deployment.programs[f"supernode-{site}"] = _start(
                folder,
                f"supernode-{site}",
                [
                    *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{relay_port}"),
                    *("--host", "127.0.0.1", "--port", str(port)),
                    *("--node-config", f'site="{site}"'),
                ],
            )
        yield deployment
    finally:
        server.close()
        _stop()
        await relay.drained()


def _start(folder: Path, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [str(binaries / command[0]), *command[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _listening(port: int, deployment: Deployment) -> None:
    async with asyncio.timeout(_LISTENS_WITHIN_S):
        while True:
            deployment.check_alive()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


def _free_ports(count: int) -> list[int]:
    # Flower's environment does not have shopfloor.ports.
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends; prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stop() -> None:
    """End all descendants: kindly first, then for certain, and again until none is left."""
    _signal(_descendants(), signal.SIGTERM)
    patience_s = time.monotonic() + _ENDS_WITHIN_S
    while descendants := _descendants():
        if time.monotonic() > patience_s:
            _signal(descendants, signal.SIGKILL)
        _reap()
        time.sleep(0.05)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants() -> set[int]:
    """Process ids below this process, zombies too; proc(5), /proc/pid/stat."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    above = {os.getpid()}
    while above:
        above = {pid for pid, parent in parents.items() if parent in above} - found
        found |= above
    return found


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
