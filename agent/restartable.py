"""A task that can be begun anew, with other settings, while the others go on."""

import asyncio
from collections.abc import Callable, Coroutine

Begin = Callable[[], Coroutine[None, None, None]]


class Restartable:
    """Runs what `begin` gives, again whenever somebody asks for it.

    What ends by itself stays ended until then; what fails ends `run` with its error.

    Args:
      begin: makes the coroutine, by the settings of that moment.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._again = asyncio.Event()

    def restart(self) -> None:
        """Cancel what runs and begin anew; what was begun a moment ago is cancelled too."""
        self._again.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self._again.clear()
            running = asyncio.ensure_future(self._begin())
            asked = asyncio.ensure_future(self._again.wait())
            try:
                await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                    await asked
            finally:
                running.cancel()
                asked.cancel()
                await asyncio.gather(running, asked, return_exceptions=True)
            if not running.cancelled():
                running.result()
