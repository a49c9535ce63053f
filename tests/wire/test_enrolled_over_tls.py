"""What enrolment installed, against a real mosquitto that asks for certificates."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from agent.enrol import install, request
from wire.certificates import (
    issue_broker,
    issue_client,
    make_authority,
    read_authority,
    write_certificate,
    write_key,
)
from wire.enrolment import encode_token, new_token
from wire.enrolment_ledger import open_ledger
from wire.errors import LinkDownError
from wire.files import create_secret
from wire.issuing import client_certificate, new_key
from wire.keys import make_federation, read_enroller
from wire.mqtt import BrokerSettings, connect

AGENT = "gateway-1"
Protocol = Literal["3.1.1", "5"]
both_protocols = pytest.mark.parametrize("protocol", ["3.1.1", "5"])
StartBroker = Callable[..., Any]


@dataclass
class Plant:
    """A broker with TLS, and what an agent was enrolled with."""

    port: int
    directory: Path
    gateway: Path

    def settings(self, protocol: Protocol, **changes: str) -> BrokerSettings:
        """The agent's `[broker]` table."""
        files = {
            "ca_file": str(self.gateway / "ca.crt"),
            "cert_file": str(self.gateway / f"{AGENT}.crt"),
            "key_file": str(self.gateway / f"{AGENT}.tls.key"),
        }
        settings = BrokerSettings(port=self.port, protocol=protocol, ack_timeout_s=10)
        return msgspec.structs.replace(settings, **(files | changes))

    def client(self, name: str) -> dict[str, str]:
        """Files of a client whose key the authority made."""
        return {
            "cert_file": str(self.directory / f"{name}.crt"),
            "key_file": str(self.directory / f"{name}.tls.key"),
        }


def enrol(directory: Path, gateway: Path) -> None:
    """Token, request, grant, install."""
    now = datetime.now(UTC)
    enroller = read_enroller(directory)
    token = new_token(enroller, AGENT, "plant-a", int((now + timedelta(hours=1)).timestamp()))
    create_secret(directory / "token", encode_token(token).encode())
    with open_ledger(directory) as ledger:
        ledger.add(token, now)
        request(str(directory / "token"), gateway)
        data = (gateway / f"{AGENT}.request").read_bytes()
        (directory / "answer").write_bytes(ledger.grant(data, enroller, now, days=30))
    install(directory / "answer", gateway)


@pytest.fixture
def plant(tmp_path: Path, start_broker: StartBroker) -> Plant:
    """A mosquitto that takes the certificate's CN for the user's name, and its one agent."""
    directory, gateway = tmp_path / "authority", tmp_path / "gateway"
    make_federation(directory, "plant-net")
    make_authority(directory, "plant-net")
    issue_broker(directory, ["127.0.0.1"])
    enrol(directory, gateway)
    rules = tmp_path / "rules"
    rules.write_text("pattern readwrite only/%u\npattern read only/+\n")
    broker = start_broker(
        f"cafile {directory / 'ca.crt'}\n"
        f"certfile {directory / 'broker.crt'}\n"
        f"keyfile {directory / 'broker.key'}\n"
        "require_certificate true\n"
        "use_identity_as_username true\n"
        f"acl_file {rules}"
    )
    return Plant(broker.port, directory, gateway)


async def connects(settings: BrokerSettings) -> bool:
    """Whether the broker takes this client, proved by an answer after the connection."""
    try:
        async with connect(settings, "any-client-id") as link:
            await link.subscribe(["only/+"])
            return True
    except LinkDownError:
        return False


@both_protocols
def test_the_brokers_name_for_an_enrolled_agent_is_its_id(plant: Plant, protocol: Protocol) -> None:
    assert asyncio.run(connects(plant.settings(protocol)))
    (log,) = plant.directory.parent.glob("mosquitto-*.log")
    (line,) = [line for line in log.read_text().splitlines() if "New client connected" in line]
    assert "as any-client-id (" in line  # which a client may choose freely
    assert f"u'{AGENT}'" in line


async def arrives(plant: Plant, protocol: Protocol, name: str) -> bool:
    """Whether what the agent says as `name` comes to a listener, who then hears it as itself."""
    issue_client(plant.directory, "listener")
    listening = plant.settings(protocol, **plant.client("listener"))
    async with connect(listening, "listener") as listener:
        await listener.subscribe(["only/+"])
        # MQTT 5 has a reason code for a refusal; without one, mosquitto 2.0.11 acknowledges the
        # refused publish and closes the connection.
        with contextlib.suppress(LinkDownError):
            async with connect(plant.settings(protocol), "writer") as writer:
                await writer.publish(f"only/{name}", b"claimed")
        async with connect(plant.settings(protocol), "writer") as writer:
            await writer.publish(f"only/{AGENT}", b"the end")
        async for message in listener.messages():
            return message.payload == b"claimed"
    return False


@both_protocols
@pytest.mark.parametrize("name", [AGENT, "coordinator", "gateway-2"])
def test_an_enrolled_agent_may_write_as_itself_and_as_nobody_else(
    plant: Plant, protocol: Protocol, name: str
) -> None:
    assert asyncio.run(arrives(plant, protocol, name)) == (name == AGENT)


@both_protocols
def test_a_certificate_of_another_ca_is_refused(
    plant: Plant, protocol: Protocol, tmp_path: Path
) -> None:
    assert asyncio.run(connects(plant.settings(protocol)))
    other = tmp_path / "other"
    other.mkdir()
    make_authority(other, "plant-net")  # the same names in it, and another key
    issue_client(other, AGENT)
    foreign = Plant(plant.port, other, plant.gateway)
    assert not asyncio.run(connects(plant.settings(protocol, **foreign.client(AGENT))))


@both_protocols
def test_a_client_without_certificate_is_refused(plant: Plant, protocol: Protocol) -> None:
    assert not asyncio.run(connects(plant.settings(protocol, cert_file="", key_file="")))


@both_protocols
def test_an_ended_certificate_and_the_brokers_own_are_refused(
    plant: Plant, protocol: Protocol
) -> None:
    authority, key = read_authority(plant.directory), new_key()
    long_ago = datetime.now(UTC) - timedelta(days=400)
    ended = client_certificate(authority, "ended", key.public_key(), long_ago, days=397)
    write_key(plant.directory / "ended.tls.key", key)
    write_certificate(plant.directory / "ended.crt", ended)
    assert not asyncio.run(connects(plant.settings(protocol, **plant.client("ended"))))
    server = {
        "cert_file": str(plant.directory / "broker.crt"),
        "key_file": str(plant.directory / "broker.key"),
    }
    assert not asyncio.run(connects(plant.settings(protocol, **server)))


@both_protocols
def test_an_agent_refuses_a_broker_of_another_ca_or_name(
    plant: Plant, protocol: Protocol, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_authority(other, "plant-net")
    assert not asyncio.run(connects(plant.settings(protocol, ca_file=str(other / "ca.crt"))))
    assert not asyncio.run(connects(plant.settings(protocol, host="localhost")))
