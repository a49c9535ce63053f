"""One reader for all browsers, and the events that tell them what changed.

However many pages are open, the file is looked at no more than once a second, and reading takes no
more than a fifth of the time.  A stream holds no queue: a browser that is slow to take an event
gets the newest state next, not what it missed (html.spec.whatwg.org, "Server-sent events").
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from starlette.concurrency import run_in_threadpool

from coordinator.reader import Reader, ViewError
from coordinator.view import View
from coordinator.web.page import Page, page_of

EVERY_S: Final = 1.0
_SHARE: Final = 5
_KEEPALIVE_S: Final = 15.0
MAX_STREAMS: Final = 64


@dataclass
class Watch:
    """The newest view, for everybody who asks.

    Attributes:
      reader: owner of the open file.
      may_act: whether the page offers actions.
      every_s: shortest time between two looks at the file.
      streams: open now.
    """

    reader: Reader
    may_act: bool
    every_s: float = EVERY_S
    streams: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _found: View | ViewError | None = None
    _next_s: float = 0.0
    _rendered: tuple[int, Page] | None = None

    async def latest(self) -> View:
        """A view that is no older than `every_s`, or than four times what reading takes.

        Raises:
          ViewError: the file can not be read now.
        """
        async with self._lock:
            started = time.monotonic()
            if self._found is None or started >= self._next_s:
                self._found = await run_in_threadpool(self._look)
                ended = time.monotonic()
                self._next_s = max(started + self.every_s, ended + (_SHARE - 1) * (ended - started))
            found = self._found
        if isinstance(found, ViewError):
            raise found
        return found

    async def page(self) -> Page:
        """The newest view as a page, rendered once for everybody.

        Raises:
          ViewError: the file can not be read now.
        """
        view = await self.latest()
        if self._rendered is None or self._rendered[0] != view.number:
            self._rendered = view.number, page_of(view, may_act=self.may_act)
        return self._rendered[1]

    def _look(self) -> View | ViewError:
        # A failure is kept as long as a view is: else many browsers would hammer a bad disk.
        try:
            return self.reader.view()
        except ViewError as error:
            return error


async def events(watch: Watch, is_stopping: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Server-sent events for one browser: first everything, then what changed.

    Args:
      watch: where views come from.
      is_stopping: whether the server is about to end.
    """
    shown: Page | None = None
    trouble = ""
    quiet_s = 0.0
    yield b"retry: 3000\n\n"
    while not is_stopping():
        try:
            page = await watch.page()
        except ViewError as error:
            if str(error) != trouble:
                trouble, shown = str(error), None
                yield _event("trouble", {"reason": trouble})
        else:
            changed = None if page is shown else page.changed_since(shown)
            if changed is not None:
                yield _event("view", changed)
                quiet_s = 0.0
            shown, trouble = page, ""
        if quiet_s >= _KEEPALIVE_S:
            yield b": still here\n\n"
            quiet_s = 0.0
        await asyncio.sleep(watch.every_s)
        quiet_s += watch.every_s


def _event(name: str, data: object) -> bytes:
    # JSON from msgspec holds no line break, which would end the field.
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
