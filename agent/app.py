"""The agent's tasks, and how they are begun, reloaded and stopped.

All belong to one TaskGroup: when one fails, all stop, the process exits non-zero and systemd starts
it again; what matters is in the durable files.  What they work on is made in `agent/parts.py`.
"""

import asyncio
import contextlib
import logging
import signal
import time
from dataclasses import replace
from pathlib import Path

from agent.budget import BudgetWatch
from agent.config import AgentSettings, Identity, read_agent_settings, read_identity
from agent.kept_identity import newest_identity
from agent.labels import serve_labels
from agent.parts import Parts
from agent.reload import applied, compare
from agent.remote import Which
from agent.signals.rows import Rows, joined
from agent.telling import Telling
from agent.tombstones import bury_doomed
from wire.database import DiskError, lock_directory
from wire.errors import SettingsError, one_line
from wire.notify import notify
from wire.settings import resolve, settings_error
from wire.signing import parse_public_key

logger = logging.getLogger(__name__)

_GATHER_S = 0.02
"""A row is scored within this much of its cut; rows that come together are scored together."""
_KEEP_S = 2.0
"""Rows of so much time are written in one transaction: each costs a card some pages."""
_HOUSE_S = 5.0
_SILENT_S = 60.0


class Agent:
    """One gateway's agent: owns its tasks.

    Args:
      parts: made for it alone.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._telling = parts, Telling(parts)
        self._unkept: list[Rows] = []
        self._reload = asyncio.Event()

    def reload(self) -> None:
        """Read the configuration again and apply what can be applied, soon."""
        self._reload.set()

    def stop(self, task: "asyncio.Task[None]") -> None:
        """End the task that runs `run`, also when the link ends in the same instant."""
        notify("STOPPING=1")
        self._parts.connection.is_stopping = True
        task.cancel()

    async def run(self) -> None:
        """Run until cancelled; the first failure of any task ends all."""
        parts = self._parts
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(parts.acquisition.run(), name="acquisition")
                tasks.create_task(self._score_rows(), name="score rows")
                tasks.create_task(self._keep_rows(), name="keep rows")
                tasks.create_task(parts.learner.run(), name="learn")
                tasks.create_task(parts.personal.run(), name="personalise")
                watch = BudgetWatch(parts.budget, parts.process)
                tasks.create_task(watch.run(), name="budget")
                tasks.create_task(parts.connection.run(), name="connection")
                tasks.create_task(parts.score_out.run(), name="scores out")
                tasks.create_task(self._serve_labels(), name="labels")
                tasks.create_task(self._telling.report(), name="report")
                tasks.create_task(self._telling.keep_watch(), name="watchdog")
                tasks.create_task(parts.tell_health.run(), name="health")
                tasks.create_task(self._reload_when_told(), name="reload")
                tasks.create_task(parts.orders.run(self._configure, self._unhealthy), name="orders")
                tasks.create_task(self._keep_house(), name="keep house")
                for device in parts.devices:
                    tasks.create_task(device.run(), name=f"device {device.report.name}")
        finally:
            await parts.process.close()
            self._take(parts.acquisition.rows_now())
            self._keep()
            self._telling.write_now()

    async def _reload_when_told(self) -> None:
        """Apply a changed configuration file; one with an error changes nothing."""
        while True:
            await self._reload.wait()
            self._reload.clear()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                said = self._configure("in force")
                # The same names may stand for renewed files.
                self._parts.connection.use(self._parts.settings.broker)
            except SettingsError as error:
                said = f"not applied: {error}"
                logger.error("configuration %s", said)  # noqa: TRY400  what is wrong is in the words
            self._parts.status.configuration = one_line(said)
            notify(f"READY=1\nSTATUS=Configuration: {one_line(said)}")

    def _configure(self, which: Which) -> str:
        """Go by the file and what the coordinator ordered; return in words what changed.

        Raises:
          SettingsError: the file, or what was ordered, is wrong; nothing was changed.
        """
        parts = self._parts
        wanted = parts.remote.over(read_agent_settings(parts.config), which)
        changes = compare(parts.settings, wanted)
        parts.apply(applied(parts.settings, wanted, changes))
        if _read_identity(parts.config, wanted, parts.state) != parts.identity:
            changes = replace(changes, at_start=(*changes.at_start, "trust"))
        logger.info("configuration: %s", changes)
        return str(changes)

    def _unhealthy(self) -> str:
        """Why this agent does not do what it is for; empty when it does."""
        wrong = self._parts.board.not_ready(time.monotonic())
        return wrong or ("" if self._parts.status.link == "up" else "no link to the broker")

    async def _serve_labels(self) -> None:
        credential = self._parts.identity.credential
        title = f"{credential.agent}, {credential.site}"
        parts = self._parts
        await serve_labels(parts.labels, parts.settings.labels, title, parts.egress)

    async def _score_rows(self) -> None:
        """Score what arrives with what is served."""
        with self._parts.progress.watching("score rows", _SILENT_S) as beat:
            while True:
                self._take(await self._parts.acquisition.rows(beat))
                await asyncio.sleep(_GATHER_S)

    def _take(self, rows: Rows) -> None:
        self._parts.scoring.take(rows)
        self._parts.labels.note_events(rows)
        self._unkept.append(rows)

    async def _keep_rows(self) -> None:
        """Make rows durable, those of some moments in one transaction."""
        with self._parts.progress.watching("keep rows", _SILENT_S) as beat:
            while True:
                await asyncio.sleep(_KEEP_S)
                self._keep()
                beat()

    def _keep(self) -> None:
        rows = joined(self._unkept) if self._unkept else self._parts.cutter.no_rows()
        self._unkept.clear()
        if not len(rows):
            return
        try:
            self._parts.turn.taken += self._parts.history.append(rows)
        except DiskError:  # logged by the history; the live signal is scored all the same
            self._parts.status.rows_not_kept += len(rows)

    async def _keep_house(self) -> None:
        """Notice a disk that works again, and bury what is damaged or could not be buried."""
        while True:
            self._parts.outbox.recover()
            bury_doomed(self._parts.outbox, self._parts.identity, self._parts.counter)
            await asyncio.sleep(_HOUSE_S)


async def run(config: Path) -> None:
    """Run the agent of one configuration file until SIGTERM or SIGINT."""
    settings = read_agent_settings(config)
    state = resolve(config, settings.agent.state_dir)
    identity = _read_identity(config, settings, state)
    try:
        lock_directory(state, "agent")
    except OSError as error:
        reason = f"can not use {state}: {error.strerror}"
        raise settings_error(config, "agent.state_dir", reason) from None
    try:
        agent = Agent(Parts(config, settings, identity, state))
    except DiskError as error:
        raise settings_error(config, "agent.state_dir", f"can not use {error}") from None
    running = asyncio.create_task(agent.run(), name="agent")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.stop, running)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, agent.reload)
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _read_identity(config: Path, settings: AgentSettings, state: Path) -> Identity:
    """Who the agent is: the newer of what the file names and what was renewed."""
    configured = read_identity(config, settings.trust)
    return newest_identity(configured, parse_public_key(settings.trust.root), state)
