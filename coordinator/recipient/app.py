"""The recipient's composition root: opens keys and store, runs until SIGTERM."""

import asyncio
import contextlib
import logging
import math
import signal
from pathlib import Path

from coordinator.recipient.config import read_identity, read_recipient_settings
from coordinator.recipient.connection import Connection
from coordinator.recipient.desk import Desk
from coordinator.recipient.store import DATABASE, RecipientStore
from wire.bfv_keys import can_encrypt
from wire.database import lock_directory
from wire.errors import SettingsError
from wire.notify import notify, watchdog_interval_s
from wire.settings import settings_error
from wire.watchdog import keep_watch

logger = logging.getLogger(__name__)

_WATCH_S = 1.0


async def run(config: Path) -> None:
    """Run the recipient of one configuration file until SIGTERM or SIGINT.

    Raises:
      SettingsError: names file, line and key; or TenSEAL is not installed.
    """
    settings = read_recipient_settings(config)
    identity = read_identity(config, settings)
    if reason := can_encrypt():
        raise SettingsError("homomorphic encryption", None, None, reason)
    try:
        identity.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_directory(identity.state, "recipient")
        store = RecipientStore(identity.state / DATABASE)
    except OSError as error:
        reason = f"can not use {identity.state}: {error.strerror}"
        raise settings_error(config, "recipient.state_dir", reason) from None
    desk = Desk(store, identity.keys, identity.charter)
    charter = identity.charter.trust.charter
    logger.info(
        "recipient %s of %s, charter %d",
        identity.keys.public.name,
        charter.federation,
        charter.epoch,
    )
    if problem := desk.why_nothing():
        logger.error("nothing is decrypted: %s", problem)
    with contextlib.closing(store):
        await _until_stopped(Connection(settings.broker, desk))


async def _until_stopped(connection: Connection) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    every_s = min(_WATCH_S, (watchdog_interval_s() or math.inf) / 2)
    running = asyncio.create_task(connection.run(), name="recipient")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    watch = asyncio.create_task(keep_watch(connection.progress, notify, every_s), name="watchdog")
    notify("READY=1")
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    connection.is_stopping = True
    for task in (running, stopping, watch):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    notify("STOPPING=1")
