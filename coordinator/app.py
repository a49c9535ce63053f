"""The coordinator's composition root: wires store, federation and connection, owns the tasks."""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import time
from pathlib import Path

from coordinator.config import (
    CoordinatorSettings,
    Identity,
    read_coordinator_settings,
    read_identity,
)
from coordinator.connection import Connection
from coordinator.evaluation_log import EvaluationLog
from coordinator.federation import Federation
from coordinator.store import Store
from wire.errors import SettingsError

logger = logging.getLogger(__name__)

DATABASE = "coordinator.db"


class Coordinator:
    """One federation's coordinator: owns the state directory and its tasks."""

    def __init__(self, settings: CoordinatorSettings, identity: Identity, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(state)
        store = Store(state / DATABASE)
        federation = Federation(store, settings, identity, time.monotonic())
        is_synchronous = settings.strategy.name == "fedavg"
        evaluations = EvaluationLog(
            store,
            "round" if is_synchronous else "version",
            settings.strategy.clients if is_synchronous else settings.gate.quorum,
        )
        boot = store.next_boot()
        self._connection = Connection(
            settings.broker, identity, store, federation, evaluations, boot
        )
        logger.info(
            "federation %s at version %d, head %d, run %d",
            identity.trust.federation,
            federation.saved.version,
            federation.saved.head_sequence,
            boot,
        )

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._connection.run(), name="connection")


def _lock(state: Path) -> int:
    """Refuse a second coordinator on the same state directory; the kernel frees it at exit."""
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(
            str(state), None, "coordinator.state_dir", "another coordinator runs on this directory"
        ) from None
    return descriptor


async def run(config: Path) -> None:
    """Run the coordinator of one configuration file until SIGTERM or SIGINT."""
    settings = read_coordinator_settings(config)
    identity = read_identity(config, settings)
    coordinator = Coordinator(settings, identity, config.parent / settings.coordinator.state_dir)
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel if task else loop.stop)
    with contextlib.suppress(asyncio.CancelledError):
        await coordinator.run()


def set_training(config: Path, training: str) -> None:
    """Open or close training; a running coordinator notices within a second."""
    store = _open_store(config)
    store.set_training("closed" if training == "closed" else "open")


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
            "agents": [
                {"agent": agent, "site": site, "status": state}
                for agent, site, state in store.agents()
            ],
        },
        indent=1,
    )


def _open_store(config: Path) -> Store:
    settings = read_coordinator_settings(config)
    path = config.parent / settings.coordinator.state_dir / DATABASE
    if not path.exists():
        raise SettingsError(
            str(path), None, None, "no state yet; start it: journeyman-coordinator run CONFIG"
        )
    return Store(path)
