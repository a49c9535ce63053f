"""The shop floor's flaky link, run in a thread so that tests without a loop can cut it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shopfloor.links import FlakyLink, Link


class Between:
    """A TCP link that a test can cut, mend, and read the bytes of."""

    def __init__(self, link: FlakyLink, loop: asyncio.AbstractEventLoop) -> None:
        self._link, self._loop = link, loop

    @property
    def port(self) -> int:
        """Where to connect."""
        return self._link.link.listen_port

    @property
    def up_bytes(self) -> int:
        """Bytes from whoever connected to the broker, so far."""
        return self._link.up_bytes

    @property
    def down_bytes(self) -> int:
        """Bytes from the broker, so far."""
        return self._link.down_bytes

    def cut(self) -> None:
        """End all connections, and refuse new ones until `mend`."""
        self._do(lambda: self._link.cut("reset"))

    def mend(self) -> None:
        """Let connections through again."""
        self._do(self._link.restore)

    def _do(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def call() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(call)
        done.wait(10)


@contextmanager
def between(listen_port: int, target_port: int) -> Iterator[Between]:
    """Forward 127.0.0.1:`listen_port` to `target_port` until the end of the block."""
    loop, ready, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    link = FlakyLink(Link("bridge", listen_port, target_port))

    async def serve() -> None:
        async with link:
            ready.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield Between(link, loop)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()
