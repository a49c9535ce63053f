"""A camera command as a child process: its frames, its last words, and its end.

Responsible for the process and its bytes.  Everything that comes is read at once, so that a slow
receiver never makes the camera wait and its frames old: then the oldest frames are dropped.
"""

import asyncio
import os
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.sensors.images.frames import RawFrame
from agent.sensors.images.picture import PictureError

_TAIL_BYTES = 2000
_GOODBYE_S, _POLL_S = 1.0, 0.02
_STDOUT, _STDERR = 1, 2
_NOT_INHERITED = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""What systemd gives the agent and nobody else."""


class Splitter(Protocol):
    """Cuts a stream of bytes into frames."""

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes and give the frames that they complete; raises `PictureError`."""


@dataclass
class Camera(asyncio.SubprocessProtocol):
    """What a running command has given.

    Attributes:
      splitter: for its frames.
      queue: how many of them may wait.
      frames: that wait, the oldest first.
      dropped: frames that had to go since the last one was taken.
      last_frame_s: when the last one was whole; by the monotonic clock.
      failure: what is wrong with its bytes; empty when nothing is.
    """

    splitter: Splitter
    queue: int
    frames: deque[RawFrame] = field(default_factory=deque)
    dropped: int = 0
    last_frame_s: float = field(default_factory=time.monotonic)
    failure: str = ""
    _tail: bytearray = field(default_factory=bytearray)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        return bytes(self._tail).decode("utf-8", "replace").strip()

    @property
    def is_running(self) -> bool:
        """Whether more frames can come."""
        return not self.failure and not self.has_closed

    @property
    def has_closed(self) -> bool:
        """Whether it closed its output, which it does when it ends."""
        return self._closed.is_set()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Frames, or words for people."""
        if fd == _STDERR:
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            return
        if self.failure:
            return
        try:
            frames = self.splitter.feed(data)
        except PictureError as error:
            self.failure = str(error)
            frames = []
        now_us = time.time_ns() // 1000
        for frame in frames:
            self.last_frame_s = time.monotonic()
            self.frames.append(RawFrame(frame, "", now_us))
            if len(self.frames) > self.queue:
                self.frames.popleft()
                self.dropped += 1
        self._news.set()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """It closed its output: no more frames, whether it still runs or not."""
        del exc
        if fd == _STDOUT:
            self._closed.set()
            self._news.set()

    async def wait(self, longest_s: float) -> None:
        """Wait until there is something new, but not longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._news.wait()
        self._news.clear()


@dataclass(frozen=True)
class Process:
    """A command that was started, in a process group of its own."""

    transport: asyncio.SubprocessTransport
    camera: Camera

    async def end(self) -> int | None:
        """End it and all that it started; gives its exit status if it has one by then."""
        group = self.transport.get_pid()
        try:
            if not self.camera.has_closed:
                _signal(group, signal.SIGTERM)
            await self._exit()
        finally:
            _signal(group, signal.SIGKILL)
            self.transport.close()
        await self._exit()
        return self.transport.get_returncode()

    async def _exit(self) -> None:
        """Wait for its exit, but not for long."""
        for _ in range(round(_GOODBYE_S / _POLL_S)):
            if self.transport.get_returncode() is not None:
                return
            await asyncio.sleep(_POLL_S)


async def start(command: tuple[str, ...], folder: Path, camera: Camera) -> Process:
    """Start a command without a shell.

    Raises:
      OSError: it can not be started.
    """
    environment = {name: text for name, text in os.environ.items() if name not in _NOT_INHERITED}
    transport, protocol = await asyncio.get_running_loop().subprocess_exec(
        lambda: camera,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    return Process(transport, protocol)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
