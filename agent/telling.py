"""What an agent says of itself: its status files, what `/metrics` tells, and systemd."""

import asyncio
import contextlib
import logging
import math
import time
from datetime import UTC, datetime

import numpy as np

from agent.health import keep_watch
from agent.parts import Parts
from agent.status import CHANNELS_FILE_NAME, FILE_NAME, Status, as_json
from agent.status_files import StatusFiles, runtime_directory
from agent.status_words import clocks_in_words, egress_in_words, health, in_one_line
from wire.errors import one_line
from wire.notify import notify, watchdog_interval_s

logger = logging.getLogger(__name__)

_STATUS_S = 0.5
_CHANNELS_S = 10.0
_WATCH_S = 1.0
_STATUS_SILENT_S = 300.0
"""A card may take its time."""
_LACKING_SAID = 10


class Telling:
    """Looks at all parts twice a second; changes none.

    Args:
      parts: of the agent.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._files = StatusFiles(parts.state, runtime_directory())
        self._is_stale = False

    async def report(self) -> None:
        """Say how the agent is: status files, and what `/metrics` tells."""
        notify("READY=1")
        self._parts.egress.start()
        channels_s = 0.0
        with self._parts.progress.watching("status", _STATUS_SILENT_S) as beat:
            while True:
                beat()
                encoded = as_json(self.look())
                self._parts.board.post(self._parts.status, encoded, time.monotonic())
                # In a thread, because a card may take its time, and scores do not wait.
                await asyncio.to_thread(self._write, encoded)
                await asyncio.sleep(_STATUS_S)
                if time.monotonic() - channels_s >= _CHANNELS_S:
                    channels_s = time.monotonic()
                    await self._report_channels()

    async def keep_watch(self) -> None:
        """Feed the watchdog while acquisition, learning and delivery make progress."""
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            logger.info("watchdog every %.1f s", interval_s)
        await keep_watch(self._parts.progress, notify, min(_WATCH_S, (interval_s or math.inf) / 2))

    async def _report_channels(self) -> None:
        found = self._parts.acquisition.quality.summary(time.time_ns() // 1000)
        self._parts.status.clocks = clocks_in_words(found)
        self._parts.board.post_channels(found)
        status = self._parts.status
        notify(f"STATUS={status.source}; link {status.link}; {one_line(status.learning)}")
        with contextlib.suppress(OSError):  # told with the status
            await asyncio.to_thread(self._files.write, CHANNELS_FILE_NAME, as_json(found))

    def look(self) -> Status:
        """The status as it is now."""
        parts = self._parts
        status, adopted = parts.status, parts.adoption.current
        status.source = in_one_line(report.state for report in parts.acquisition.reports)
        status.sources = parts.acquisition.reports
        status.outputs = parts.outputs.reports
        status.order = parts.orders.said
        status.late, status.incomplete_rows = parts.cutter.late, parts.cutter.incomplete
        lacking = np.flatnonzero(parts.cutter.lacking)[:_LACKING_SAID]
        status.lacking = [parts.names[at] for at in lacking]
        status.rows = parts.history.count
        status.store = parts.acquisition.store.counters()
        status.outcomes = parts.outbox.counts()
        status.produced = sum(status.outcomes.values())
        status.storage = self._storage()
        if adopted is not None:
            status.head = adopted.head.sequence
            status.train_version = adopted.head.train.version
            status.serve_version = adopted.head.serve.version
            status.serving = str(parts.personal.serving(adopted).kind)
        status.personal = parts.personal.state
        status.devices = [device.report for device in parts.devices]
        status.budget = parts.budget.report()
        status.privacy = parts.privacy.report()
        status.egress = egress_in_words(parts.egress.account())
        parts.connection.renewal.tell(datetime.now(UTC), time.monotonic())
        parts.outputs.health(health(status))
        return status

    def write_now(self) -> None:
        """Write the status files once more, as the agent ends, for the time after it."""
        self._parts.egress.close()
        channels = self._parts.acquisition.quality.summary(time.time_ns() // 1000)
        with contextlib.suppress(OSError):  # the disk's trouble was told before
            self._files.leave(FILE_NAME, as_json(self.look()))
            self._files.leave(CHANNELS_FILE_NAME, as_json(channels))

    def _write(self, data: bytes) -> None:
        try:
            self._files.write(FILE_NAME, data)
        except OSError as error:
            if not self._is_stale:
                logger.warning("the status file is not written: %s", error)
            self._is_stale = True
        else:
            self._is_stale = False

    def _storage(self) -> str:
        """What is wrong with the disk and its files, for people; `ok` when nothing is."""
        parts, store = self._parts, self._parts.acquisition.store
        files = (parts.outbox, parts.history, parts.models, parts.labels, store)
        more = (parts.local_tensors, parts.privacy, parts.egress)
        problems = [file.problem for file in (*files, *more) if file.problem]
        kept = sorted(path.name for path in parts.state.glob("*.damaged-*[0-9]"))
        if kept:
            problems.append(f"damaged files were kept for examination: {', '.join(kept)}")
        return "; ".join(problems) or "ok"
