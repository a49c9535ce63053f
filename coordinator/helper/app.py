"""The helper's composition root: opens keys and store, owns the tasks, tells how it goes."""

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from coordinator.helper.config import (
    HelperSettings,
    Identity,
    read_helper_settings,
    read_identity,
)
from coordinator.helper.connection import Connection
from coordinator.helper.identity import differences
from coordinator.helper.metrics import metric_lines
from coordinator.helper.office import Office
from coordinator.helper.store import Store
from coordinator.helper.web import serving
from wire.database import lock_directory
from wire.errors import SettingsError
from wire.listening import own_address
from wire.notify import notify, watchdog_interval_s
from wire.settings import settings_error
from wire.watchdog import keep_watch

logger = logging.getLogger(__name__)

_WATCH_S = 1.0
_LOOK_S = 5.0
_FRESH_S = 10.0
"""A look at the tasks that is older means that nothing runs."""


class Helper:
    """One helper: owns the state directory and the connection."""

    def __init__(self, config: Path, settings: HelperSettings, identity: Identity) -> None:
        state = identity.state
        try:
            lock_directory(state, "helper")
            self._store = Store(state, identity.keys.public)
        except OSError as error:
            reason = f"can not use {state}: {error.strerror}"
            raise settings_error(config, "helper.state_dir", reason) from None
        except SettingsError as error:
            raise settings_error(config, "helper.state_dir", str(error)) from None
        self._config, self._settings = config, settings
        self._connection = Connection(
            settings.broker, Office(self._store, identity.keys, identity.charter)
        )
        self._metrics = self._figures()
        charter = identity.charter.trust.charter
        known = self._store.known()
        logger.info(
            "helper %s of %s, charter %d, store %s with %d endorsements",
            settings.helper.name,
            charter.federation,
            charter.epoch,
            known.store,
            known.endorsed,
        )
        for problem in differences(charter, identity.keys.public):
            logger.error("nothing is endorsed: charter %d: %s", charter.epoch, problem)
        if known.restored:
            logger.error("nothing is endorsed until new keys: %s", known.restored)

    async def run(self) -> None:
        """Run until cancelled after `stop`; tell the service manager how it goes.

        Raises:
          SettingsError: the address for figures can not be had.
        """
        interval_s = watchdog_interval_s()
        every_s = min(_WATCH_S, (interval_s or math.inf) / 2)
        async with AsyncExitStack() as stack:
            if self._settings.metrics.listen:
                self._serve_figures(stack)
            notify("READY=1")
            # Where one of these fails, nothing feeds the watchdog, which is right.
            progress = self._connection.progress
            watch = asyncio.create_task(keep_watch(progress, notify, every_s), name="watchdog")
            look = asyncio.create_task(self._look(), name="look")
            stack.callback(watch.cancel)
            stack.callback(look.cancel)
            await self._connection.run()

    def stop(self) -> None:
        """Say that a cancellation comes, so that a link that ends with it does not hide it."""
        self._connection.is_stopping = True

    def close(self) -> None:
        """Release the store."""
        self._store.close()

    def _serve_figures(self, stack: AsyncExitStack) -> None:
        pages = {"/metrics": lambda: (200, self._metrics), "/healthz": self._health}
        listen = self._settings.metrics.listen
        try:
            port = stack.enter_context(serving(own_address(listen), pages))
        except OSError as error:
            reason = f"can not listen on {listen}: {error.strerror}"
            raise settings_error(self._config, "metrics.listen", reason) from None
        logger.info("figures at port %d", port)

    async def _look(self) -> None:
        """The store belongs to this thread, so figures are written down here."""
        while True:
            self._metrics = self._figures()
            await asyncio.sleep(_LOOK_S)

    def _figures(self) -> str:
        store, figures = self._store, self._connection.figures
        lines = metric_lines(figures, store.known(), store.counts(), store.alarms())
        return "\n".join([*lines, ""])

    def _health(self) -> tuple[int, str]:
        progress = self._connection.progress
        stalled = progress.stalled
        looked_s = progress.looked_s
        if looked_s is None or time.monotonic() - looked_s > _FRESH_S:
            return 503, "nothing runs\n"
        return (503, "; ".join(map(str, stalled)) + "\n") if stalled else (200, "well\n")


async def run(config: Path) -> None:
    """Run the helper of one configuration file until SIGTERM or SIGINT."""
    settings = read_helper_settings(config)
    helper = Helper(config, settings, read_identity(config, settings))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.create_task(helper.run(), name="helper")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    helper.stop()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    notify("STOPPING=1")
    helper.close()


def status(config: Path) -> Iterator[str]:
    """What the helper's store says, line by line."""
    settings = read_helper_settings(config)
    identity = read_identity(config, settings)
    store = Store(identity.state, identity.keys.public)
    with contextlib.closing(store):
        known, counts = store.known(), store.counts()
        charter = identity.charter.trust.charter
        yield f"helper {settings.helper.name} of {charter.federation}, charter {charter.epoch}"
        yield from (f"NOT IN USE: {each}" for each in differences(charter, identity.keys.public))
        if known.restored:
            yield f"NOT IN USE: restored from a backup, make new keys: {known.restored}"
        yield f"store {known.store}, connection {known.session}"
        yield f"reports {counts['waiting']} waiting, {counts['promised']} in manifests"
        yield f"manifests {known.endorsed} endorsed, masks given for {counts['released']}"
        yield f"seeds forgotten of {counts['forgotten']} reports"
        for kind, detail, number in store.alarms():
            yield f"ALARM {kind}, {number} times; last: {detail}"
