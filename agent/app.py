"""The agent's composition root: the only place that wires, and where every task is born.

    sources ─ acquisition ─► rows ─► history (durable) ─► learn ─► outbox (durable) ─► connection
                  │           └──► score what is served ─► outputs for PLCs and people    ║ MQTT
                  └► samples (durable)        ▲ adoption ◄── head, bundle, model ◄────────╝

All tasks belong to one TaskGroup: when one fails, all stop, the process exits non-zero and systemd
starts it again; what matters is in the durable files.
"""

import asyncio
import contextlib
import logging
import math
import os
import random
import signal
import time
from pathlib import Path

import numpy as np

from agent.acquisition import Acquisition
from agent.adoption import Adoption
from agent.config import AgentSettings, Identity, read_agent_settings, read_identity, resolve
from agent.connection import SOFTWARE, Connection
from agent.delivery import Schedule
from agent.health import Board, Progress, keep_watch, serve_health
from agent.history import History
from agent.labels import Labels, serve_labels
from agent.learner import Learner, Operator
from agent.learning.worker import TrainingProcess
from agent.local_tensors import LocalTensors
from agent.models import Models
from agent.notify import notify, watchdog_interval_s
from agent.outbox import Outbox
from agent.personal import Personal
from agent.reporting import Reporting
from agent.samples import SampleStore
from agent.scoring import Scoring
from agent.sensors.source import SourceContext
from agent.serve import Outputs
from agent.signals.cutting import RowCutter
from agent.signals.quality import Quality
from agent.signals.rows import Rows, joined
from agent.status import CHANNELS_FILE_NAME, FILE_NAME, Status, as_json, replace_file
from agent.status_words import clocks_in_words, health, in_one_line
from agent.tombstones import bury_doomed
from agent.turn import Turn
from agent.unfinished import Unfinished
from wire.codec import Counter
from wire.database import DiskError, lock_directory
from wire.settings import settings_error

logger = logging.getLogger(__name__)

_GATHER_S = 0.02
"""A row is scored within this much of its cut; rows that come together are scored together."""
_KEEP_S = 0.5
"""Rows of so much time are written in one transaction: each costs a card some pages."""
_STATUS_S = 0.5
_HOUSE_S = 5.0
_CHANNELS_S = 10.0
_WATCH_S = 1.0
_SILENT_S = 60.0
_STATUS_SILENT_S = 300.0
"""A card may take its time."""
_LACKING_SAID = 10


class Agent:
    """One gateway's agent: owns the files of a locked state directory, and its tasks."""

    def __init__(
        self, settings: AgentSettings, identity: Identity, state: Path, config: Path
    ) -> None:
        self._settings, self._identity, self._state = settings, identity, state
        self._names = names = [channel.name for channel in settings.channels]
        cutting = settings.cutting
        self._labels = Labels(state / "labels.db", settings.labels, names, config.parent)
        self._history = _open_history(settings, state, names, self._labels)
        self._outbox = Outbox(state / "outbox.db", settings.outbox.quota_bytes)
        self._models = Models(state / "models.db")
        self._local_tensors = LocalTensors(state)
        self._adoption = Adoption(
            self._models,
            identity.trust,
            names,
            settings.training.backend,
            self._local_tensors,
            cutting.shapes,
        )
        self._turn = Turn(state, self._history.training_rows(), self._adoption.changed)
        self._operator = Operator()
        self._progress = Progress()
        self._board = Board(self._progress, SOFTWARE, settings.metrics.channels)
        self._process = TrainingProcess(
            memory_bytes=settings.training.memory_bytes,
            idle_s=settings.training.idle_s,
            backend=settings.training.backend,
        )
        self._personal = Personal(
            self._adoption,
            self._history,
            self._process,
            identity.agent,
            settings.personal,
            state,
            lambda: self._turn.is_training or self._operator.paused,
        )
        self._made = asyncio.Event()
        self._status_is_stale = False
        self._status = _first_status(identity)
        context = SourceContext(config.parent, state, identity.agent)
        self._outputs = Outputs(
            settings.scores, context, identity.credential.site, settings.opcua_sources
        )
        self._scoring = Scoring(
            self._adoption,
            self._personal,
            [channel.unit for channel in settings.channels],
            self._status,
            self._outputs.take,
        )
        self._cutter = RowCutter(cutting)
        self._acquisition = Acquisition(
            settings.sources,
            context,
            self._cutter,
            SampleStore(state / "samples", names, settings.store),
            Quality(names, _clocks(settings)),
            self._status,
            self._progress,
        )
        self._unkept: list[Rows] = []
        self._connection = Connection(
            settings.broker,
            identity,
            self._outbox,
            Reporting(self._adoption, self._history, self._personal),
            self._turn,
            self._adoption,
            self._operator,
            self._status,
            Schedule(self._outbox.open_updates(), random.Random()),  # noqa: S311  jitter only
            self._made,
            self._progress,
            settings.outbox.chunk_bytes,
        )

    def stop(self, task: "asyncio.Task[None]") -> None:
        """End the task that runs `run`, also when the link ends in the same instant."""
        self._connection.is_stopping = True
        task.cancel()

    async def run(self) -> None:
        """Run until cancelled; the first failure of any task ends all."""
        counter = Counter(self._outbox.next_session())
        learner = Learner(
            self._adoption,
            self._history,
            self._outbox,
            self._process,
            self._identity,
            counter,
            self._operator,
            self._status,
            self._settings.training.pause_s,
            self._made,
            Unfinished(self._state),
            self._turn,
            chunk_bytes=self._settings.outbox.chunk_bytes,
            progress=self._progress,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._acquisition.run(), name="acquisition")
                tasks.create_task(self._score_rows(), name="score rows")
                tasks.create_task(self._keep_rows(), name="keep rows")
                tasks.create_task(learner.run(), name="learn")
                tasks.create_task(self._personal.run(), name="personalise")
                tasks.create_task(self._connection.run(), name="connection")
                tasks.create_task(self._outputs.run(), name="scores out")
                tasks.create_task(self._serve_labels(), name="labels")
                tasks.create_task(self._report(), name="report")
                tasks.create_task(self._keep_watch(), name="watchdog")
                metrics = self._settings.metrics
                tasks.create_task(serve_health(self._board, metrics), name="health")
                tasks.create_task(self._keep_house(counter), name="keep house")
        finally:
            await self._process.close()
            self._take(self._acquisition.rows_now())
            self._keep()
            self._write_status(as_json(self._look()))

    async def _serve_labels(self) -> None:
        credential = self._identity.credential
        title = f"{credential.agent}, {credential.site}"
        await serve_labels(self._labels, self._settings.labels, title)

    async def _score_rows(self) -> None:
        """Score what arrives with what is served."""
        with self._progress.watching("score rows", _SILENT_S) as beat:
            while True:
                self._take(await self._acquisition.rows(beat))
                await asyncio.sleep(_GATHER_S)

    def _take(self, rows: Rows) -> None:
        self._scoring.take(rows)
        self._labels.note_events(rows)
        self._unkept.append(rows)

    async def _keep_rows(self) -> None:
        """Make rows durable, those of some moments in one transaction."""
        with self._progress.watching("keep rows", _SILENT_S) as beat:
            while True:
                await asyncio.sleep(_KEEP_S)
                self._keep()
                beat()

    def _keep(self) -> None:
        rows = joined(self._unkept) if self._unkept else self._cutter.no_rows()
        self._unkept.clear()
        if not len(rows):
            return
        try:
            self._turn.taken += self._history.append(rows)
        except DiskError:  # logged by the history; the live signal is scored all the same
            self._status.rows_not_kept += len(rows)

    async def _keep_house(self, counter: Counter) -> None:
        """Notice a disk that works again, and bury what is damaged or could not be buried."""
        while True:
            self._outbox.recover()
            bury_doomed(self._outbox, self._identity, counter)
            await asyncio.sleep(_HOUSE_S)

    async def _report(self) -> None:
        """Say how the agent is: status files, and what `/metrics` tells."""
        notify("READY=1")
        channels_s = 0.0
        with self._progress.watching("status", _STATUS_SILENT_S) as beat:
            while True:
                beat()
                encoded = as_json(self._look())
                self._board.post(self._status, encoded, time.monotonic())
                # In a thread, because a card may take its time, and scores do not wait.
                await asyncio.to_thread(self._write_status, encoded)
                await asyncio.sleep(_STATUS_S)
                if time.monotonic() - channels_s >= _CHANNELS_S:
                    channels_s = time.monotonic()
                    await self._report_channels()

    async def _keep_watch(self) -> None:
        """Feed the watchdog while acquisition, learning and delivery make progress."""
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            logger.info("watchdog every %.1f s", interval_s)
        await keep_watch(self._progress, notify, min(_WATCH_S, (interval_s or math.inf) / 2))

    async def _report_channels(self) -> None:
        found = self._acquisition.quality.summary(time.time_ns() // 1000)
        self._status.clocks = clocks_in_words(found)
        self._board.post_channels(found)
        with contextlib.suppress(OSError):  # told with the status
            path = self._state / CHANNELS_FILE_NAME
            await asyncio.to_thread(replace_file, path, as_json(found))

    def _look(self) -> Status:
        """The status as it is now."""
        status, adopted = self._status, self._adoption.current
        status.source = in_one_line(report.state for report in self._acquisition.reports)
        status.sources = self._acquisition.reports
        status.outputs = self._outputs.reports
        status.late, status.incomplete_rows = self._cutter.late, self._cutter.incomplete
        lacking = np.flatnonzero(self._cutter.lacking)[:_LACKING_SAID]
        status.lacking = [self._names[at] for at in lacking]
        status.rows = self._history.count
        status.store = self._acquisition.store.counters()
        status.outcomes = self._outbox.counts()
        status.produced = sum(status.outcomes.values())
        status.storage = self._storage()
        if adopted is not None:
            status.head = adopted.head.sequence
            status.train_version = adopted.head.train.version
            status.serve_version = adopted.head.serve.version
            status.serving = str(self._personal.serving(adopted).kind)
        status.personal = self._personal.state
        self._outputs.health(health(status))
        return status

    def _write_status(self, data: bytes) -> None:
        try:
            replace_file(self._state / FILE_NAME, data)
        except OSError as error:
            if not self._status_is_stale:
                logger.warning("the status file is not written: %s", error)
            self._status_is_stale = True
        else:
            self._status_is_stale = False

    def _storage(self) -> str:
        """What is wrong with the disk and its files, for people; `ok` when nothing is."""
        store = self._acquisition.store
        files = (self._outbox, self._history, self._models, self._labels, store)
        problems = [file.problem for file in (*files, self._local_tensors) if file.problem]
        kept = sorted(path.name for path in self._state.glob("*.damaged-*[0-9]"))
        if kept:
            problems.append(f"damaged files were kept for examination: {', '.join(kept)}")
        return "; ".join(problems) or "ok"


def _open_history(
    settings: AgentSettings, state: Path, names: list[str], labels: Labels
) -> History:
    table = settings.history
    return History(
        state / "history.db",
        names,
        table.capacity_rows,
        table.holdout_share,
        shapes=settings.cutting.shapes,
        capacity_bytes=table.capacity_bytes,
        holdout_stretch_s=table.holdout_stretch_s,
        relabel=labels.relabel,
    )


def _first_status(identity: Identity) -> Status:
    return Status(
        agent=identity.agent,
        site=identity.credential.site,
        federation=identity.trust.federation,
        pid=os.getpid(),
    )


def _clocks(settings: AgentSettings) -> list[int]:
    """Which source's clock each channel has; labels have one of their own."""
    of = [at for at, source in enumerate(settings.sources) for _ in source.channels]
    return of + [len(settings.sources)] * (len(settings.channels) - len(of))


async def run(config: Path) -> None:
    """Run the agent of one configuration file until SIGTERM or SIGINT."""
    settings = read_agent_settings(config)
    identity = read_identity(config, settings.trust)
    state = resolve(config, settings.agent.state_dir)
    try:
        lock_directory(state, "agent")
    except OSError as error:
        reason = f"can not use {state}: {error.strerror}"
        raise settings_error(config, "agent.state_dir", reason) from None
    try:
        agent = Agent(settings, identity, state, config)
    except DiskError as error:
        raise settings_error(config, "agent.state_dir", f"can not use {error}") from None
    running = asyncio.create_task(agent.run(), name="agent")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.stop, running)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    notify("STOPPING=1")
