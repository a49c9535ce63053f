"""A plant's mosquitto bridged to the federation's, with the shipped files on both sides."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shopfloor.ports import free_port
from tests.broker.conftest import DEADLINE_S, WATCHER, MakeBroker, RealBroker
from tests.broker.probe import NOT_AUTHORIZED, Probe, Protocol
from tests.broker.rights import TOPICS, TREE
from tests.broker.wire_between import Between, between

PROTOCOLS: tuple[Protocol, ...] = ("3.1.1", "5")
both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)
ALLOWED = {
    "own header",
    "own chunk",
    "own header in another shard",
    "own state",
    "own report",
    "own ask",
    "own renewal",
}


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "never so"
        time.sleep(0.02)


@dataclass
class Plant:
    """The plant's broker, and the federation's behind it."""

    plant: RealBroker
    federation: RealBroker
    link: Between

    def until_bridged(self, after: int = 0) -> None:
        """Wait until the bridge has subscribed on the far side."""
        self.federation.until_logged(r"New (client|bridge) connected .* as bridge-plant-a", after)
        watcher, topic = self.federation.connect(WATCHER), TOPICS.to("press-1")
        reader = self.plant.connect("press-1")
        reader.subscribe(topic)

        def crossed() -> bool:
            watcher.publish(topic, b"are you there?")
            return bool(reader.heard())

        until(crossed)
        for client in (watcher, reader):
            client.close()


def federation_rules(broker: RealBroker, text: str) -> None:
    """Uncomment the lines for the bridge at the end of the shipped file."""
    commented = re.compile(r"^#((user|topic) )", re.MULTILINE)
    assert len(commented.findall(text)) == 8
    path = broker.directory / "acl"
    path.write_text(commented.sub(r"\1", text) + path.read_text().removeprefix(text))


@pytest.fixture(scope="module")
def plant(make_broker: MakeBroker, repository: Path, certificates: Path) -> Iterator[Plant]:
    """Two running brokers and the bridge between them."""
    shipped = repository / "configs" / "broker"
    federation = make_broker("acl")
    federation_rules(federation, (shipped / "acl").read_text())
    federation.start()
    with between(free_port(), federation.port) as link:

        def edit(text: str) -> str:
            bridge = (shipped / "bridge.conf").read_text()
            for old, new in (
                ("/etc/mosquitto/journeyman", str(certificates)),
                ("broker.example:8883", f"localhost:{link.port}"),
                ("restart_timeout 5 30", "restart_timeout 1"),
            ):
                assert old in bridge
                bridge = bridge.replace(old, new)
            return f"{text}\n{bridge}"

        both = Plant(make_broker("acl", edit), federation, link)
        both.plant.start()
        both.until_bridged()
        yield both
        both.plant.kill()
        both.federation.kill()


@pytest.fixture(scope="module")
def alone(make_broker: MakeBroker, repository: Path) -> Iterator[RealBroker]:
    """A federation's broker with the bridge's rights, and no bridge that would use its name."""
    broker = make_broker("acl")
    federation_rules(broker, (repository / "configs" / "broker" / "acl").read_text())
    broker.start()
    yield broker
    broker.kill()


def heard_soon(client: Probe, topic: str) -> bytes:
    """The next message on a topic that has to cross the bridge."""
    found: dict[str, bytes] = {}

    def arrived() -> bool:
        found.update(client.heard())
        return topic in found

    until(arrived)
    return found[topic]


@both_protocols
def test_an_update_and_its_receipt_cross_the_bridge(plant: Plant, protocol: Protocol) -> None:
    coordinator = plant.federation.connect("coordinator", protocol)
    agent = plant.plant.connect("press-1", protocol)
    coordinator.subscribe(TOPICS.all_updates, TOPICS.all_reports, TOPICS.all_asks)
    agent.subscribe(TOPICS.to("press-1"))
    for what, payload in (
        ("own header", b"header"),
        ("own chunk", bytes(120_000)),
        ("own report", b"counts"),
        ("own ask", b"may I train?"),
    ):
        agent.publish(TREE[what], payload)
        assert heard_soon(coordinator, TREE[what]) == payload
    coordinator.publish(TOPICS.to("press-1"), b"receipt")
    assert heard_soon(agent, TOPICS.to("press-1")) == b"receipt"
    for client in (agent, coordinator):
        client.close()


@both_protocols
@pytest.mark.parametrize(
    "what", ["head", "chunk of the bundle", "chunk of a model", "coordinator's state"]
)
def test_what_is_kept_for_all_is_kept_in_the_plant_until_it_is_cleared(
    plant: Plant, protocol: Protocol, what: str
) -> None:
    coordinator = plant.federation.connect("coordinator", protocol)
    agent = plant.plant.connect("press-1", protocol)
    coordinator.publish(TREE[what], b"kept", retain=True)
    until(lambda: agent.retained(TREE[what]) == b"kept")
    coordinator.publish(TREE[what], b"", retain=True)
    until(lambda: agent.retained(TREE[what]) is None)
    for client in (agent, coordinator):
        client.close()


@both_protocols
def test_birth_and_will_of_an_agent_are_kept_by_the_federations_broker(
    plant: Plant, protocol: Protocol
) -> None:
    coordinator, topic = plant.federation.connect("coordinator", protocol), TREE["own state"]
    agent = plant.plant.connect("press-1", protocol, will=(topic, b"offline"))
    agent.publish(topic, b"online", retain=True)
    until(lambda: coordinator.retained(topic) == b"online")
    agent.abort()
    until(lambda: coordinator.retained(topic) == b"offline")
    coordinator.close()


def test_the_bridge_comes_back_after_the_federations_broker_was_killed(plant: Plant) -> None:
    plant.federation.kill()
    before = len(plant.federation.log)
    plant.federation.start()
    plant.until_bridged(before)
    coordinator = plant.federation.connect("coordinator")
    agent = plant.plant.connect("press-1")
    coordinator.publish(TREE["head"], b"head", retain=True)
    until(lambda: agent.retained(TREE["head"]) == b"head")
    for client in (agent, coordinator):
        client.close()


def test_what_is_cleared_while_the_link_is_down_is_cleared_in_the_plant_afterwards(
    plant: Plant,
) -> None:
    topic = TREE["chunk of a model"]
    coordinator, agent = plant.federation.connect("coordinator"), plant.plant.connect("press-2")
    coordinator.publish(topic, b"old chunk", retain=True)
    until(lambda: agent.retained(topic) == b"old chunk")
    before = len(plant.federation.log)
    plant.link.cut()
    coordinator.publish(topic, b"", retain=True)
    assert agent.retained(topic) == b"old chunk"
    plant.link.mend()
    plant.until_bridged(before)
    until(lambda: agent.retained(topic) is None)
    for client in (agent, coordinator):
        client.close()


def test_a_model_crosses_the_link_once_however_many_agents_fetch_it(plant: Plant) -> None:
    topics = [TOPICS.model("cd" * 32, number) for number in range(20)]
    coordinator = plant.federation.connect("coordinator")
    before = plant.link.down_bytes
    for topic in topics:
        coordinator.publish(topic, bytes(10_000), retain=True)
    for name in ("press-1", "press-2", "newcomer"):
        agent = plant.plant.connect(name)
        until(lambda agent=agent: len(agent.retained(topics[-1]) or b"") == 10_000)  # type: ignore[misc]
        agent.subscribe(TOPICS.model("cd" * 32, 0).rpartition("/")[0] + "/+")
        assert len(agent.heard()) == 20
        agent.close()
    crossed = plant.link.down_bytes - before
    assert 200_000 < crossed < 210_000
    for topic in topics:
        coordinator.publish(topic, b"", retain=True)
    coordinator.close()


@both_protocols
@pytest.mark.parametrize("what", TREE)
def test_the_bridge_speaks_for_its_own_agents_and_for_nobody_else(
    alone: RealBroker, protocol: Protocol, what: str
) -> None:
    watcher, bridge = alone.probe(WATCHER, protocol), alone.probe("bridge-plant-a", protocol)
    watcher.subscribe("#")
    watcher.heard()
    code = bridge.publish(TREE[what], b"from the plant", retain=True)
    seen = TREE[what] in watcher.heard()
    watcher.publish(TREE[what], b"", retain=True)
    assert seen == (what in ALLOWED)
    if protocol == "5":
        assert code == (0 if what in ALLOWED else NOT_AUTHORIZED)
    bridge.subscribe(TREE[what])
    watcher.publish(TREE[what], b"into the plant")
    heard = TREE[what] in bridge.heard()
    bridge.unsubscribe(TREE[what])
    published_for_all = {
        "head",
        "chunk of the bundle",
        "chunk of a model",
        "coordinator's state",
        "list of revoked",
        "charter",
    }
    assert heard == (what in published_for_all | {"own inbox", "own renewed"})
