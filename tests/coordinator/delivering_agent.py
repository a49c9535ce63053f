"""A real agent without machine and training: its outbox, its adoption and its connection.

What it delivers is made by hand from the newest head that it accepted, since the small federation's
bundle has no graph to train.
"""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

from agent.adoption import Adoption
from agent.config import Identity
from agent.connection import Connection
from agent.delivery import Schedule
from agent.history import History
from agent.kept_identity import newest_identity
from agent.learning.personalise import PersonalTable
from agent.learning.worker import TrainingProcess
from agent.models import Models
from agent.orders import Operator, Orders
from agent.outbox import Outbox, UpdateId
from agent.personal import Personal
from agent.remote import RemoteTables
from agent.renewal import Renewal
from agent.reporting import Reporting
from agent.status import Status
from agent.turn import Turn
from tests.coordinator.conftest import Plant
from tests.coordinator.small_federation import SCALE, P
from wire.chunks import describe
from wire.codec import Counter, seal
from wire.messages import Head, UpdateHeader
from wire.mqtt import BrokerSettings
from wire.signing import read_private_key
from wire.trust import read_charter, read_credential

WAIT_S = 30.0


class DeliveringAgent:
    """One gateway; made again on the same directory it is the same one, restarted."""

    def __init__(self, plant: Plant, agent: str, charter: str = "charter.jm") -> None:
        keys, state = plant.keys, plant.directory / f"state-{agent}"
        state.mkdir(exist_ok=True)
        trust = read_charter((keys / charter).read_bytes(), plant.root)
        envelope = (keys / f"{agent}.credential").read_bytes()
        credential = read_credential(envelope, trust)
        configured = Identity(trust, credential, envelope, read_private_key(keys / f"{agent}.key"))
        self.identity = newest_identity(configured, plant.root, state)
        self.status = Status(agent=agent, site=credential.site, federation="plant-net", pid=0)
        self.outbox = Outbox(state / "outbox.db", 1 << 20)
        self.models = Models(state / "models.db")
        self.adoption = Adoption(self.models, self.identity.trust, ["torque", "failure"])
        self._counter, self._made = Counter(self.outbox.next_session()), asyncio.Event()
        self.connection = Connection(
            BrokerSettings(port=plant.port),
            self.identity,
            self.outbox,
            self._reporting(state),
            Turn(state, 0, self.adoption.changed),
            self.adoption,
            Orders(state, RemoteTables(state), (), Operator()),
            self.status,
            Schedule(self.outbox.open_updates(), random.Random()),
            self._made,
            Renewal(self.identity, plant.root, state, self.status),
        )
        self._running: asyncio.Task[None] | None = None

    def _reporting(self, state: Path) -> Reporting:
        history = History(state / "history.db", ["torque", "failure"], 1000, 0.1)
        personal = Personal(
            self.adoption,
            history,
            TrainingProcess(),
            self.identity.agent,
            PersonalTable(enabled=False),
            state,
            lambda: True,
        )
        return Reporting(self.adoption, history, personal)

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.connection.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._running is not None
        self.connection.is_stopping = True
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self.outbox.close()
        self.models.close()

    @property
    def head(self) -> Head:
        """The newest accepted head."""
        assert self.adoption.head is not None
        return self.adoption.head

    def make(self) -> UpdateId:
        """Put the next update into the outbox, trained from the newest accepted head."""
        head, agent = self.head, self.identity.agent

        def build(incarnation: str, sequence: int) -> tuple[bytes, bytes]:
            rng = np.random.default_rng(sequence)
            content = rng.integers(-100, 100, P).astype(np.int8).tobytes()
            header = UpdateHeader(
                agent=agent,
                incarnation=incarnation,
                sequence=sequence,
                lineage=head.lineage,
                base_version=head.train.version,
                base_digest=head.train.content.digest,
                examples=10,
                weight=10,
                scale=SCALE,
                bits=8,
                content=describe(content, 256),
            )
            federation, key = self.identity.trust.federation, self.identity.key
            counter = self._counter.next()
            return seal(
                header, federation=federation, signer=agent, counter=counter, key=key
            ), content

        made = self.outbox.add(head.lineage, head.train.version, build)
        self._made.set()
        return made

    def outcome(self, update: UpdateId) -> str:
        """What this site's own account says of an update."""
        found = {
            (entry.incarnation, entry.sequence): entry.status for entry in self.outbox.account()
        }
        return found[update.incarnation, update.sequence]

    async def until(self, what: Callable[[], bool], name: str) -> None:
        """Wait until something is so."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not what():  # noqa: ASYNC110  the product sets no event for it
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"waited {WAIT_S} s for {name}: {self.status}") from None

    async def settled(self, update: UpdateId, outcome: str) -> None:
        """Wait until an update has this outcome."""
        await self.until(
            lambda: self.outcome(update) == outcome,
            f"{outcome} of {update} (now {self.outcome(update)})",
        )
