"""The agent's composition root: the only place that wires, and where every task is born.

    acquire ─ samples ─► rows ─► history (durable) ─► learn ─► outbox (durable) ─► connection ═ MQTT
                           └──► score with the served version ─► status                │
                                         ▲ adoption ◄── head, bundle, model ◄──────────┘

All tasks belong to one TaskGroup: when one fails, all stop, the process exits non-zero and systemd
starts it again; what matters is in the durable files.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from pathlib import Path

import numpy as np

from agent.adoption import Adoption
from agent.config import AgentSettings, Identity, read_agent_settings, read_identity, resolve
from agent.connection import Connection
from agent.delivery import Schedule
from agent.history import History
from agent.learner import Learner, Operator
from agent.learning.worker import TrainingProcess
from agent.local_tensors import LocalTensors
from agent.models import Models
from agent.notify import notify, watchdog_interval_s
from agent.outbox import Outbox
from agent.personal import Personal
from agent.reporting import Reporting
from agent.sensors.opcua import SourceLostError, opcua_samples
from agent.signals.rows import Row, RowCutter
from agent.signals.sample import Sample
from agent.status import Status, write_status
from agent.tombstones import bury_doomed
from agent.turn import Turn
from agent.unfinished import Unfinished
from wire.codec import Counter
from wire.database import DiskError, lock_directory
from wire.reconnecting import backoff
from wire.settings import settings_error

logger = logging.getLogger(__name__)

_ROWS_QUEUE = 10_000
_STATUS_S = 0.5
_HOUSE_S = 5.0


class Agent:
    """One gateway's agent: owns the files of a locked state directory, and its tasks."""

    def __init__(self, settings: AgentSettings, identity: Identity, state: Path) -> None:
        self._settings, self._identity, self._state = settings, identity, state
        channels = [channel.name for channel in settings.source.opcua.channel]
        self._channels = channels
        self._history = History(
            state / "history.db",
            channels,
            settings.history.capacity_rows,
            settings.history.holdout_share,
        )
        self._outbox = Outbox(state / "outbox.db", settings.outbox.quota_bytes)
        self._models = Models(state / "models.db")
        self._local_tensors = LocalTensors(state)
        self._adoption = Adoption(
            self._models,
            identity.trust,
            channels,
            settings.training.backend,
            self._local_tensors,
        )
        self._turn = Turn(state, self._history.training_rows(), self._adoption.changed)
        self._operator = Operator()
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
        self._rows: asyncio.Queue[list[Row]] = asyncio.Queue(_ROWS_QUEUE)
        self._made = asyncio.Event()
        self._status_is_stale = False
        self._status = Status(
            agent=identity.agent,
            site=identity.credential.site,
            federation=identity.trust.federation,
            pid=os.getpid(),
        )
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
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._acquire(), name="acquire")
                tasks.create_task(self._keep_rows(), name="keep rows")
                tasks.create_task(learner.run(), name="learn")
                tasks.create_task(self._personal.run(), name="personalise")
                tasks.create_task(self._connection.run(), name="connection")
                tasks.create_task(self._report(), name="report")
                tasks.create_task(self._keep_house(counter), name="keep house")
        finally:
            await self._process.close()
            self._keep([])
            self._write_status()

    async def _acquire(self) -> None:
        """Read the source for ever; a lost source is opened again."""
        source = self._settings.source.opcua
        trigger = self._channels.index(self._settings.rows.trigger)
        cutter = RowCutter(len(self._channels), trigger, self._settings.rows.grace_s)
        waits = backoff(0.5, 30.0, random.Random())  # noqa: S311
        while True:
            try:
                async with contextlib.aclosing(opcua_samples(source)) as batches:
                    async for samples in batches:
                        self._status.source = "subscribed"
                        waits = backoff(0.5, 30.0, random.Random())  # noqa: S311
                        self._count(samples)
                        rows = cutter.push(samples, time.monotonic())
                        if rows:
                            await self._rows.put(rows)
            except SourceLostError as error:
                self._status.source = f"lost: {error}"
                logger.warning("source lost, will try again: %s", error)
            await asyncio.sleep(next(waits))

    def _count(self, samples: list[Sample]) -> None:
        self._status.samples += len(samples)
        self._status.uncertain += sum(sample.is_uncertain for sample in samples)
        self._status.bad += sum(not (sample.is_good or sample.is_uncertain) for sample in samples)

    async def _keep_rows(self) -> None:
        """Score what arrives with the served version, then make it durable."""
        while True:
            self._keep(await self._rows.get())
            await asyncio.sleep(0.1)  # gathers a few rows into one transaction

    def _keep(self, rows: list[Row]) -> None:
        """Score and keep these rows and all that wait."""
        while not self._rows.empty():
            rows = rows + self._rows.get_nowait()
        complete = [row for row in rows if row.is_complete]
        self._status.incomplete_rows += len(rows) - len(complete)
        if not complete:
            return
        self._score(complete)
        try:
            self._turn.taken += self._history.append(complete)
        except DiskError:  # logged by the history; the live signal is scored all the same
            self._status.rows_not_kept += len(complete)

    def _score(self, rows: list[Row]) -> None:
        adopted = self._adoption.current
        if adopted is None or adopted.unready:
            return
        scores = self._personal.score(adopted, np.array([row.values for row in rows]))
        self._status.scored += len(rows)
        self._status.score = float(scores[-1])
        self._status.alarms += int(adopted.model.alarms(scores).sum())

    async def _keep_house(self, counter: Counter) -> None:
        """Notice a disk that works again, and bury what is damaged or could not be buried."""
        while True:
            self._outbox.recover()
            bury_doomed(self._outbox, self._identity, counter)
            await asyncio.sleep(_HOUSE_S)

    async def _report(self) -> None:
        """Write the status file and feed the watchdog while the event loop is alive."""
        notify("READY=1")
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            logger.info("watchdog every %.1f s", interval_s)
        while True:
            self._write_status()
            notify("WATCHDOG=1")
            await asyncio.sleep(_STATUS_S)

    def _write_status(self) -> None:
        status, adopted = self._status, self._adoption.current
        status.rows = self._history.count
        status.outcomes = self._outbox.counts()
        status.produced = sum(status.outcomes.values())
        status.storage = self._storage()
        if adopted is not None:
            status.head = adopted.head.sequence
            status.train_version = adopted.head.train.version
            status.serve_version = adopted.head.serve.version
            status.serving = str(self._personal.serving(adopted).kind)
        status.personal = self._personal.state
        try:
            write_status(self._state, status)
        except OSError as error:
            if not self._status_is_stale:
                logger.warning("the status file is not written: %s", error)
            self._status_is_stale = True
        else:
            self._status_is_stale = False

    def _storage(self) -> str:
        """What is wrong with the disk and its files, for people; `ok` when nothing is."""
        files = (self._outbox, self._history, self._models)
        problems = [file.problem for file in (*files, self._local_tensors) if file.problem]
        kept = sorted(path.name for path in self._state.glob("*.damaged-*[0-9]"))
        if kept:
            problems.append(f"damaged files were kept for examination: {', '.join(kept)}")
        return "; ".join(problems) or "ok"


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
        agent = Agent(settings, identity, state)
    except DiskError as error:
        raise settings_error(config, "agent.state_dir", f"can not use {error}") from None
    running = asyncio.create_task(agent.run(), name="agent")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.stop, running)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    notify("STOPPING=1")
