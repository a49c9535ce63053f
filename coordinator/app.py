"""The coordinator's composition root: wires store, federation and connection, owns the tasks."""

import asyncio
import contextlib
import json
import logging
import math
import signal
import time
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from coordinator.admissions import Admissions
from coordinator.config import (
    CHARTER,
    DATABASE,
    CoordinatorSettings,
    Identity,
    read_coordinator_settings,
    read_identity,
)
from coordinator.connection import Connection
from coordinator.evaluation_log import EvaluationLog
from coordinator.federation import Federation
from coordinator.past import RestoredError
from coordinator.reader import Reader, ViewError, read_about
from coordinator.revocations import RevokedFile
from coordinator.store import Store
from coordinator.strategies.choice import StrategyName
from coordinator.terminal import status_text
from wire.charters import KeptCharter
from wire.database import lock_directory
from wire.errors import SettingsError
from wire.messages import OrderName
from wire.notify import notify, watchdog_interval_s
from wire.settings import resolve, settings_error
from wire.signing import parse_public_key
from wire.watchdog import keep_watch

logger = logging.getLogger(__name__)

_WATCH_S = 1.0


class Coordinator:
    """One federation's coordinator, under one charter: owns store and connection.

    Args:
      settings: of the configuration file.
      identity: verified under the newest charter.
      state: directory that this process has locked.
    """

    def __init__(self, settings: CoordinatorSettings, identity: Identity, state: Path) -> None:
        self._store = store = Store(state / DATABASE)
        root = parse_public_key(settings.trust.root)
        federation = Federation(store, settings, identity, time.monotonic())
        is_synchronous = settings.strategy.name == "fedavg"
        evaluations = EvaluationLog(
            store,
            is_synchronous,
            settings.strategy.clients if is_synchronous else settings.gate.quorum,
            k_min=identity.trust.charter.k_min,
        )
        evaluations.resume(federation)
        boot = store.next_boot(identity.trust.charter.recovery)
        admissions = Admissions(
            settings.selection,
            settings.strategy,
            boot,
            np.random.default_rng(),
            k_min=identity.trust.charter.k_min,
        )
        self._connection = Connection(
            settings.broker,
            identity,
            store,
            federation,
            evaluations,
            admissions,
            boot,
            _revoked_file(identity, settings),
            KeptCharter(state / CHARTER, root, identity.trust),
        )
        logger.info(
            "federation %s at version %d, head %d, run %d",
            identity.trust.federation,
            federation.saved.version,
            federation.saved.head_sequence,
            boot,
        )

    async def run(self) -> None:
        """Run until cancelled after `stop`, or until a newer charter came.

        Tells the service manager how it goes.

        Raises:
          RestoredError: this store is not the newest of this coordinator.
        """
        notify("READY=1")
        interval_s = watchdog_interval_s()
        every_s = min(_WATCH_S, (interval_s or math.inf) / 2)
        # Where this one fails, nothing feeds the watchdog, which is right.
        watch = asyncio.create_task(
            keep_watch(self._connection.progress, notify, every_s), name="watchdog"
        )
        try:
            await self._connection.run()
        except RestoredError:
            self._store.give_boot_back(self._connection.boot)
            raise
        finally:
            watch.cancel()
            self._store.close()

    def stop(self) -> None:
        """Say that a cancellation comes, so that a link that ends with it does not hide it."""
        self._connection.is_stopping = True


async def run(config: Path, strategy: StrategyName | None = None) -> None:
    """Run the coordinator of one configuration file until SIGTERM or SIGINT.

    Args:
      config: the TOML file.
      strategy: replaces the file's `strategy.name`.
    """
    settings = read_coordinator_settings(config)
    if strategy is not None:
        named = msgspec.structs.replace(settings.strategy, name=strategy)
        settings = msgspec.structs.replace(settings, strategy=named)
    state = _taken_directory(config, settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        # Anew for each charter: it may change every rule, and what it contradicts is said here.
        coordinator = Coordinator(settings, read_identity(config, settings), state)
        try:
            await _run_until(stop, coordinator)
        except RestoredError as error:
            raise SettingsError(str(state / DATABASE), None, None, str(error)) from None
    notify("STOPPING=1")


async def _run_until(stop: asyncio.Event, coordinator: Coordinator) -> None:
    running = asyncio.create_task(coordinator.run(), name="coordinator")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    coordinator.stop()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _taken_directory(config: Path, settings: CoordinatorSettings) -> Path:
    """The state directory, made where it is missing, for this process alone."""
    state = resolve(config, settings.coordinator.state_dir)
    try:
        lock_directory(state, "coordinator")
    except OSError as error:
        reason = f"can not use {state}: {error.strerror}"
        raise settings_error(config, "coordinator.state_dir", reason) from None
    return state


def _revoked_file(identity: Identity, settings: CoordinatorSettings) -> RevokedFile | None:
    name = settings.trust.revoked
    return RevokedFile(resolve(identity.source, name), identity.trust) if name else None


def set_training(config: Path, training: str) -> None:
    """Open or close training; a running coordinator notices within a second."""
    with contextlib.closing(_open_store(config)) as store:
        store.set_training("closed" if training == "closed" else "open")


def order(
    config: Path, agent: str, name: OrderName, tables: str = "", deadline_s: int = 300
) -> int:
    """Order one agent something; sent now, and with each of its births until it has answered.

    Returns:
      The order's number.

    Raises:
      SettingsError: no such agent has been seen.
    """
    with contextlib.closing(_open_store(config)) as store:
        known = [agent for agent, _, _ in store.agents()]
        if agent not in known:
            reason = f"no agent {agent!r} has been seen; known: {', '.join(known) or 'none'}"
            raise SettingsError(str(config), None, None, reason)
        return store.order(agent, name, tables, deadline_s)


def roll_back(config: Path, version: int) -> None:
    """Ask for an earlier served version; a running coordinator goes back within a second.

    Raises:
      SettingsError: these weights are not kept.
    """
    with contextlib.closing(_open_store(config)) as store:
        kept = [served.version for served in store.record.served()]
        if version not in kept:
            reason = f"version {version} is not kept; served before and kept: "
            raise SettingsError(str(config), None, None, reason + ", ".join(map(str, kept)))
        store.request_rollback(version)


def web(config: Path) -> None:
    """Serve the page of one configuration file until SIGTERM.

    Raises:
      SettingsError: the web extra is not installed, or a file can not be used.
    """
    try:
        from coordinator.web.actions import Actions  # noqa: PLC0415
        from coordinator.web.serve import serve  # noqa: PLC0415
    except ModuleNotFoundError as error:
        reason = f"the page needs {error.name}: pip install 'journeyman[web]'"
        raise SettingsError(str(config), None, None, reason) from None
    settings = read_coordinator_settings(config)
    database = resolve(config, settings.coordinator.state_dir) / DATABASE
    actions = Actions(
        partial(set_training, config), partial(order, config), partial(roll_back, config)
    )
    serve(config, settings, settings.web, database, actions)


def status_for_people(config: Path, *, color: bool) -> str:
    """What the page says, as text."""
    settings = read_coordinator_settings(config)
    database = resolve(config, settings.coordinator.state_dir) / DATABASE
    if not database.exists():
        _open_store(config)  # raises: it says how to start the coordinator
    reader = Reader(database, read_about(config, settings), settings.gate)
    try:
        return status_text(reader.view(), color=color)
    except ViewError as error:
        raise SettingsError(str(database), None, None, str(error)) from None
    finally:
        reader.close()


def status(config: Path) -> str:
    """What the coordinator's store says, as JSON text."""
    store = _open_store(config)
    saved = store.load()
    return json.dumps(
        {
            "training": store.training,
            "version": saved.version if saved else None,
            "serve": saved.serve.version if saved else None,
            "candidate": saved.candidate.version if saved and saved.candidate else None,
            "head": saved.head_sequence if saved else None,
            "updates": store.counts(),
            "alarms": [
                {"agent": agent, "kind": kind, "detail": detail, "number": number}
                for agent, kind, detail, number in store.alarms()
            ],
            "agents": [
                {"agent": agent, "site": site, "status": state}
                for agent, site, state in store.agents()
            ],
            "orders": [
                {"agent": agent, "order": name, "number": number, "status": state, "reason": reason}
                for agent, name, number, state, reason in store.orders()
            ],
        },
        indent=1,
    )


def _open_store(config: Path) -> Store:
    settings = read_coordinator_settings(config)
    path = resolve(config, settings.coordinator.state_dir) / DATABASE
    if not path.exists():
        reason = f"no state in {path.parent} yet; start it: journeyman-coordinator run {config}"
        raise settings_error(config, "coordinator.state_dir", reason)
    return Store(path)
