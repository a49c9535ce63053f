"""The coordinator's side of the broker.

On every connection it subscribes, publishes again everything retained (a broker may have lost its
disk), announces itself, and then takes updates in: header and chunks through `Ingest`, complete
ones in one transaction a batch, and only after its commit the receipts.  Receipts that can not be
sent are forgotten: agents ask again.  Every birth is answered with what is known of that
incarnation, so that a restored or copied card is noticed before it makes an update.

Whatever comes in is checked first; what is refused is logged with its reason.

Two things end `run` for good: others know more of this coordinator's past than its store does
(`coordinator/past.py`), and a newer charter came (`is_outdated`), under which whoever made this
connection begins anew.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from coordinator.admissions import Admissions
from coordinator.config import Identity
from coordinator.current import Result
from coordinator.evaluation_log import EvaluationLog
from coordinator.federation import Federation
from coordinator.ingest import BUDGET_BYTES, Ingest, Update
from coordinator.past import Past, RestoredError
from coordinator.revocations import RevokedFile
from coordinator.secure.parties import Parties
from coordinator.store import KnownAgent, Store
from wire.charters import KeptCharter
from wire.chunks import split
from wire.codec import Counter, Opened, ReplayGuard, open_envelope, parse_body, seal
from wire.database import DiskError
from wire.errors import (
    LinkDownError,
    MalformedError,
    PacketTooLargeError,
    SignatureError,
    WireError,
)
from wire.messages import (
    AgentState,
    Command,
    CoordinatorState,
    Credential,
    Examine,
    Grant,
    Readiness,
    Receipt,
    Receipts,
    Release,
    Report,
    RevocationList,
    Spent,
    UpdateHeader,
)
from wire.mqtt import (
    PACKET_OVERHEAD,
    BrokerSettings,
    Link,
    Received,
    Will,
    connect,
    reason_of,
)
from wire.progress import Beat, Progress
from wire.reconnecting import Reconnecting
from wire.signing import PublicKey
from wire.topics import Topics
from wire.trust import COORDINATOR, read_credential, read_revoked, unlisted
from wire.waiting import no_beat

logger = logging.getLogger(__name__)

BATCH = 64
"""Updates in one transaction at most: it costs one fsync and one copy of the buffer."""
_LINGERS, _LINGER_S, _LONGEST_BATCH_S = 3, 0.004, 0.1
"""How often and how long to wait for more of a batch: some milliseconds make it four times as
large, and ingest a third faster."""
_OUTGOING = 10_000
_TICK_S = 0.1
_SILENT_S = 300.0
"""To publish a large model again to a broker far away takes a while, before the first tick."""
_ORDERS_S = 0.5
_FILE_S = 5.0
_ECHO_S = 2.0
"""A broker that does not let us read our own charter costs so much at each connection."""
_GRANTS_S = 0.2
_RECEIPTS_PER_MESSAGE = 200


@dataclass(frozen=True)
class Watermark:
    """The answer to a birth: the highest sequence known of this incarnation, and the mark.

    Attributes:
      spent: on privacy, over all incarnations of the agent.
    """

    incarnation: str
    highest: int
    spent: Spent


Answer = tuple[str, Receipt | Watermark]
"""To which agent, and what."""


@dataclass
class Connection:
    """Keeps the coordinator connected."""

    broker: BrokerSettings
    identity: Identity
    store: Store
    federation: Federation
    evaluations: EvaluationLog
    admissions: Admissions
    boot: int
    revoked_file: RevokedFile | None = None
    charters: KeptCharter | None = None

    progress: Progress = field(default_factory=Progress)
    _beat: Beat = no_beat

    def __post_init__(self) -> None:
        self.ingest = Ingest(max(BUDGET_BYTES, 4 * self.federation.update_bytes))
        federation = self.identity.trust.federation
        self.parties = Parties(self.federation, self.identity.trust)
        self._topics = Topics(federation)
        self._counter = Counter(self.boot)
        self._guards: dict[tuple[str, str], tuple[tuple[str, int], ReplayGuard]] = {}
        self._known: dict[str, tuple[KnownAgent, PublicKey]] = {}
        self._outgoing: asyncio.Queue[list[tuple[str, Receipt | Watermark]]] = asyncio.Queue(
            _OUTGOING
        )
        self._head_moved = asyncio.Event()
        self._past = Past(self.identity.trust, self.boot)
        self._restored: RestoredError | None = None
        self._echoed = asyncio.Event()
        self._connections = 0
        self._overwritten = asyncio.Event()
        self.is_outdated = False
        """A newer charter came, and was kept."""
        self.is_up = False
        self.is_stopping = False
        """Set before `run` is cancelled: a link that ends in the same instant can hide that."""

    async def run(self) -> None:
        """Connect, serve, and connect again, until a newer charter comes.

        Raises:
          RestoredError: this store is not the newest of this coordinator.
        """
        with self.progress.watching("connection", _SILENT_S) as self._beat:
            await self._keep_connected()

    async def _keep_connected(self) -> None:
        waits = Reconnecting(0.2, 5.0, random.Random())  # noqa: S311  jitter only
        while True:
            self._beat()
            began_s = time.monotonic()
            try:
                await self._connected()
            except* (LinkDownError, PacketTooLargeError) as group:
                logger.warning("broker lost: %s", reason_of(group))
            except* DiskError as group:
                # Nothing that was not stored was receipted; agents stop sending while this program
                # is offline, and offer everything again.
                logger.error("offline until the disk works: %s", reason_of(group))  # noqa: TRY400
            except* RestoredError:
                pass  # said below, without the tasks that it came through
            if self._restored is not None:
                raise self._restored
            if self.is_stopping or self.is_outdated:
                return
            lived_s = time.monotonic() - began_s if self.is_up else 0.0
            self.is_up = False
            await asyncio.sleep(waits.wait_s(lived_s))

    async def _connected(self) -> None:
        topic = self._topics.coordinator_state
        self._connections += 1
        self._overwritten.clear()
        will = Will(topic, self._state("offline"))
        async with connect(self.broker, COORDINATOR, will) as link, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(link), name="listen")
            # First: what was revoked is to be known before anything else comes in.
            await link.subscribe([self._topics.revoked, self._topics.charter])
            await self._look_back(link)
            await link.subscribe(
                [self._topics.all_updates, self._topics.all_reports, self._topics.all_asks]
            )
            if self.parties.are_there:
                await link.subscribe(self._topics.from_helpers)
            if link.packet_bytes is not None:
                self._limit_chunks(link.packet_bytes - PACKET_OVERHEAD)
            await self._publish_head(link)
            await link.publish(topic, self._state("online"), retain=True)
            self.is_up = True
            tasks.create_task(self._answer_wills(link), name="wills")
            tasks.create_task(self._publish_heads(link), name="publish")
            tasks.create_task(self._send_receipts(link), name="receipts")
            tasks.create_task(self._send_orders(link), name="orders")
            tasks.create_task(self._send_grants(link), name="grants")
            tasks.create_task(self._tick(), name="tick")
            tasks.create_task(self._ask_parties(link), name="parties")
            tasks.create_task(self._watch_revoked_file(), name="revoked")
            # Last: a thousand retained births would stand before head, birth and receipts.
            await link.subscribe([self._topics.all_states])

    async def _look_back(self, link: Link) -> None:
        """See what this coordinator said last, before it says anything but its charter.

        What the broker retains comes before the echo of what we publish after we asked for it.
        """
        said = [self._topics.head, self._topics.coordinator_state]
        await link.subscribe(said)
        if self.identity.trust.envelope:
            self._echoed.clear()
            await link.publish(self._topics.charter, self.identity.trust.envelope, retain=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ECHO_S):
                    await self._echoed.wait()
        await link.unsubscribe(said)

    def _limit_chunks(self, chunk_bytes: int) -> None:
        try:
            self.federation.limit_chunks(chunk_bytes)
            self.parties.limit_parts(chunk_bytes)
        except MalformedError as error:
            reason = f"the broker's maximum packet size is too small for this model: {error}"
            raise LinkDownError(reason) from None

    def _state(self, status: str) -> bytes:
        state = CoordinatorState(
            status="online" if status == "online" else "offline",
            session=self.boot,
            connection=self._connections,
        )
        return self._seal(state)

    async def _answer_wills(self, link: Link) -> None:
        """A will of an earlier connection that took the place of the birth is overwritten again."""
        while True:
            await self._overwritten.wait()
            self._overwritten.clear()
            logger.info("answering a late will with a new birth")
            await link.publish(self._topics.coordinator_state, self._state("online"), retain=True)

    def _seal(
        self, message: CoordinatorState | Receipts | Command | Grant | Examine | Release
    ) -> bytes:
        return seal(
            message,
            federation=self.identity.trust.federation,
            signer=COORDINATOR,
            counter=self._counter.next(),
            key=self.identity.key,
        )

    # Coming in

    async def _listen(self, link: Link) -> None:
        ready: list[Update] = []
        began_s = 0.0
        async for message in link.messages():
            try:
                update = self._receive(message)
            except WireError as error:
                logger.warning("refused %.200r: %s", message.topic, error)
                update = None
            if update is not None:
                ready.append(update)
                began_s = time.monotonic() if len(ready) == 1 else began_s
            if ready and await self._is_batch(link, len(ready), began_s):
                self._commit(ready)
                ready = []

    def _commit(self, ready: list[Update]) -> None:
        now_s = time.monotonic()
        self._after(self.federation.commit(ready, now_s))
        for update in ready:
            is_dropped = bool(update.header.dropped)
            self.admissions.on_update(update.header.agent, now_s, is_dropped=is_dropped)

    async def _is_batch(self, link: Link, number: int, began_s: float) -> bool:
        """Whether to commit these updates now, or take more into the same transaction."""
        for _ in range(_LINGERS):
            if number >= BATCH or time.monotonic() - began_s > _LONGEST_BATCH_S:
                return True
            if link.waiting:
                return False
            await asyncio.sleep(_LINGER_S)
        return not link.waiting

    def _receive(self, message: Received) -> Update | None:
        """Take one message; return an update that it completed."""
        topic, now_s = message.topic, time.monotonic()
        kind = topic.removeprefix(f"{self._topics.base}/").partition("/")[0]
        if kind == "up":
            return self._on_update(topic, message.payload, now_s)
        if topic in (self._topics.charter, self._topics.head, self._topics.coordinator_state):
            self._on_own(topic, message.payload)
        elif kind == "report":
            self._on_report(topic, message.payload, now_s)
        elif kind == "ask":
            self._on_ask(topic, message.payload, now_s)
        elif kind == "helper":
            self._after(self.parties.hear(topic, message.payload, now_s))
            self.evaluations.print_new(self.federation)
        elif kind == "revoked":
            self._on_revoked(read_revoked(message.payload, self.identity.trust))
        elif kind == "state":
            self._on_agent_state(topic, message.payload)
        return None

    def _on_own(self, topic: str, payload: bytes) -> None:
        """Take what this coordinator publishes itself: who else did, and what did it say last?"""
        if topic == self._topics.charter:
            if payload == self.identity.trust.envelope:
                self._echoed.set()
            if self.charters is not None and self.charters.take(payload):
                self.is_outdated = True
                raise LinkDownError(f"charter {self.charters.trust.charter.epoch} begins")
            return
        try:
            if topic == self._topics.head:
                self._past.on_head(payload, self.federation.saved)
            elif self._past.on_birth(payload).status == "offline" and self.is_up:
                self._overwritten.set()  # the will of an earlier connection
        except RestoredError as error:
            self._restored = error
            raise

    def _on_update(self, topic: str, payload: bytes, now_s: float) -> Update | None:
        at = self._topics.parse_update(topic)
        if at.chunk is not None:
            return self.ingest.on_chunk(at, payload, now_s)
        opened = open_envelope(payload, "update")
        sender = self._verify_agent(opened, at.agent)
        header = parse_body(opened, UpdateHeader)
        if (header.agent, header.incarnation, header.sequence) != (
            at.agent,
            at.incarnation,
            at.sequence,
        ):
            reason = f"update header of {header.agent} {header.incarnation}/{header.sequence}"
            raise MalformedError(reason + " was published under another id")
        self.store.note_spent(at.agent, header.spent)
        known = self.federation.status_of(header)
        if known is not None:
            self._send([(at.agent, known)])
            return None
        self._compare(sender, header)
        if self._is_revoked(sender):
            self._alarm_revoked(at.agent, sender.serial, f"update {header.sequence} was refused")
        if not header.dropped and self.federation.problem_with(header) is not None:
            return Update(header, b"", payload)  # its chunks would change nothing
        taken = self.ingest.on_header(header, now_s, payload)
        if isinstance(taken, Receipt):
            self._send([(at.agent, taken)])
            return None
        return taken

    def _compare(self, sender: KnownAgent, header: UpdateHeader) -> None:
        """See whether sites train from what this store does not know yet."""
        sites = {site for _, site, _ in self.store.agents()}
        try:
            self._past.on_update(sender.site, header, self.federation.saved, sites)
        except RestoredError as error:
            self._restored = error
            raise

    def _on_report(self, topic: str, payload: bytes, now_s: float) -> None:
        agent = self._topics.agent_of(topic, "report")
        opened = open_envelope(payload, "report")
        known = self._verify_agent(opened, agent)
        self._refuse_uncounted(known)
        self._guard_of(known, "report").accept(opened.counter, f"report from {agent}")
        report = parse_body(opened, Report)
        self._after(self.federation.on_report(agent, known.site, report, now_s))
        self.evaluations.print_new(self.federation)

    async def _ask_parties(self, link: Link) -> None:
        """Ask those who open sums, again and again."""
        while True:
            for topic, message in self.parties.due(time.monotonic()):
                data = message if isinstance(message, bytes) else self._seal(message)
                await link.publish(topic, data)
            await link.publish_bulk(self.parties.parts())
            await asyncio.sleep(self.parties.rest_s(self.store.secure.waiting("update")))

    def _on_ask(self, topic: str, payload: bytes, now_s: float) -> None:
        agent = self._topics.agent_of(topic, "ask")
        opened = open_envelope(payload, "readiness")
        known = self._verify_agent(opened, agent)
        self._refuse_uncounted(known)
        self._guard_of(known, "ask").accept(opened.counter, f"readiness from {agent}")
        readiness = parse_body(opened, Readiness)
        alone = self.federation.site_alone
        if not alone or known.site == alone:
            self.admissions.on_ask(agent, known.site, readiness, now_s)

    def _guard_of(self, known: KnownAgent, kind: str) -> ReplayGuard:
        """What an agent's earlier connection said on a topic is a replay by now."""
        connection = (known.incarnation, known.session)
        held, guard = self._guards.get((known.agent, kind), (("", 0), ReplayGuard()))
        if held != connection:
            guard = ReplayGuard((known.session << 32) - 1)
            self._guards[known.agent, kind] = connection, guard
        return guard

    def _on_agent_state(self, topic: str, payload: bytes) -> None:
        agent = self._topics.agent_of(topic, "state")
        opened = open_envelope(payload, "agent-state")
        state = parse_body(opened, AgentState)  # carries the key that it is verified with
        credential = self._credential_in(state.credential, agent)
        if credential.agent != agent or opened.signer != agent:
            reason = f"the birth of {agent} carries a credential of {credential.agent}"
            raise SignatureError(reason)
        opened.verify(self.identity.trust.federation, PublicKey(credential.public_key))
        known = self.store.agent(agent)
        if known is not None and credential.serial < known.serial:
            reason = f"credential {credential.serial} of {agent} was replaced by {known.serial}"
            raise SignatureError(reason)
        if state.status == "online" and self.store.revocations.covers(agent, credential.serial):
            self._alarm_revoked(agent, credential.serial, "its birth was refused")
            return
        if known is not None and _is_earlier(state, credential, known):
            # The will of an earlier connection, a replay, or a card restored from a backup, which
            # has forgotten its last sessions.
            if state.status == "online":
                self._answer_birth(agent, state)
            return
        if known is not None and state.incarnation != known.incarnation:
            self._note_new_incarnation(agent, known, state)
        born = KnownAgent(
            agent=agent,
            site=credential.site,
            public_key=credential.public_key,
            serial=credential.serial,
            incarnation=state.incarnation,
            session=state.session,
        )
        self.store.keep_agent(born, state.status)
        self.store.keep_credential(agent, state.credential)
        self._known.pop(agent, None)
        if state.status == "online":
            self.store.answered(agent, state.order)
            self._answer_birth(agent, state)
        else:
            self.admissions.on_gone(agent)

    def _credential_in(self, envelope: bytes, agent: str) -> Credential:
        """The credential of a birth, verified.

        One that an earlier enrolment key signed counts for an agent that was here under it: for
        the same site, key and serial, so that nobody who has that key can make another one.
        """
        try:
            return read_credential(envelope, self.identity.trust)
        except SignatureError:
            said = parse_body(open_envelope(envelope, "credential"), Credential)
            known = self.store.agent(agent)
            if known is None or known.credential != (
                said.agent,
                said.site,
                said.public_key,
                said.serial,
            ):
                raise
        if refused := unlisted(said.site, self.identity.trust.charter):
            raise SignatureError(f"{agent}: {refused}")
        return said

    def _answer_birth(self, agent: str, state: AgentState) -> None:
        highest = self.store.highest(agent, state.incarnation)
        spent = self.store.spent(agent)
        self._send([(agent, Watermark(state.incarnation, highest, spent))])

    def _note_new_incarnation(self, agent: str, known: KnownAgent, state: AgentState) -> None:
        detail = f"incarnation {state.incarnation} after {known.incarnation}: "
        detail += "its card was wiped, restored from a backup, copied or damaged"
        self.store.raise_alarm(agent, "new incarnation", detail)
        logger.error("ALARM %s: %s", agent, detail)

    def _on_revoked(self, revoked: RevocationList) -> None:
        for agent in self.store.revocations.take(revoked):
            self.admissions.on_gone(agent)

    def _is_revoked(self, known: KnownAgent) -> bool:
        return self.store.revocations.covers(known.agent, known.serial)

    def _refuse_uncounted(self, known: KnownAgent) -> None:
        if self._is_revoked(known):
            raise SignatureError(f"credential {known.serial} of {known.agent} was revoked")
        if refused := unlisted(known.site, self.identity.trust.charter):
            raise SignatureError(f"{known.agent}: {refused}")

    def _alarm_revoked(self, agent: str, serial: int, what: str) -> None:
        """Whoever has its keys still gets to the broker."""
        detail = f"credential {serial} was revoked, and {what}: does the broker let it in?"
        self.store.raise_alarm(agent, "revoked", detail)
        logger.error("ALARM %s: %s", agent, detail)

    def _verify_agent(self, opened: Opened, agent: str) -> KnownAgent:
        known, key = self._known.get(agent) or self._look_up(opened, agent)
        if opened.signer != agent:
            reason = f"{opened.kind} of {opened.signer!r} was published as {agent}"
            raise SignatureError(reason)
        opened.verify(self.identity.trust.federation, key)
        return known

    def _look_up(self, opened: Opened, agent: str) -> tuple[KnownAgent, PublicKey]:
        known = self.store.agent(agent)
        if known is None:
            reason = f"{opened.kind} from {agent}, whose birth has not been seen"
            raise SignatureError(reason)
        self._known[agent] = known, PublicKey(known.public_key)
        return self._known[agent]

    # Going out

    def _after(self, result: Result) -> None:
        self._send(result.receipts)
        if result.head_moved:
            self._head_moved.set()

    def _send(self, receipts: Sequence[Answer]) -> None:
        if not receipts:
            return
        try:
            self._outgoing.put_nowait(list(receipts))
        except asyncio.QueueFull:
            logger.warning("%d receipts not sent: the broker is slow", len(receipts))

    async def _send_receipts(self, link: Link) -> None:
        while True:
            waiting = [await self._outgoing.get()]
            while not self._outgoing.empty():
                waiting.append(self._outgoing.get_nowait())
            async with asyncio.TaskGroup() as sends:
                for agent, message in _messages(waiting):
                    sends.create_task(self._tell(link, agent, message))

    async def _tell(self, link: Link, agent: str, message: Receipts | Command | Grant) -> None:
        # Sealed when it goes, so that the counters of an inbox grow in the order of sending.
        await link.publish(self._topics.to(agent), self._seal(message))

    async def _send_orders(self, link: Link) -> None:
        """Send the operator's orders: when given, and at each birth until one tells the outcome.

        An inbox is not retained, so an agent that is away hears its order with its next birth.
        """
        while True:
            for agent, command in self.store.due_orders():
                self.store.set_order_sent(agent, command.number)
                await self._tell(link, agent, command)
                logger.info("told %s to %s: order %d", agent, command.name, command.number)
            await asyncio.sleep(_ORDERS_S)

    async def _send_grants(self, link: Link) -> None:
        """Let agents train as slots free, where the policy says that they ask."""
        while True:
            if self.federation.policy.admission == "granted" and self.store.training == "open":
                version = self.federation.saved.version
                for agent, grant in self.admissions.grants(time.monotonic(), version):
                    await self._tell(link, agent, grant)
            await asyncio.sleep(_GRANTS_S)

    async def _publish_heads(self, link: Link) -> None:
        while True:
            await self._head_moved.wait()
            self._head_moved.clear()
            await self._publish_head(link)
            self.evaluations.print_new(self.federation)

    async def _publish_head(self, link: Link) -> None:
        """Contents first, then the head that names them, then clear what nothing names."""
        head, chunks = self.federation.head_envelope, self._retained_chunks()
        before = self.store.published()
        self.store.set_published(set(chunks), set())
        fresh = chunks if not self.is_up else {t: c for t, c in chunks.items() if t not in before}
        await link.publish_bulk(fresh.items(), retain=True)
        await link.publish(self._topics.head, head, retain=True)
        gone = before - set(chunks)
        for topic in sorted(gone):
            await link.publish(topic, b"", retain=True)
        self.store.set_published(set(), gone)

    def _retained_chunks(self) -> dict[str, bytes]:
        """Topic and payload of every chunk of what the head names."""
        topic_of = {"bundle": self._topics.bundle, "model": self._topics.model}
        return {
            topic_of[named.kind](named.content.digest.hex(), index): chunk
            for named in self.federation.contents()
            for index, chunk in enumerate(split(named.data, named.content.chunk_bytes))
        }

    async def _watch_revoked_file(self) -> None:
        while self.revoked_file is not None:
            revoked = await asyncio.to_thread(self.revoked_file.changed)
            if revoked is not None:
                self._on_revoked(revoked)
            await asyncio.sleep(_FILE_S)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._beat()
            now_s = time.monotonic()
            self._send(self.ingest.ask(now_s))
            self._after(self.federation.tick(now_s))


def _messages(
    waiting: list[list[Answer]],
) -> Iterator[tuple[str, Receipts]]:
    """What waits, as few messages for each agent."""
    by_agent: dict[str, list[Receipt]] = {}
    watermarks: list[tuple[str, Watermark]] = []
    for agent, item in (pair for batch in waiting for pair in batch):
        if isinstance(item, Watermark):
            watermarks.append((agent, item))
        else:
            by_agent.setdefault(agent, []).append(item)
    for agent, items in by_agent.items():
        for start in range(0, len(items), _RECEIPTS_PER_MESSAGE):
            yield agent, Receipts(items=tuple(items[start : start + _RECEIPTS_PER_MESSAGE]))
    for agent, mark in watermarks:  # a thousand at a restart: what settles updates goes first
        yield (
            agent,
            Receipts(incarnation=mark.incarnation, highest=mark.highest, spent=mark.spent),
        )


def _is_earlier(state: AgentState, credential: Credential, known: KnownAgent) -> bool:
    """Whether a birth or will is of an earlier connection than the last one seen.

    A will is signed before its connection's birth, so sessions are compared and not counters; they
    grow within an incarnation, and a new credential is new whatever its session.  Only a birth may
    begin an incarnation: a will of another one than the last is late.
    """
    if credential.serial != known.serial:
        return False
    if state.incarnation != known.incarnation:
        return state.status == "offline"
    return state.session < known.session
