"""Places for messages in flight on one connection; who waits is served in order."""

import asyncio
import sys
from collections import deque


class Lane:
    """So many messages may be in flight at a time.

    Attributes:
      places: how many; a smaller number counts from the next one that leaves.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a place and take it."""
        if self._taken < self.places and not self._waiting:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # the place came with the cancellation: pass it on
            raise

    def leave(self) -> None:
        """Give a place back to whoever waits longest."""
        self._taken -= 1
        while self._waiting and self._taken < self.places:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)

    def end(self) -> None:
        """Let everybody go on, into the error that they will meet."""
        self.places = sys.maxsize
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
