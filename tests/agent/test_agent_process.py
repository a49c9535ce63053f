"""A whole agent in its own process: a real machine, a real broker, a coordinator of ten words."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from agent.config import Identity
from agent.status import Status, read_status
from shopfloor.machine import NAMESPACE_URI
from tests.agent.conftest import Broker, Machine, StartMachine
from tests.agent.federation import AGENT, FEDERATION, POLICY, Federation, Publication, agent_toml
from wire.chunks import Assembly
from wire.codec import Counter, seal, unseal
from wire.errors import LinkDownError
from wire.messages import (
    CONFLICT,
    AgentState,
    Command,
    CoordinatorState,
    Message,
    Receipt,
    Receipts,
    Report,
    UpdateHeader,
)
from wire.mqtt import BrokerSettings, Link, Received, connect
from wire.tensors import flatten, read_integers
from wire.trust import COORDINATOR

T = TypeVar("T")
DEADLINE_S = 30.0


@dataclass
class Site:
    """The agent's files, and its processes one after another."""

    config: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> "subprocess.Popen[str]":
        """Start the program as systemd does."""
        log = (self.config.parent / f"agent-{len(self.running)}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.main", "run", str(self.config)],
            cwd=Path(__file__).parents[2],
            stderr=log,
            text=True,
        )
        log.close()
        self.running.append(process)
        return process

    @property
    def status(self) -> Status | None:
        """What the agent last wrote about itself."""
        return read_status(self.config.parent / "state")

    def log(self, which: int = -1) -> str:
        """Everything that one of the processes wrote."""
        which %= len(self.running)
        return (self.config.parent / f"agent-{which}.log").read_text()

    async def until(self, holds: Callable[[Status], bool]) -> Status:
        """Wait until the agent's own status says so."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            status = self.status
            if status is not None and holds(status):
                return status
            await asyncio.sleep(0.05)
        pytest.fail(f"never so: {self.status}\n{self.log()}")


@dataclass
class Coordinator:
    """Signs and listens; what it says is up to the test."""

    federation: Federation
    identity: Identity
    link: Link
    counter: Counter = field(default_factory=lambda: Counter(1))
    seen: list[Received] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        with contextlib.suppress(LinkDownError):
            async for message in self.link.messages():
                self.seen.append(message)
                self.news.set()

    def seal(self, message: Message) -> bytes:
        return seal(
            message,
            federation=FEDERATION,
            signer=COORDINATOR,
            counter=self.counter.next(),
            key=self.federation.coordinator,
        )

    async def is_online(self) -> None:
        state = self.seal(CoordinatorState(status="online", session=1))
        topic = self.federation.topics.coordinator_state
        await self.link.publish(topic, state, retain=True)

    async def publish(self, publication: Publication) -> None:
        for topic, chunk in publication.chunks.items():
            await self.link.publish(topic, chunk, retain=True)
        await self.link.publish(self.federation.topics.head, publication.envelope, retain=True)

    async def send(self, message: Message) -> None:
        await self.link.publish(self.federation.topics.to(AGENT), self.seal(message))

    async def settle(self, header: UpdateHeader, status: str, version: int = 0) -> None:
        receipt = Receipt(
            incarnation=header.incarnation,
            sequence=header.sequence,
            status=status,  # type: ignore[arg-type]
            version=version,
        )
        await self.send(Receipts(items=(receipt,)))

    async def first(self, accept: Callable[[Received], T | None], after: int = 0) -> T:
        """Wait for the first message after so many for which `accept` returns something."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                self.news.clear()
                for message in self.seen[after:]:
                    found = accept(message)
                    if found is not None:
                        return found
                await self.news.wait()

    async def state(self, status: str, after: int = 0, above_session: int = 0) -> AgentState:
        """Wait for a birth (`online`) or a will of the agent, verified with its key."""

        def accept(message: Received) -> AgentState | None:
            if message.topic != self.federation.topics.state(AGENT):
                return None
            state = self.verified(message.payload, AgentState)
            return state if state.status == status and state.session > above_session else None

        return await self.first(accept, after)

    async def header(self, sequence: int) -> UpdateHeader:
        """Wait for the header of an update."""

        def accept(message: Received) -> UpdateHeader | None:
            if not message.topic.endswith(f"/{sequence}/h"):
                return None
            return self.verified(message.payload, UpdateHeader)

        return await self.first(accept)

    async def report(self) -> Report:
        """Wait for the agent's judgement."""
        topic = self.federation.topics.report(AGENT)
        return await self.first(
            lambda message: (
                self.verified(message.payload, Report) if message.topic == topic else None
            )
        )

    async def content(self, header: UpdateHeader) -> bytes:
        """Wait until every chunk of an update came."""
        assembly = Assembly(header.content)

        def accept(message: Received) -> bytes | None:
            at = self.federation.topics.base + "/up/"
            if not message.topic.startswith(at) or message.topic.endswith("/h"):
                return None
            topic = self.federation.topics.parse_update(message.topic)
            if topic.sequence == header.sequence and topic.chunk is not None:
                assembly.add(topic.chunk, message.payload)
            return None if assembly.missing else assembly.join()

        return await self.first(accept)

    def verified(self, payload: bytes, what: type[T]) -> T:
        key = self.identity.key.public
        return unseal(payload, what, federation=FEDERATION, signer=AGENT, key=key)[0]

    def headers_seen(self) -> set[int]:
        topics = self.federation.topics
        return {
            topics.parse_update(message.topic).sequence
            for message in self.seen
            if message.topic.endswith("/h")
        }


def state_like(birth: AgentState, identity: Identity, **changes: object) -> bytes:
    """A state of the agent, signed with its key, as a broker might retain it."""
    state = msgspec.structs.replace(birth, **changes)
    return seal(state, federation=FEDERATION, signer=AGENT, counter=1, key=identity.key)


def children_of(process: "subprocess.Popen[str]") -> list[str]:
    """Ids of the processes that a process started (proc_pid_task(5))."""
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def is_alive(pid: str) -> bool:
    """Whether there is a process of this id."""
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def machine(start_machine: StartMachine) -> Machine:
    return start_machine()


@pytest.fixture
def site(
    tmp_path: Path, federation: Federation, machine: Machine, broker: Broker
) -> Iterator[Site]:
    """An agent that was not started yet; its processes end with the test."""
    config = tmp_path / "agent.toml"
    config.write_text(
        agent_toml(
            federation,
            broker_port=broker.port,
            endpoint=machine.endpoint,
            namespace_uri=NAMESPACE_URI,
        )
    )
    made = Site(config)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


Scenario = Callable[[Coordinator], Awaitable[None]]
RunScenario = Callable[[Scenario], None]


@pytest.fixture
def beside(federation: Federation, identity: Identity, broker: Broker) -> RunScenario:
    """Run a test's scenario as the coordinator of the broker."""

    @contextlib.asynccontextmanager
    async def coordinator() -> AsyncIterator[Coordinator]:
        async with connect(BrokerSettings(port=broker.port), COORDINATOR) as link:
            made = Coordinator(federation, identity, link)
            listening = asyncio.create_task(made.listen())
            await link.subscribe([f"{federation.topics.base}/#"])
            try:
                yield made
            finally:
                listening.cancel()

    def run(scenario: Scenario) -> None:
        async def body() -> None:
            async with coordinator() as made:
                await scenario(made)

        asyncio.run(body())

    return run


def test_an_agent_is_born_learns_delivers_and_settles(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        birth = await coordinator.state("online")
        assert (birth.session > 0, birth.produced) == (True, 0)
        await coordinator.publish(federation.publish(1, version=3))
        status = await site.until(lambda at: at.produced == 1)
        assert (status.coordinator, coordinator.headers_seen()) == ("unknown", set())
        await coordinator.is_online()
        header = await coordinator.header(1)
        assert (header.incarnation, header.base_version) == (birth.incarnation, 3)
        assert header.weight == header.examples >= POLICY.min_rows
        steps = read_integers(
            await coordinator.content(header), header.bits, len(flatten(federation.start))
        )
        assert steps.any()
        report = await coordinator.report()
        assert report.head == 1
        await coordinator.settle(header, "committed")
        await site.until(lambda at: at.outcomes == {"committed": 1})
        await coordinator.settle(header, "folded", version=4)
        status = await site.until(lambda at: at.outcomes == {"folded": 1})
        assert (status.train_version, status.link, status.source) == (3, "up", "subscribed")
        assert status.scored > 0
        assert status.learning == "waiting for a version after 3"

    beside(scenario)


def test_a_late_will_is_answered_by_a_new_birth(
    site: Site, beside: RunScenario, identity: Identity
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        birth = await coordinator.state("online")
        late = state_like(birth, identity, status="offline", session=birth.session - 1)
        topic = coordinator.federation.topics.state(AGENT)
        before = len(coordinator.seen)
        await coordinator.link.publish(topic, late, retain=True)
        again = await coordinator.state("online", after=before)
        assert (again.incarnation, again.session) == (birth.incarnation, birth.session)

    beside(scenario)


@pytest.mark.parametrize("evidence", ["state", "watermark", "other content", "conflict"])
def test_a_card_that_was_restored_or_copied_begins_a_new_incarnation(
    site: Site, beside: RunScenario, federation: Federation, identity: Identity, evidence: str
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.is_online()
        await coordinator.publish(federation.publish(1))
        header = await coordinator.header(1)
        birth = await coordinator.state("online")
        about = {"incarnation": header.incarnation, "sequence": 1, "status": "refused"}
        match evidence:
            case "state":  # somebody had this incarnation after the backup was made
                later = AgentState(
                    status="offline",
                    incarnation=birth.incarnation,
                    session=birth.session + 7,
                    produced=100,
                    credential=birth.credential,
                )
                state = seal(
                    later, federation=FEDERATION, signer=AGENT, counter=9, key=identity.key
                )
                topic = federation.topics.state(AGENT)
                await coordinator.link.publish(topic, state, retain=True)
            case "watermark":
                await coordinator.send(Receipts(incarnation=birth.incarnation, highest=2))
            case "other content":
                other = msgspec.convert({**about, "digest": bytes(32)}, Receipt)
                await coordinator.send(Receipts(items=(other,)))
            case _:
                digest = header.content.digest
                fields = {**about, "digest": digest, "reason": f"{CONFLICT}: another hash"}
                await coordinator.send(Receipts(items=(msgspec.convert(fields, Receipt),)))

        def is_new(message: Received) -> AgentState | None:
            if message.topic != federation.topics.state(AGENT):
                return None
            state = coordinator.verified(message.payload, AgentState)
            is_new = state.incarnation != birth.incarnation and state.status == "online"
            return state if is_new else None

        again = await coordinator.first(is_new)
        assert again.session > birth.session
        status = await site.until(lambda at: at.refused.startswith("incarnation"))
        assert birth.incarnation in status.refused
        if evidence == "conflict":  # that update is over
            await site.until(lambda at: at.outcomes.get("refused") == 1)
        else:  # the update from before keeps its id, and is offered on until it has its outcome
            await coordinator.settle(header, "committed")
            await site.until(lambda at: at.outcomes.get("committed") == 1)

    beside(scenario)


def test_a_session_that_the_disk_forgot_is_passed_and_the_incarnation_goes_on(
    site: Site, beside: RunScenario, federation: Federation, identity: Identity
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        process = site.start()
        birth = await coordinator.state("online")
        process.kill()
        process.wait()
        state = state_like(birth, identity, status="offline", session=birth.session + 7)
        await coordinator.state("offline")
        await coordinator.link.publish(federation.topics.state(AGENT), state, retain=True)
        site.start()
        again = await coordinator.state("online", above_session=birth.session + 7)
        assert again.incarnation == birth.incarnation

    beside(scenario)


def test_an_old_incarnation_that_a_broker_brings_back_is_answered_with_a_birth(
    site: Site, beside: RunScenario, federation: Federation, identity: Identity
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.is_online()
        birth = await coordinator.state("online")
        await coordinator.send(Receipts(incarnation=birth.incarnation, highest=5))
        renewed = await coordinator.state("online", above_session=birth.session)
        assert renewed.incarnation != birth.incarnation
        before = len(coordinator.seen)
        old = state_like(birth, identity)
        await coordinator.link.publish(federation.topics.state(AGENT), old, retain=True)
        again = await coordinator.state("online", after=before + 1, above_session=birth.session)
        assert again.incarnation == renewed.incarnation

    beside(scenario)


def test_a_watermark_that_was_reached_here_means_nothing(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.is_online()
        await coordinator.publish(federation.publish(1))
        header = await coordinator.header(1)
        await coordinator.send(Receipts(incarnation=header.incarnation, highest=1))
        await coordinator.send(Receipts(incarnation="f" * 16, highest=100))
        await coordinator.settle(header, "committed")
        status = await site.until(lambda at: at.outcomes.get("committed") == 1)
        assert status.refused == ""
        assert {s.incarnation for s in [await coordinator.state("online")]} == {header.incarnation}

    beside(scenario)


def test_a_head_receipt_or_command_that_the_coordinator_did_not_sign_changes_nothing(
    site: Site, beside: RunScenario, federation: Federation, identity: Identity
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.is_online()
        await coordinator.publish(federation.publish(1))
        header = await coordinator.header(1)
        forged = federation.publish(2, version=9, key=identity.key)
        await coordinator.link.publish(federation.topics.head, forged.envelope)
        await site.until(lambda at: "signature does not verify" in at.refused)
        folded = Receipt(incarnation=header.incarnation, sequence=1, status="folded")
        for message in (Receipts(items=(folded,)), Command(name="pause")):
            envelope = seal(
                message, federation=FEDERATION, signer=COORDINATOR, counter=99, key=identity.key
            )
            await coordinator.link.publish(federation.topics.to(AGENT), envelope)
        garbage = federation.topics.to(AGENT)
        await coordinator.link.publish(garbage, b"\x00 garbage")
        status = await site.until(lambda at: "malformed" in at.refused)
        assert (status.head, status.outcomes) == (1, {"pending": 1})
        await coordinator.settle(header, "refused")
        await site.until(lambda at: at.outcomes == {"refused": 1})

    beside(scenario)


def test_pause_stops_training_and_resume_starts_it(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.is_online()
        await coordinator.state("online")
        await site.until(lambda at: at.link == "up" and at.rows >= POLICY.min_rows)
        await coordinator.send(Command(name="pause"))
        await coordinator.publish(federation.publish(1))
        status = await site.until(lambda at: at.learning == "paused by command")
        assert status.produced == 0
        await coordinator.send(Command(name="resume"))
        assert (await coordinator.header(1)).base_version == 0

    beside(scenario)


def test_a_changed_file_is_applied_on_sighup_and_a_wrong_one_changes_nothing(
    site: Site, beside: RunScenario
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        process = site.start()
        first = await coordinator.state("online")
        await site.until(lambda at: at.link == "up" and at.rows >= 3)
        text = site.config.read_text()

        async def reload(changed: str, expected: str) -> Status:
            site.config.write_text(changed)
            process.send_signal(signal.SIGHUP)
            return await site.until(lambda at: expected in at.configuration)

        both = text.replace("interval_ms = 50", "interval_ms = 20").replace(
            "keepalive_s = 2", "keepalive_s = 5"
        )
        status = await reload(both, "applied: source.opcua, broker.keepalive_s")
        before = status.samples
        await coordinator.state("online", above_session=first.session)
        status = await site.until(lambda at: at.samples > before + 20 and at.source == "subscribed")
        rows = status.rows
        await reload(both.replace("pause_s = 0.1", "pause_s = no"), "not applied: ")
        await reload(both.replace('"state"', '"other"'), "restart only: agent.state_dir")
        await site.until(lambda at: at.rows > rows + 3)
        assert process.poll() is None
        assert "Traceback" not in site.log()

    beside(scenario)


def test_settings_that_the_coordinator_orders_are_tried_kept_and_told(
    site: Site, beside: RunScenario
) -> None:
    more = '\n[remote]\nallow = ["pause", "configure"]\n'
    site.config.write_text(site.config.read_text() + more)

    async def scenario(coordinator: Coordinator) -> None:
        process = site.start()
        await site.until(lambda at: at.link == "up" and at.rows >= 3)
        tables = "[training]\npause_s = 33.0\n"
        order = Command(name="configure", number=7, tables=tables, deadline_s=10)
        await coordinator.send(order)

        async def told(status: str) -> AgentState:
            def accept(message: Received) -> AgentState | None:
                if message.topic != coordinator.federation.topics.state(AGENT):
                    return None
                state = coordinator.verified(message.payload, AgentState)
                return state if state.order is not None and state.order.status == status else None

            return await coordinator.first(accept)

        assert (await told("trial")).order is not None
        done = (await told("done")).order
        assert done is not None
        assert (done.number, done.reason) == (7, "applied: training.pause_s")
        process.terminate()
        process.wait()
        site.start()
        await site.until(lambda at: at.pid != process.pid and at.link == "up")
        assert "pause_s = 33.0" in (site.config.parent / "state" / "remote.toml").read_text()
        assert (await site.until(lambda at: at.order.startswith("7, done"))).rows > 0

    beside(scenario)


def test_a_refused_bundle_is_said_and_the_model_in_use_goes_on_scoring(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.publish(federation.publish(1))
        await site.until(lambda at: at.head == 1)
        broken = bytearray(federation.bundle)
        broken[-100] ^= 1
        await coordinator.publish(federation.publish(2, version=1, bundle=bytes(broken)))
        status = await site.until(lambda at: "author keys" in at.refused)
        later = await site.until(lambda at: at.scored > status.scored + 20)
        assert (later.head, later.train_version) == (1, 0)

    beside(scenario)


def test_a_second_agent_on_the_same_state_directory_is_refused(
    site: Site, beside: RunScenario
) -> None:
    async def scenario(_coordinator: Coordinator) -> None:
        first = site.start()
        await site.until(lambda at: at.link == "up")
        second = site.start()
        assert await asyncio.to_thread(second.wait, DEADLINE_S) == 2
        assert "another agent runs on it" in site.log()
        assert "Traceback" not in site.log()
        assert first.poll() is None

    beside(scenario)


def test_sigterm_while_training_ends_with_0_within_5_seconds_and_leaves_a_will_and_no_child(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        process = site.start()
        await coordinator.is_online()
        await coordinator.publish(federation.publish(1))
        await coordinator.header(1)
        endless = msgspec.structs.replace(POLICY, epochs=1000, batch_size=1)
        await coordinator.publish(federation.publish(2, version=1, policy=endless))
        await site.until(lambda at: at.head == 2 and at.learning == "training")
        (child,) = children_of(process)
        birth = await coordinator.state("online")
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0
        assert time.monotonic() - started < 5
        will = await coordinator.state("offline")
        assert will.session == birth.session
        assert not is_alive(child)
        assert "Traceback" not in site.log()

    beside(scenario)


def test_sigterm_ends_within_5_seconds_though_the_machine_hangs(
    site: Site, beside: RunScenario, start_machine: StartMachine, machine: Machine
) -> None:
    hanging = start_machine()

    async def scenario(_coordinator: Coordinator) -> None:
        site.config.write_text(site.config.read_text().replace(machine.endpoint, hanging.endpoint))
        process = site.start()
        await site.until(lambda at: at.rows > 10)
        hanging.process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0
            assert time.monotonic() - started < 5
        finally:
            hanging.process.send_signal(signal.SIGCONT)

    beside(scenario)


def test_after_kill_9_the_agent_goes_on_where_it_was(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        first = site.start()
        await coordinator.is_online()
        await coordinator.publish(federation.publish(1))
        header = await coordinator.header(1)
        birth = await coordinator.state("online")
        before = await site.until(lambda at: at.produced == 1)
        first.kill()
        first.wait()
        site.start()
        born_again = await coordinator.state("online", above_session=birth.session)
        assert born_again.incarnation == birth.incarnation
        assert born_again.produced == 1
        status = await site.until(
            lambda at: (
                at.pid != first.pid
                and at.link == "up"
                and at.learning == "waiting for a version after 0"
            )
        )
        assert (status.produced, status.head) == (1, 1)
        assert status.rows >= before.rows
        await coordinator.settle(header, "folded", version=1)
        await site.until(lambda at: at.outcomes == {"folded": 1})
        await coordinator.publish(federation.publish(2, version=1, train=federation.moved(0.01)))
        following = await coordinator.header(2)
        assert (following.base_version, following.incarnation) == (1, birth.incarnation)
        assert coordinator.headers_seen() == {1, 2}

    beside(scenario)


def test_what_was_trained_during_an_outage_arrives_after_it(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.publish(federation.publish(1, version=0))
        await site.until(lambda at: at.produced == 1)
        offline = coordinator.seal(CoordinatorState(status="offline", session=1))
        await coordinator.link.publish(federation.topics.coordinator_state, offline, retain=True)
        await coordinator.publish(federation.publish(2, version=1))
        await site.until(lambda at: at.produced == 2)
        assert coordinator.headers_seen() == set()
        await coordinator.is_online()
        headers = [await coordinator.header(sequence) for sequence in (1, 2)]
        assert [header.base_version for header in headers] == [0, 1]

    beside(scenario)


def test_a_late_will_of_the_coordinator_does_not_stop_delivery(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    """Nothing else would ever tell an agent that the coordinator is there."""

    async def scenario(coordinator: Coordinator) -> None:
        birth = CoordinatorState(status="online", session=1, connection=2)
        will = CoordinatorState(status="offline", session=1, connection=1)
        site.start()
        await site.until(lambda at: at.link == "up")
        for state in (birth, will):
            sealed = coordinator.seal(state)
            await coordinator.link.publish(federation.topics.coordinator_state, sealed)
        await coordinator.publish(federation.publish(1, version=0))
        header = await coordinator.header(1)
        assert header.base_version == 0
        assert "an earlier connection of the coordinator is offline" in site.log()

    beside(scenario)


def test_a_wrong_password_file_ends_with_2_and_a_sentence(site: Site, beside: RunScenario) -> None:
    async def scenario(_coordinator: Coordinator) -> None:
        site.config.write_text(
            site.config.read_text().replace(
                "[broker]\n", '[broker]\nusername = "gw"\npassword_file = "nowhere"\n'
            )
        )
        assert await asyncio.to_thread(site.start().wait, DEADLINE_S) == 2
        assert "broker.password_file: can not read" in site.log()
        assert "Traceback" not in site.log()

    beside(scenario)


def test_a_broker_that_lost_everything_is_told_everything_again(
    site: Site, beside: RunScenario, federation: Federation, broker: Broker
) -> None:
    first: list[AgentState] = []

    async def before(coordinator: Coordinator) -> None:
        site.start()
        await coordinator.is_online()
        await coordinator.publish(federation.publish(1))
        first.append(await coordinator.state("online"))
        await coordinator.header(1)
        broker.kill()

    async def after(coordinator: Coordinator) -> None:
        birth = await coordinator.state("online", above_session=first[0].session)
        assert (birth.incarnation, birth.produced) == (first[0].incarnation, 1)
        await coordinator.is_online()
        header = await coordinator.header(1)
        wanted = Receipt(
            incarnation=header.incarnation, sequence=1, status="wanted", wanted=b"\x01"
        )
        await coordinator.send(Receipts(items=(wanted,)))
        assert len(await coordinator.content(header)) == header.content.size
        await coordinator.settle(header, "folded", version=1)
        await site.until(lambda at: at.outcomes == {"folded": 1})

    beside(before)
    broker.start()
    beside(after)


def test_a_replayed_command_changes_nothing_even_after_a_restart(
    site: Site, beside: RunScenario, federation: Federation
) -> None:
    async def scenario(coordinator: Coordinator) -> None:
        first = site.start()
        await coordinator.is_online()
        await site.until(lambda at: at.link == "up")
        pause = coordinator.seal(Command(name="pause"))
        inbox = federation.topics.to(AGENT)
        await coordinator.link.publish(inbox, pause)
        await coordinator.publish(federation.publish(1))
        await site.until(lambda at: at.learning == "paused by command")
        first.kill()
        first.wait()

        site.start()
        await site.until(lambda at: at.pid != first.pid and at.link == "up")
        assert (await site.until(lambda at: at.head == 1)).learning == "paused by command"
        await coordinator.send(Command(name="resume"))
        await coordinator.header(1)
        await coordinator.link.publish(inbox, pause)
        await coordinator.publish(federation.publish(2, version=1))
        await coordinator.header(2)
        assert "told to pause" not in site.log()
        assert "command: counter" in site.log()

    beside(scenario)
