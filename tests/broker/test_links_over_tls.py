"""The product's own link over TLS with client certificates, in both protocols."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from tests.broker.conftest import FEDERATION, MakeBroker, RealBroker
from tests.broker.probe import Protocol
from tests.broker.rights import TOPICS, TREE
from wire.certificates import (
    issue_client,
    make_authority,
    read_authority,
    read_client,
    write_certificate,
    write_key,
)
from wire.errors import LinkDownError, SettingsError
from wire.issuing import client_certificate, new_key
from wire.mqtt import BrokerSettings, Link, Received, Will, connect

PROTOCOLS: tuple[Protocol, ...] = ("3.1.1", "5")
both_protocols = pytest.mark.parametrize("protocol", PROTOCOLS)
STATE = TOPICS.state("press-1")
WILL = Will(STATE, b"offline")


@pytest.fixture(scope="module")
def broker(make_broker: MakeBroker) -> Iterator[RealBroker]:
    """A broker with the shipped configuration."""
    made = make_broker("acl")
    made.start()
    yield made
    made.kill()


@pytest.fixture
def other_authority(tmp_path: Path) -> Path:
    """A federation of the same name, with the same agents and another CA."""
    directory = tmp_path / "other"
    directory.mkdir()
    make_authority(directory, FEDERATION)
    issue_client(directory, "press-1")
    return directory


async def taken(link: Link, number: int) -> list[Received]:
    """The next messages."""
    found: list[Received] = []
    async with asyncio.timeout(20):
        async for message in link.messages():
            found.append(message)
            if len(found) == number:
                break
    return found


def failure(settings: BrokerSettings, client_id: str = "press-1") -> str:
    """The error by which a connection attempt ends."""

    async def attempt() -> None:
        async with connect(settings, client_id):
            pass

    with pytest.raises((LinkDownError, SettingsError)) as caught:
        asyncio.run(attempt())
    return str(caught.value)


@both_protocols
def test_birth_update_receipt_and_will_cross_tls(broker: RealBroker, protocol: Protocol) -> None:
    async def scenario() -> tuple[list[Received], list[Received], list[Received]]:
        async with connect(broker.settings("coordinator", protocol), "coordinator") as coordinator:
            await coordinator.subscribe([TOPICS.all_states, TOPICS.all_updates])
            async with connect(broker.settings("press-1", protocol), "press-1", WILL) as agent:
                await agent.subscribe([TOPICS.to("press-1")])
                await agent.publish(STATE, b"online", retain=True)
                await agent.publish(TREE["own header"], b"header")
                await agent.publish(TREE["own chunk"], bytes(120_000))
                there = await taken(coordinator, 3)
                await coordinator.publish(TOPICS.to("press-1"), b"receipt")
                back = await taken(agent, 1)
                agent.abort()
            return there, back, await taken(coordinator, 1)

    there, back, last = asyncio.run(scenario())
    assert [(message.topic, len(message.payload)) for message in there] == [
        (STATE, 6),
        (TREE["own header"], 6),
        (TREE["own chunk"], 120_000),
    ]
    assert back == [Received(TOPICS.to("press-1"), b"receipt", retained=False)]
    assert last == [Received(STATE, b"offline", retained=False)]
    watcher = broker.connect("watcher", protocol)
    assert watcher.retained(STATE) == b"offline"
    watcher.publish(STATE, b"", retain=True)
    watcher.close()


@both_protocols
def test_a_link_comes_back_after_the_broker_was_killed(
    make_broker: MakeBroker, protocol: Protocol
) -> None:
    broker = make_broker("acl")
    broker.start()
    settings = broker.settings("press-1", protocol)

    async def scenario() -> None:
        async with connect(settings, "press-1", WILL) as link:
            await link.publish(STATE, b"online", retain=True)
            broker.kill()
            with pytest.raises(LinkDownError):
                await taken(link, 1)
        with pytest.raises(LinkDownError, match=f"localhost:{broker.port}"):
            async with connect(settings, "press-1", WILL):
                pass
        broker.start()
        async with connect(settings, "press-1", WILL) as link:
            await link.subscribe([STATE])
            await link.publish(STATE, b"online again", retain=True)
            assert (await taken(link, 1))[0].payload == b"online again"

    asyncio.run(scenario())
    broker.kill()


@both_protocols
def test_a_refused_message_is_an_error_in_mqtt_5_and_silence_in_mqtt_3(
    broker: RealBroker, protocol: Protocol
) -> None:
    async def scenario() -> None:
        async with connect(broker.settings("press-1", protocol), "press-1") as link:
            await link.publish(TREE["another's report"], b"mine")
            await link.publish(TREE["own report"], b"mine")

    if protocol == "5":
        with pytest.raises(LinkDownError, match=r"[Nn]ot authorized"):
            asyncio.run(scenario())
    else:
        asyncio.run(scenario())


@both_protocols
def test_a_broker_of_another_ca_is_refused_by_name(
    broker: RealBroker, protocol: Protocol, other_authority: Path
) -> None:
    settings = broker.settings("press-1", protocol)
    said = failure(msgspec.structs.replace(settings, ca_file=str(other_authority / "ca.crt")))
    assert f"localhost:{broker.port}" in said
    assert "CERTIFICATE_VERIFY_FAILED" in said


@both_protocols
def test_a_certificate_of_another_ca_is_refused_by_the_broker(
    broker: RealBroker,
    protocol: Protocol,
    other_authority: Path,
    certificates: Path,
) -> None:
    (other_authority / "ca.crt").write_bytes((certificates / "ca.crt").read_bytes())
    before = len(broker.log)
    said = failure(broker.settings("press-1", protocol, certificates=other_authority))
    assert f"localhost:{broker.port} did not accept" in said
    assert str(other_authority / "press-1.crt") in said
    broker.until_logged("certificate verify failed", before)
    assert "New client connected" not in broker.log[before:]


def issue(directory: Path, certificates: Path, days: int) -> None:
    """A certificate for press-1 of the federation's CA, made long ago and valid for `days`."""
    authority, key = read_authority(certificates), new_key()
    made = datetime.now(UTC) - timedelta(days=10)
    certificate = client_certificate(authority, "press-1", key.public_key(), made, days=days)
    write_key(directory / "press-1.tls.key", key)
    write_certificate(directory / "press-1.crt", certificate)
    (directory / "ca.crt").write_bytes((certificates / "ca.crt").read_bytes())


@both_protocols
@pytest.mark.parametrize(("days", "is_valid"), [(9, False), (11, True)])
def test_an_expired_certificate_is_refused_and_the_log_says_why(
    broker: RealBroker,
    protocol: Protocol,
    certificates: Path,
    tmp_path: Path,
    days: int,
    *,
    is_valid: bool,
) -> None:
    issue(tmp_path, certificates, days)
    before = len(broker.log)
    if is_valid:
        client = broker.connect("press-1", protocol, certificates=tmp_path)
        assert client.accepted == 0
        client.close()
        return
    said = failure(broker.settings("press-1", protocol, certificates=tmp_path))
    assert f"localhost:{broker.port} did not accept" in said
    assert str(tmp_path / "press-1.crt") in said
    broker.until_logged("certificate verify failed", before)
    assert "New client connected" not in broker.log[before:]


def local_check(directory: Path, ca: Path) -> str:
    """What the program says of its own three files before it connects."""
    certificate, key = directory / "press-1.crt", directory / "press-1.tls.key"
    with pytest.raises(SettingsError) as caught:
        read_client(ca, certificate, key, "press-1", datetime.now(UTC))
    return str(caught.value)


def test_the_program_names_its_file_that_the_broker_will_not_accept(
    certificates: Path, other_authority: Path, tmp_path: Path
) -> None:
    """Mosquitto logs `certificate verify failed` for all of these, so the client has to know."""
    foreign = local_check(other_authority, certificates / "ca.crt")
    assert str(other_authority / "press-1.crt") in foreign
    assert "not signed by this federation's CA" in foreign
    issue(tmp_path, certificates, 9)
    ended = local_check(tmp_path, certificates / "ca.crt")
    assert str(tmp_path / "press-1.crt") in ended
    assert "was valid until" in ended
