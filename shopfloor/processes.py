"""The demo's processes: started, watched, started again when they die, and none left behind.

Every child is in a session of its own, so Ctrl-C reaches the demo alone, which then ends the
children in order; and the kernel kills a child whose parent is gone (prctl PR_SET_PDEATHSIG).
"""

import asyncio
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_RESTART_S = 0.5
_STOP_S = 5.0


class ChildError(Exception):
    """A process of the demo ended or did not get ready; names its log."""


@dataclass
class Child:
    """One process.

    Attributes:
      restarts: it is started again when it dies, as a service manager would.
      ends: it ends by itself.
      may_fail: the run goes on without it.
    """

    name: str
    command: Sequence[str]
    log: Path
    restarts: bool = False
    ends: bool = False
    may_fail: bool = False
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, its output appended to the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  the demo has no threads yet
            )

    @property
    def pid(self) -> int:
        """Process id, 0 when it does not run."""
        return self.process.pid if self.process and self.process.poll() is None else 0

    def last_words(self) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text[-1500:]


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@dataclass
class Processes:
    """All children of one run."""

    directory: Path
    children: list[Child] = field(default_factory=list)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        restarts: bool = False,
        ends: bool = False,
        may_fail: bool = False,
    ) -> Child:
        """Start a child; its log is `NAME.log` in the run directory."""
        child = Child(name, command, self.directory / f"{name}.log", restarts, ends, may_fail)
        self.children.append(child)
        child.start()
        return child

    async def watch(self) -> None:
        """Start again what died and may; anything else that dies ends the run."""
        while True:
            for child in self.children:
                if child.process is None or child.process.poll() is None:
                    continue
                if child.may_fail or (child.ends and child.process.returncode == 0):
                    continue
                if not child.restarts or child.process.returncode == 2:
                    reason = f"{child.name} ended with status {child.process.returncode}"
                    raise ChildError(f"{reason}; see {child.log}\n{child.last_words()}")
                await asyncio.sleep(_RESTART_S)
                child.start()
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        """End all children, politely, then not."""
        running = [child.process for child in self.children if child.pid]
        for process in running:
            if process is not None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in running:
            if process is None:
                continue
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Wait until a condition holds; `ChildError` says what did not happen in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            reason = f"{what}: not within {timeout_s:g} s"
            raise ChildError(reason)
        await asyncio.sleep(0.1)


def python(module: str, *arguments: object) -> list[str]:
    """The command line of one of our modules."""
    return [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
