"""`configs/broker/` as it is shipped: it starts, its limits hold, and it knows every topic."""

import inspect
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from coordinator.config import read_coordinator_settings
from shopfloor.ports import free_port
from tests.broker.conftest import FEDERATION, WATCHER, MakeBroker, RealBroker
from tests.broker.probe import DEADLINE_S, Protocol
from tests.broker.rights import READS, TOPICS, TREE, WRITES
from wire.codec import MAX_BYTES
from wire.mqtt import WINDOW, BrokerSettings
from wire.topics import Topics

BOTH = pytest.mark.parametrize("protocol", ["3.1.1", "5"])


def shipped(repository: Path) -> dict[str, str]:
    """Settings of the shipped file; a key that is there twice has its last value."""
    text = (repository / "configs" / "broker" / "mosquitto.conf").read_text()
    lines = [line.partition(" ") for line in text.splitlines() if line and line[0] != "#"]
    return {key: value for key, _, value in lines}


def test_the_shipped_file_starts_as_it_is(make_broker: MakeBroker) -> None:
    broker = make_broker("acl")
    broker.start()
    assert "running" in broker.until_logged(r"mosquitto version .* running")
    assert "Error" not in broker.log
    assert "Duplicate" not in broker.log
    assert broker.connect("press-1").accepted == 0
    broker.kill()


def test_every_setting_is_explained(repository: Path) -> None:
    blocks = (repository / "configs" / "broker" / "mosquitto.conf").read_text().split("\n\n")
    for block in blocks:
        lines = block.strip().splitlines()
        assert lines[0].startswith("# "), block
        assert len(lines) > 1 or lines[0].startswith(("# ----", "# No "))


def uncomment(*keys: str) -> Callable[[str], str]:
    """An edit that takes the `#` away from these settings, as the file tells its reader to."""

    def edit(text: str) -> str:
        for key in keys:
            text, number = re.subn(rf"^#({key} )", r"\1", text, flags=re.MULTILINE)
            assert number == 1, key
        return text

    return edit


def test_the_loopback_listener_takes_a_password_and_nobody_without(
    make_broker: MakeBroker, repository: Path
) -> None:
    port = free_port()

    def edit(text: str) -> str:
        edited = uncomment("listener 1883", "password_file")(text)
        return edited.replace("listener 1883 ", f"listener {port} ")

    broker = make_broker("acl", edit)
    passwords = broker.directory / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-c", "-b", str(passwords), "coordinator", "secret"], check=True
    )
    broker.start()
    assert broker.connect("press-1").accepted == 0  # TLS as before, without a password
    for password, word in (("secret", b"\x00"), ("wrong", b"\x05")):
        assert connack(port, "coordinator", password)[3:4] == word
    broker.kill()


def connack(port: int, user: str, password: str) -> bytes:
    """What a broker answers to a plain CONNECT of MQTT 3.1.1 (section 3.1) with a password."""
    fields = [b"MQTT", b"probe", user.encode(), password.encode()]
    name, client_id, *login = [len(field).to_bytes(2, "big") + field for field in fields]
    body = name + b"\x04\xc2\x00\x3c" + client_id + b"".join(login)
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as link:
        link.sendall(bytes([0x10, len(body)]) + body)
        return link.recv(4)


def test_the_limits_fit_the_protocol(repository: Path) -> None:
    settings = shipped(repository)
    largest = max(MAX_BYTES[kind] for kind in ("head", "update", "receipts", "agent-state"))
    chunk_bytes = read_coordinator_settings(
        repository / "configs" / "coordinator.toml"
    ).coordinator.chunk_bytes
    assert int(settings["max_packet_size"]) >= max(largest, chunk_bytes) + 1024
    assert int(settings["max_inflight_messages"]) >= WINDOW
    keepalive = next(
        field for field in msgspec.structs.fields(BrokerSettings) if field.name == "keepalive_s"
    )
    assert f"le={settings['max_keepalive']}" in str(keepalive.type)


@BOTH
def test_a_packet_at_the_limit_passes_and_a_longer_one_ends_the_connection(
    guarded: Callable[[str], RealBroker], repository: Path, protocol: Protocol
) -> None:
    broker = guarded("acl")
    limit = int(shipped(repository)["max_packet_size"])
    watcher = broker.probe(WATCHER, protocol)
    watcher.subscribe(TREE["own report"])
    # Remaining length of a packet: topic with its length, packet identifier, properties of MQTT 5.
    beside = 2 + len(TREE["own report"]) + 2 + (1 if protocol == "5" else 0)
    for length, passes in ((limit - beside - 5, True), (limit + 1, False)):
        sender = broker.connect("press-1", protocol)
        if passes:
            assert sender.publish(TREE["own report"], bytes(length)) == 0
            assert len(watcher.heard()[TREE["own report"]]) == length
        else:
            sender.send(TREE["own report"], bytes(length))
            assert sender.ended.wait(DEADLINE_S)
            assert watcher.heard() == {}
        sender.abort()


def test_clients_of_mqtt_5_are_told_the_limits(
    guarded: Callable[[str], RealBroker], repository: Path
) -> None:
    settings = shipped(repository)
    client = guarded("acl").connect("press-1", "5")
    told = client.told
    assert str(told.MaximumPacketSize) == settings["max_packet_size"]
    assert str(told.ReceiveMaximum) == settings["max_inflight_messages"]
    client.close()


def test_connections_beyond_the_limit_are_closed_and_named(make_broker: MakeBroker) -> None:
    def edit(text: str) -> str:
        return text.replace("max_connections 1000", "max_connections 1")

    broker = make_broker("acl", edit)
    broker.start()
    first = broker.connect("press-1")
    assert not broker.lets_in("press-2")
    broker.until_logged("denied: max_connections exceeded")
    assert first.is_connected
    broker.kill()


def test_every_topic_of_the_protocol_has_its_rule() -> None:
    """A topic that somebody adds to `wire/topics.py` fails here until the rules know it."""
    arguments = {"agent": "press-1", "digest": "ab" * 32, "chunk": 0, "sequence": 1, "part": "h"}
    arguments["helper"] = "notary"
    arguments["incarnation"] = "0123456789abcdef"
    built: dict[str, str | list[str]] = {}
    for name, member in inspect.getmembers(Topics):
        if isinstance(member, property):
            built[name] = getattr(TOPICS, name)
        elif inspect.isfunction(member) and not name.startswith(("_", "parse", "agent_of")):
            needed = list(inspect.signature(member).parameters)[1:]
            built[name] = member(TOPICS, **{each: arguments[each] for each in needed})
    topics = {
        name: topic
        for name, topic in built.items()
        if name != "base" and isinstance(topic, str) and not set(topic.split("/")) & {"+", "#"}
    }
    assert {"head", "state", "to", "update", "model", "bundle", "report"} <= set(topics)
    known = {topic: what for what, topic in TREE.items()}
    for name, topic in topics.items():
        what = known.get(topic)
        assert what is not None, f"{name}: {topic} has no rule in tests/broker/rights.py"
        writers = [user for user in WRITES if what in WRITES[user]]
        readers = [user for user in READS if what in READS[user]]
        assert len(writers) == 1, f"{name} is written by {writers}"
        assert readers, f"{name} is read by nobody"


def test_the_federation_is_the_only_name_to_change(repository: Path) -> None:
    for name in ("acl", "dynamic-security.json"):
        text = (repository / "configs" / "broker" / name).read_text()
        rules = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        roots = set(re.findall(r"journeyman/v1/([^/\s\"]+)", rules))
        assert roots == {FEDERATION}, name


@pytest.mark.parametrize(("room", "arrive"), [(50, 60), (200, 200)])
def test_retained_chunks_beyond_the_queue_are_dropped_at_every_attempt(
    make_broker: MakeBroker, room: int, arrive: int
) -> None:
    """Why `max_queued_messages` stays above what is retained: a bridge asks for all at once."""

    def edit(text: str) -> str:
        text = text.replace("max_queued_messages 10000", f"max_queued_messages {room}")
        text = text.replace("sys_interval 10", "sys_interval 1")
        return text.replace("max_inflight_messages 100", "max_inflight_messages 10")

    broker = make_broker("acl", edit)
    broker.start()
    coordinator, agent = broker.connect("coordinator"), broker.connect("press-1")
    digest = "ab" * 32
    for number in range(200):
        coordinator.publish(TOPICS.model(digest, number), bytes(100), retain=True)
    for _ in range(2):
        agent.subscribe(TOPICS.model(digest, 0).removesuffix("0") + "+")
        chunks: set[str] = set()
        while heard := agent.heard():
            chunks |= set(heard)
        assert len(chunks) == arrive
    # What docs/broker.md tells to watch.
    counter, observer = "$SYS/broker/publish/messages/dropped", broker.connect("observer")
    deadline = time.monotonic() + DEADLINE_S
    while int(observer.retained(counter) or 0) != 2 * (200 - arrive):
        assert time.monotonic() < deadline, observer.retained(counter)
    broker.kill()
