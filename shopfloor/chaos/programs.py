"""Programs kept running as a service manager would keep them, and killed by PID.

What ends is started again after a short wait, for ever, whatever its exit status; what ended
without having been killed is remembered with its status, because that is the program's doing.
"""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shopfloor.processes import Child

_LOOK_S: Final = 0.03
_SHORTEST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 3.0
_STEADY_S: Final = 5.0
"""A program that ran this long is restarted at once; one that ends faster waits longer and longer,
so that a disk that stays full does not cost a whole core in restarts."""
_STOP_S: Final = 10.0


@dataclass
class Program:
    """One program and the process that runs it now.

    Attributes:
      starts: how often it was started.
      fell: exit statuses of processes that nobody killed.
    """

    child: Child
    starts: int = 0
    fell: list[int] = field(default_factory=list)
    _started_s: float = 0.0
    _pause_s: float = _SHORTEST_PAUSE_S
    _killed: bool = False
    _down_s: float = 0.0
    _meanwhile: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.child.name

    @property
    def is_running(self) -> bool:
        """Whether its process is there and was not killed a moment ago."""
        return self.child.pid != 0 and not self._killed

    def start(self) -> None:
        """Start its process."""
        self.child.start()
        self.starts += 1
        self._started_s = time.monotonic()

    def kill(self, down_s: float, meanwhile: Callable[[], None] | None = None) -> bool:
        """Send SIGKILL; started again after `down_s` at the earliest, and after `meanwhile` ran.

        Returns:
          Whether there was a running process to kill.
        """
        process = self.child.process
        if not self.is_running or process is None:
            return False
        process.kill()
        self._killed, self._down_s, self._meanwhile = True, down_s, meanwhile
        return True

    async def keep(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            process = self.child.process
            if process is None or process.poll() is None:
                continue
            await asyncio.sleep(self._take_note(process.returncode))
            if self._meanwhile is not None:
                self._meanwhile()
            self._killed, self._meanwhile = False, None
            self.start()

    def _take_note(self, status: int) -> float:
        """Remember how it ended; return the seconds until it is started again."""
        if self._killed:
            return self._down_s
        self.fell.append(status)
        is_steady = time.monotonic() - self._started_s >= _STEADY_S
        wait_s = _SHORTEST_PAUSE_S if is_steady else self._pause_s
        self._pause_s = min(2 * wait_s, _LONGEST_PAUSE_S)
        return wait_s

    def stop(self) -> None:
        """End it politely, then not."""
        process = self.child.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def program(
    name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> Program:
    """A program that logs to `NAME.log` in the directory.

    Args:
      name: its name.
      command: its command line.
      directory: where its log goes.
      environment: variables to add to its environment.
    """
    added = [f"{key}={value}" for key, value in (environment or {}).items()]
    # `env` replaces itself by the command, so the PID is the program's.
    wrapped = [shutil.which("env") or "/usr/bin/env", *added, *command]
    return Program(Child(name, wrapped, directory / f"{name}.log"))
