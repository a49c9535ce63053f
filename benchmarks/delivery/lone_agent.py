"""An agent without machine and training, in a process of its own: what the framework costs it.

    python -m benchmarks.delivery.lone_agent CONFIG UPDATES

Everything else is the product: adoption, `make_update` on weights as a training would return them,
durable outbox, delivery over MQTT, receipts.  Updates are made one after the other, as an agent
makes them.  Prints one line of JSON: user and system time of all threads, from the first update
until the last one is settled, and how many heads were adopted meanwhile.
"""

import asyncio
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agent.adoption import Adopted, Adoption
from agent.config import AgentSettings, Identity, read_agent_settings, read_identity
from agent.connection import Connection
from agent.delivery import Schedule
from agent.history import History
from agent.learning.personalise import PersonalTable
from agent.learning.worker import TrainingProcess
from agent.making import Trained, make_update
from agent.models import Models
from agent.orders import Operator, Orders
from agent.outbox import Outbox
from agent.personal import Personal
from agent.remote import RemoteTables
from agent.renewal import Renewal
from agent.reporting import Reporting
from agent.status import Status
from agent.turn import Turn
from wire.codec import Counter
from wire.settings import resolve
from wire.signing import parse_public_key

_WARM_UP = 10
_ROWS = 256
_STEP = 3.7e-3
"""Added to each weight: three or four steps of the policy's scale."""
_POLL_S = 0.02
_WITHIN_S = 60.0


class LoneAgent:
    """The parts of an agent that deliver and adopt."""

    def __init__(self, settings: AgentSettings, identity: Identity, state: Path) -> None:
        channels = [channel.name for channel in settings.channels]
        state.mkdir(exist_ok=True)
        self._identity = identity
        self._outbox = Outbox(state / "outbox.db", settings.outbox.quota_bytes)
        self._adoption = Adoption(
            Models(state / "models.db"), identity.trust, channels, settings.training.backend
        )
        self._counter = Counter(self._outbox.next_session())
        self._made = asyncio.Event()
        status = Status(
            agent=identity.agent,
            site=identity.credential.site,
            federation=identity.trust.federation,
            pid=0,
        )
        self._connection = Connection(
            settings.broker,
            identity,
            self._outbox,
            self._reporting(History(state / "history.db", channels, 1000, 0.1), state),
            Turn(state, 0, self._adoption.changed),
            self._adoption,
            Orders(state, RemoteTables(state), (), Operator()),
            status,
            Schedule([], random.Random()),
            self._made,
            Renewal(identity, parse_public_key(settings.trust.root), state, status),
        )

    def _reporting(self, history: History, state: Path) -> Reporting:
        """Reports of an agent that serves the federation's model and has no rows."""
        personal = Personal(
            self._adoption,
            history,
            TrainingProcess(),
            self._identity.agent,
            PersonalTable(enabled=False),
            state,
            lambda: True,
        )
        return Reporting(self._adoption, history, personal)

    async def measure(self, updates: int) -> dict[str, float]:
        """Make and deliver so many updates; return the figures."""
        connection = asyncio.create_task(self._connection.run(), name="connection")
        await self._until(lambda: self._adoption.current is not None)
        for _ in range(_WARM_UP):
            await self._deliver_one()
        head, before_s = self._head, _cpu_s()
        began_s = time.monotonic()
        for _ in range(updates):
            await self._deliver_one()
        await self._until(lambda: not self._outbox.open_updates())
        await self._until(lambda: self._head > head)
        cpu_s, took_s = _cpu_s() - before_s, time.monotonic() - began_s
        connection.cancel()
        return {"cpu_s": cpu_s, "wall_s": took_s, "heads": self._head - head}

    @property
    def _head(self) -> int:
        """Sequence of the head in use."""
        return self._adoption.current.head.sequence if self._adoption.current else 0

    async def _deliver_one(self) -> None:
        """Make an update from the version in use, as after a training, and see it receipted.

        Where it completes a version, the next update waits for that version's weights.
        """
        adopted = self._adoption.current
        if adopted is None:
            raise RuntimeError("the model in use went away")
        made = make_update(adopted, _trained(adopted), self._identity, self._outbox, self._counter)
        self._made.set()
        await self._until(lambda: self._outbox.counts().get("pending", 0) == 0)
        if made not in self._outbox.open_updates():  # folded, so there is a new version
            await self._until(lambda: self._head > adopted.head.sequence)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_WITHIN_S):
            while not condition():  # noqa: ASYNC110  the product sets no event for it
                await asyncio.sleep(_POLL_S)


def _trained(adopted: Adopted) -> Trained:
    """Weights as a training returns them; making them up is one pass over them."""
    trained = {name: value + np.float32(_STEP) for name, value in adopted.train.items()}
    return Trained(trained, _ROWS)


def _cpu_s() -> float:
    """User and system time of this process, of all its threads (getrusage(2))."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Run and print the figures."""
    config, updates = Path(sys.argv[1]), int(sys.argv[2])
    settings = read_agent_settings(config)
    agent = LoneAgent(
        settings, read_identity(config, settings.trust), resolve(config, settings.agent.state_dir)
    )
    print(json.dumps(asyncio.run(agent.measure(updates))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
