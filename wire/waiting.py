"""How a watched task waits for what may take long: it beats meanwhile."""

import asyncio
from contextlib import suppress

from wire.progress import Beat

_SLICE_S = 5.0


def no_beat() -> None:
    """What a task beats that nobody watches."""


async def rest(seconds: float, beat: Beat) -> None:
    """Sleep, and beat at the beginning, every few seconds, and at the end."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + seconds
    while True:
        beat()
        left_s = until_s - loop.time()
        if left_s <= 0:
            return
        await asyncio.sleep(min(left_s, _SLICE_S))


async def until(event: asyncio.Event, beat: Beat) -> None:
    """Wait for an event however long it takes, and beat meanwhile and at the end."""
    while True:
        beat()
        if event.is_set():
            return
        with suppress(TimeoutError):
            # Not wait_for: before Python 3.12 it can swallow a cancellation (cpython #86296).
            async with asyncio.timeout(_SLICE_S):
                await event.wait()
