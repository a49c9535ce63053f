"""The agent's side of the broker: one connection after another, each with birth, will and inbox.

On every connection: subscribe, publish the birth, then deliver (`agent/delivery.py`) and listen
side by side until the connection ends.  Whatever comes in is checked before it changes anything;
what is refused is logged with its reason and shown in the status, and the connection goes on.
"""

import asyncio
import logging
import random
from dataclasses import dataclass

from agent.adoption import Adoption
from agent.config import Identity
from agent.delivery import Schedule, deliver
from agent.history import History
from agent.judge import judge
from agent.learner import Operator
from agent.outbox import Outbox
from agent.status import Status
from wire.codec import Counter, ReplayGuard, open_envelope, parse_body, seal
from wire.errors import LinkDownError, MalformedError, ReplayError, WireError
from wire.messages import AgentState, Command, CoordinatorState, Receipts, Report
from wire.mqtt import BrokerSettings, Link, Received, Will, backoff, connect
from wire.trust import COORDINATOR

logger = logging.getLogger(__name__)

SOFTWARE = "journeyman-agent 0.1.0"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_JUDGE_S = 0.25
_AGAIN_S = 10.0
"""Chunks that did not come are subscribed to again after this long."""


@dataclass
class Connection:
    """Keeps this agent connected."""

    broker: BrokerSettings
    identity: Identity
    outbox: Outbox
    history: History
    adoption: Adoption
    operator: Operator
    status: Status
    schedule: Schedule
    made: asyncio.Event

    def __post_init__(self) -> None:
        self._topics = self.identity.topics
        self._agent = self.identity.agent
        self._guard = ReplayGuard(self.outbox.receipt_counter)
        self._live = asyncio.Event()
        self._overwritten = asyncio.Event()
        self._missing = asyncio.Event()
        self._session = 0

    async def run(self) -> None:
        """Connect, serve, and connect again, for ever."""
        waits = backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S, random.Random())  # noqa: S311
        while True:
            try:
                await self._connected()
            except* LinkDownError as group:
                logger.info("link down: %s", group.exceptions[0])
            if self.status.link == "up":
                waits = backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S, random.Random())  # noqa: S311
            self.status.link, self.status.coordinator = "down", "unknown"
            self._live.clear()
            await asyncio.sleep(next(waits))

    async def _connected(self) -> None:
        self._session = self.outbox.next_session()
        counter = Counter(self._session)
        self.status.session = self._session
        will = Will(self._topics.state(self._agent), self._state("offline", counter))
        async with connect(self.broker, self._agent, will) as link, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(link), name="listen")
            await link.subscribe(
                [
                    self._topics.to(self._agent),
                    self._topics.state(self._agent),
                    self._topics.coordinator_state,
                    self._topics.head,
                ]
            )
            await self._announce(link, counter)
            self.status.link = "up"
            tasks.create_task(self._keep_announced(link, counter), name="keep announced")
            tasks.create_task(self._fetch(link), name="fetch")
            tasks.create_task(self._report(link, counter), name="report")
            tasks.create_task(
                deliver(
                    link,
                    self.outbox,
                    self.schedule,
                    self._topics,
                    self._agent,
                    self._live,
                    self.made,
                ),
                name="deliver",
            )

    def _state(self, status: str, counter: Counter) -> bytes:
        state = AgentState(
            status="online" if status == "online" else "offline",
            incarnation=self.outbox.incarnation,
            session=self._session,
            credential=self.identity.credential_envelope,
            software=SOFTWARE,
            produced=self.outbox.produced,
        )
        return self._seal(state, counter)

    def _seal(self, message: AgentState | Report, counter: Counter) -> bytes:
        return seal(
            message,
            federation=self.identity.trust.federation,
            signer=self._agent,
            counter=counter.next(),
            key=self.identity.key,
        )

    async def _announce(self, link: Link, counter: Counter) -> None:
        topic = self._topics.state(self._agent)
        await link.publish(topic, self._state("online", counter), retain=True)

    async def _keep_announced(self, link: Link, counter: Counter) -> None:
        """Publish the birth again whenever a late will of an earlier session replaced it."""
        while True:
            await self._overwritten.wait()
            self._overwritten.clear()
            logger.info("answering a late will with a new birth")
            await self._announce(link, counter)

    async def _listen(self, link: Link) -> None:
        # Publishes nothing itself: its PUBACK would wait behind the messages that it does not take.
        async for message in link.messages():
            try:
                self._receive(message)
            except ReplayError as error:
                logger.info("ignored: %s", error)
            except WireError as error:
                self.status.refused = f"{message.topic}: {error}"
                logger.warning("refused %s: %s", message.topic, error)

    def _receive(self, message: Received) -> None:
        """Take one message."""
        topic = message.topic
        if topic == self._topics.head:
            if self.adoption.on_head(message.payload):
                self._missing.set()
        elif topic == self._topics.to(self._agent):
            self._on_inbox(message.payload)
        elif topic == self._topics.coordinator_state:
            self._on_coordinator(message.payload)
        elif topic == self._topics.state(self._agent):
            if self._is_late_will(message.payload):
                self._overwritten.set()
        elif self.adoption.on_chunk(topic, message.payload):
            self._missing.set()

    def _on_inbox(self, payload: bytes) -> None:
        opened = open_envelope(payload, _kind_of(payload))
        if opened.signer != COORDINATOR:
            reason = f"inbox message signed by {opened.signer!r}"
            raise MalformedError(reason)
        opened.verify(self.identity.trust.federation, self.identity.trust.coordinator)
        if opened.kind == "command":
            command = parse_body(opened, Command)
            self._guard.accept(opened.counter, "command")
            self.outbox.settle((), opened.counter)  # so that it can not be replayed after a restart
            self.operator.paused = command.name == "pause"
            logger.info("training: %s by command", command.name)
            return
        receipts = parse_body(opened, Receipts).items
        self._guard.accept(opened.counter, "receipts")
        now_s = asyncio.get_running_loop().time()
        for receipt in receipts:
            if receipt.incarnation == self.outbox.incarnation:
                self.schedule.received(receipt, now_s)
            if receipt.status == "refused":
                logger.warning("update %d refused: %s", receipt.sequence, receipt.reason)
        self.outbox.settle(receipts, opened.counter)
        self.made.set()

    def _on_coordinator(self, payload: bytes) -> None:
        opened = open_envelope(payload, "coordinator-state")
        opened.verify(self.identity.trust.federation, self.identity.trust.coordinator)
        state = parse_body(opened, CoordinatorState)
        self.status.coordinator = state.status
        if state.status == "online":
            self._live.set()
        else:
            self._live.clear()

    def _is_late_will(self, payload: bytes) -> bool:
        opened = open_envelope(payload, "agent-state")
        opened.verify(self.identity.trust.federation, self.identity.key.public)
        state = parse_body(opened, AgentState)
        return state.status == "offline" and state.incarnation == self.outbox.incarnation

    async def _report(self, link: Link, counter: Counter) -> None:
        """Judge every newly adopted head, once a connection."""
        reported = 0
        while True:
            adopted = self.adoption.current
            if adopted is not None and adopted.head.sequence != reported and self._live.is_set():
                reported = adopted.head.sequence
                report = judge(adopted, self.history.read(held_out=True))
                if report is not None:
                    topic = self._topics.report(self._agent)
                    await link.publish(topic, self._seal(report, counter))
            await asyncio.sleep(_JUDGE_S)

    async def _fetch(self, link: Link) -> None:
        """Keep subscribed to exactly the chunks that the head names and we lack."""
        subscribed: list[str] = []
        while True:
            self._missing.clear()
            wanted = self.adoption.wanted()
            gone = [topic_filter for topic_filter in subscribed if topic_filter not in wanted]
            if gone:
                await link.unsubscribe(gone)
            if wanted:
                await link.subscribe(wanted)
            subscribed = wanted
            try:
                async with asyncio.timeout(_AGAIN_S if wanted else None):
                    await self._missing.wait()
            except TimeoutError:
                logger.info("asking again for %d contents", len(wanted))


def _kind_of(payload: bytes) -> str:
    """Inbox messages are receipts or commands: peek at the kind, which the signature covers."""
    return "command" if b"command" in payload[:24] else "receipts"
