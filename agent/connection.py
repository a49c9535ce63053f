"""The agent's side of the broker: one connection after another, each with birth, will and inbox.

On every connection: subscribe, publish the birth, then deliver (`agent/delivery.py`) and listen
side by side until the connection ends.  Whatever comes in is checked before it changes anything;
what is refused is logged with its reason and shown in the status, and the connection goes on.

A card that was restored from a backup or copied shows in three ways: a state of this incarnation
that has made more updates than we have, a coordinator that knows more of them, and a receipt for
another content under one of our ids.  Each begins a new incarnation and connection.

A newer charter counts from the moment it comes, from whomever (`wire/charters.py`): who the
coordinator is, whose bundles are taken, what a policy has to give.  What came just before it, and
made no sense then, is looked at again.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from agent.adoption import Adoption
from agent.conditions import read_conditions
from agent.config import Identity
from agent.delivery import Delivery, Schedule
from agent.fetch import Fetch
from agent.health import Progress, rest
from agent.kept_identity import kept_charter
from agent.orders import Orders
from agent.outbox import Outbox
from agent.renewal import Renewal
from agent.reporting import Reporting
from agent.status import Status
from agent.turn import Turn
from wire.charters import KeptCharter
from wire.chunks import CHUNK_BYTES
from wire.codec import Counter, ReplayGuard, open_envelope, parse_body, seal
from wire.errors import (
    LinkDownError,
    MalformedError,
    PacketTooLargeError,
    ReplayError,
    WireError,
    one_line,
)
from wire.messages import (
    TERMINAL,
    AgentState,
    Command,
    CoordinatorState,
    Grant,
    Readiness,
    Receipt,
    Receipts,
    Report,
    Spent,
)
from wire.messages import Renewal as Question
from wire.mqtt import BULK, BrokerSettings, Link, Meter, Received, Will, connect, reason_of
from wire.presence import Presence
from wire.reconnecting import Reconnecting
from wire.trust import COORDINATOR

logger = logging.getLogger(__name__)

SOFTWARE = "journeyman-agent 0.1.0"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 30.0
"""A short cut should cost little; from there the waits grow, and thousands of gateways spread."""
_JUDGE_S = 0.25
_RENEW_S = 1.0
_SILENT_S = 600.0
_SLOWEST_BYTES_S = 1000.0
"""The first chunks of an update go together, so on a slow link the next one waits for long."""


@dataclass
class Connection:
    """Keeps this agent connected."""

    broker: BrokerSettings
    identity: Identity
    outbox: Outbox
    reporting: Reporting
    turn: Turn
    adoption: Adoption
    orders: Orders
    status: Status
    schedule: Schedule
    made: asyncio.Event
    """Set when there may be something new to deliver."""
    renewal: Renewal
    progress: Progress = field(default_factory=Progress)
    chunk_bytes: int = CHUNK_BYTES
    meter_of: Callable[[BrokerSettings], Meter | None] = lambda _: None
    """Counts what a connection to a broker sends."""
    on_mark: Callable[[Spent], None] = lambda _: None
    """Told what the coordinator knows that this agent has spent on privacy."""
    told: Callable[[Identity], None] | None = None
    """Whoever else has to know by which charter and credential the agent goes on."""

    def __post_init__(self) -> None:
        kept = kept_charter(self.renewal.state)
        self._charters = KeptCharter(kept, self.renewal.root, self.identity.trust)
        self._unread: dict[str, Received] = {}
        """What was refused, by topic, and a newer charter may explain."""
        self._topics = self.identity.topics
        self._agent = self.identity.agent
        self._guard = ReplayGuard(self.outbox.receipt_counter)
        self._live = asyncio.Event()
        self._presence = Presence()
        self._overwritten = asyncio.Event()
        self._fetch = Fetch(self.adoption)
        self._takers = self._make_takers()
        self._renewed = asyncio.Event()
        self._session = self._seen_session = 0
        self._up_s = math.inf
        self.is_stopping = False
        """Set before `run` is cancelled: a link that ends in the same instant can hide that."""
        self._delivery = Delivery(self.outbox, self.schedule, self.identity, self._live, self.made)

    def use(self, broker: BrokerSettings) -> None:
        """Connect by other settings, or with renewed files, now; nothing on its way is lost."""
        self.broker = broker
        self._renewed.set()

    async def run(self) -> None:
        """Connect, serve, and connect again, for ever."""
        # What a connection waits for ends within ack_timeout_s when nothing moves.
        silent_s = _SILENT_S + 4 * self.broker.ack_timeout_s
        silent_s += BULK * self.chunk_bytes / _SLOWEST_BYTES_S
        with self.progress.watching("delivery", silent_s) as beat:
            self._delivery.beat = beat
            await self._keep_connected()

    async def _keep_connected(self) -> None:
        waits = Reconnecting(_FIRST_WAIT_S, _LONGEST_WAIT_S, random.Random())  # noqa: S311
        while True:
            self._up_s = math.inf
            try:
                await self._connected()
            except* (LinkDownError, PacketTooLargeError) as group:
                logger.info("link down: %s", reason_of(group))
            if self.is_stopping:
                return
            self.status.link, self.status.coordinator = "down", "unknown"
            self._set_live(is_live=False)
            await rest(waits.wait_s(time.monotonic() - self._up_s), self._delivery.beat)

    async def _connected(self) -> None:
        self._renewed.clear()
        self._session = self.outbox.next_session(self._seen_session)
        counter = Counter(self._session)
        self.status.session = self._session
        will = Will(self._topics.state(self._agent), self._state("offline", counter))
        broker = self.renewal.newest(self.broker)
        connected = connect(broker, self._agent, will, self.meter_of(broker))
        async with connected as link, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(link), name="listen")
            await link.subscribe(
                [
                    self._topics.charter,
                    self._topics.to(self._agent),
                    self._topics.revoked,
                    self._topics.renewed(self._agent),
                    self._topics.state(self._agent),
                    self._topics.coordinator_state,
                    self._topics.head,
                ]
            )
            await self._announce(link, counter)
            self.status.link, self._up_s = "up", time.monotonic()
            tasks.create_task(self._keep_announced(link, counter), name="keep announced")
            tasks.create_task(self._answer_orders(link, counter), name="answer orders")
            tasks.create_task(self._fetch.run(link, tasks), name="fetch")
            tasks.create_task(self._report(link, counter), name="report")
            tasks.create_task(self._ask(link, counter), name="ask")
            tasks.create_task(self._renew(link, counter), name="renew")
            tasks.create_task(self._delivery.run(link, counter), name="deliver")
            tasks.create_task(self._leave_when_renewed(), name="renewed")

    async def _leave_when_renewed(self) -> None:
        """End a connection whose will and birth name an incarnation or a session that is over."""
        await self._renewed.wait()
        raise LinkDownError("a new incarnation, session or setting begins")

    def _begin_again(self, reason: str) -> None:
        """This card was restored or copied: what it makes from here on gets ids of its own."""
        if self.outbox.problem:
            return  # what a failing disk says about the past is no evidence
        before = self.outbox.incarnation
        logger.error("this card was restored from a backup or copied: %s", reason)
        self.status.refused = f"incarnation {before} is over: {reason}"
        if self.outbox.renew(reason) != before:
            self._renewed.set()

    def _state(self, status: str, counter: Counter) -> bytes:
        state = AgentState(
            status="online" if status == "online" else "offline",
            incarnation=self.outbox.incarnation,
            session=self._session,
            credential=self.identity.credential_envelope,
            software=SOFTWARE,
            produced=self.outbox.produced,
            order=self.orders.outcome,
        )
        return self._seal(state, counter)

    def _seal(self, message: AgentState | Report | Readiness | Question, counter: Counter) -> bytes:
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

    async def _answer_orders(self, link: Link, counter: Counter) -> None:
        """Tell what became of the coordinator's last order, in a birth that replaces this one."""
        while True:
            await self.orders.changed.wait()
            self.orders.changed.clear()
            await self._announce(link, counter)

    async def _listen(self, link: Link) -> None:
        # Publishes nothing itself: its PUBACK would wait behind the messages that it does not take.
        async for message in link.messages():
            self._hear(message)

    def _hear(self, message: Received) -> None:
        """Take one message, or say why not."""
        try:
            self._receive(message)
        except ReplayError as error:
            logger.info("ignored: %s", error)
        except WireError as error:
            if message.topic in self._signed_below:
                self._unread[message.topic] = message
            self.status.refused = f"{message.topic}: {error}"
            logger.warning("refused %s: %s", message.topic, error)

    @property
    def _signed_below(self) -> tuple[str, str, str]:
        """Retained topics whose signers the charter names."""
        return self._topics.head, self._topics.coordinator_state, self._topics.revoked

    def _receive(self, message: Received) -> None:
        """Take one message."""
        take = self._takers.get(message.topic)
        if take is None:
            self._fetch.on_chunk(message.topic, message.payload)
        else:
            take(message.payload)

    def _make_takers(self) -> dict[str, Callable[[bytes], object]]:
        """Who takes what comes on which topic; the rest are chunks."""
        topics = self._topics
        return {
            topics.charter: self._on_charter,
            topics.head: self._on_head,
            topics.to(self._agent): self._on_inbox,
            topics.coordinator_state: self._on_coordinator,
            topics.state(self._agent): self._on_own_state,
            topics.renewed(self._agent): self._on_renewed,
            topics.revoked: self._on_revoked,
        }

    def _on_head(self, payload: bytes) -> None:
        before = self.adoption.head
        try:
            self._fetch.on_head(payload)
        finally:
            head = self.adoption.head
            if before is not None and head is not None and head.recovery > before.recovery:
                # A coordinator that forgot what it had: it may lack what was committed there.
                self.schedule.reconnected()
                self.made.set()

    def _on_charter(self, payload: bytes) -> None:
        if self._charters.take(payload):
            self._follow(replace(self.identity, trust=self._charters.trust))

    def _on_renewed(self, payload: bytes) -> None:
        renewed = self.renewal.on_answer(payload)
        if renewed is not None:
            self._charters.take(renewed.trust.envelope)
            self._follow(renewed)

    def _on_revoked(self, payload: bytes) -> None:
        if self.renewal.on_revoked(payload):
            self._set_live(is_live=False)

    def _follow(self, identity: Identity) -> None:
        """Go on by a newer charter or credential, now and without a restart."""
        before, self.identity = self.identity, identity
        self.renewal.follow(identity)
        self._delivery.identity = identity
        self.adoption.follow(identity.trust)
        if self.told is not None:
            self.told(identity)
        epoch, serial = identity.trust.charter.epoch, identity.credential.serial
        logger.warning("charter %d and credential %d count from now on", epoch, serial)
        if identity.trust.coordinator != before.trust.coordinator:
            self.status.coordinator = "unknown"  # until the one that the charter names is heard
            self._presence = Presence()
            self._set_live(is_live=False)
        if identity.credential_envelope != before.credential_envelope:
            self._overwritten.set()  # so that the coordinator sees it
        again, self._unread = self._unread, {}
        for message in again.values():
            self._hear(message)

    def _on_inbox(self, payload: bytes) -> None:
        opened = open_envelope(payload, _kind_of(payload))
        if opened.signer != COORDINATOR:
            reason = f"inbox message signed by {opened.signer!r}"
            raise MalformedError(reason)
        opened.verify(self.identity.trust.federation, self.identity.trust.coordinator)
        if opened.kind == "grant":
            self._guard.accept(opened.counter, "grant")
            self.turn.on_grant(parse_body(opened, Grant))
            return
        if opened.kind == "command":
            command = parse_body(opened, Command)
            self._guard.accept(opened.counter, "command")
            self.outbox.settle((), opened.counter)  # so that it can not be replayed after a restart
            self.orders.take(command)
            return
        receipts = parse_body(opened, Receipts)
        self._guard.accept(opened.counter, "receipts")
        now_s = asyncio.get_running_loop().time()
        if receipts.spent is not None:
            self.on_mark(receipts.spent)
        for receipt in receipts.items:
            self.schedule.received(receipt, now_s)
            self._settle_turn(receipt, now_s)
            if receipt.status == "refused":
                reason = one_line(receipt.reason)
                logger.warning("update %d refused: %s", receipt.sequence, reason)
        settlement = self.outbox.settle(receipts.items, opened.counter)
        self.made.set()
        if settlement.conflicts:
            self._begin_again(f"{settlement.conflicts[0]} exists with another content")
        elif receipts.incarnation == self.outbox.incarnation:
            made = self.outbox.produced
            if receipts.highest > made:
                reason = f"the coordinator knows {receipts.highest} updates of it and this card "
                self._begin_again(f"{reason}{made}")

    def _settle_turn(self, receipt: Receipt, now_s: float) -> None:
        """Learn how long updates take to arrive."""
        if receipt.status == "committed" or receipt.status in TERMINAL:
            is_committed = receipt.status in ("committed", "folded")
            update = (receipt.incarnation, receipt.sequence)
            self.turn.on_settled(update, now_s, is_committed=is_committed)

    def _on_coordinator(self, payload: bytes) -> None:
        opened = open_envelope(payload, "coordinator-state")
        opened.verify(self.identity.trust.federation, self.identity.trust.coordinator)
        state = parse_body(opened, CoordinatorState)
        is_online = state.status == "online"
        if not self._presence.hear(
            is_online=is_online, session=state.session, connection=state.connection
        ):
            logger.info("ignored: an earlier connection of the coordinator is %s", state.status)
            return
        self.status.coordinator = state.status
        self._set_live(is_live=is_online and not self.renewal.is_revoked)

    def _set_live(self, *, is_live: bool) -> None:
        """Note whether there is a coordinator to deliver to and to ask."""
        if is_live:
            self._live.set()
        else:
            self._live.clear()
        self.turn.on_link(is_up=is_live, now_s=asyncio.get_running_loop().time())

    def _on_own_state(self, payload: bytes) -> None:
        """Look at what the broker retains about this agent.

        A late will, published for an earlier connection, is answered with a new birth; so is a
        state of an earlier incarnation, which a broker may bring back.
        """
        opened = open_envelope(payload, "agent-state")
        opened.verify(self.identity.trust.federation, self.identity.key.public)
        state = parse_body(opened, AgentState)
        if state.incarnation != self.outbox.incarnation:
            if self.outbox.knows(state.incarnation):
                self._overwritten.set()
        elif state.produced > self.outbox.produced:
            self._begin_again(f"{state.produced} updates of it were announced before")
        elif state.session > self._session:
            # The disk could not keep our last session numbers: go on above them.
            self._seen_session = state.session
            self._renewed.set()
        elif state.status == "offline":
            self._overwritten.set()

    async def _report(self, link: Link, counter: Counter) -> None:
        """Say what is new about this site, and on every connection everything once."""
        self.reporting.begin()
        while True:
            await self._live.wait()
            report = self.reporting.next_report(asyncio.get_running_loop().time())
            if report is not None:
                topic = self._topics.report(self._agent)
                try:
                    await link.publish(topic, self._seal(report, counter))
                except PacketTooLargeError as error:  # masked sums, and a broker with small packets
                    logger.warning("a report of this site is not told: %s", error)
            await asyncio.sleep(_JUDGE_S)

    async def _ask(self, link: Link, counter: Counter) -> None:
        """Ask to train when the learner wants to, and the policy wants that."""
        while True:
            await self._live.wait()
            loop = asyncio.get_running_loop()
            if self.turn.is_due(loop.time()):
                conditions = await asyncio.to_thread(read_conditions)  # some drivers take a while
                asked = self.turn.next_ask(conditions, loop.time())
                if asked is not None:
                    await link.publish(self._topics.ask(self._agent), self._seal(asked, counter))
            await asyncio.sleep(_JUDGE_S)

    async def _renew(self, link: Link, counter: Counter) -> None:
        """Ask the enrolment authority now and then for what is newer."""
        while True:
            question = self.renewal.next_question(datetime.now(UTC), time.monotonic())
            if question is not None:
                await link.publish(self._topics.renew(self._agent), self._seal(question, counter))
            await asyncio.sleep(_RENEW_S)


def _kind_of(payload: bytes) -> str:
    """What an inbox message is: peek at the kind, which the signature covers."""
    start = payload[:24]
    return next((kind for kind in ("command", "grant") if kind.encode() in start), "receipts")
