"""Messages repeated and reordered on the way: legal MQTT to a real broker and real clients."""

import asyncio
import contextlib
import getpass
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopfloor.chaos.conversation import Conversation, Disturbance
from shopfloor.chaos.packets import (
    CONNECT,
    PUBACK,
    PUBLISH,
    Packet,
    PacketError,
    Splitter,
    acknowledged_id,
    protocol_level,
    read_publish,
    with_packet_id,
)
from shopfloor.links import FlakyLink, Link
from shopfloor.ports import free_port
from wire.mqtt import BrokerSettings, connect

CONNECT_311 = Packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x14\x00\x01c")
CONNECT_5 = Packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x14\x00\x00\x01c")


def publish(packet_id: int, payload: bytes = b"x", flags: int = 2) -> Packet:
    topic = b"a/b"
    head = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big")
    return Packet(PUBLISH << 4 | flags, head + payload)


def puback(packet_id: int) -> Packet:
    return Packet(PUBACK << 4, packet_id.to_bytes(2, "big"))


def ids(data: bytes) -> list[int]:
    """Packet identifiers of what is in a stream of PUBLISH and PUBACK."""
    return [
        acknowledged_id(packet) if packet.kind == PUBACK else read_publish(packet, 4).packet_id
        for packet in Splitter().feed(data)
    ]


def conversation(
    disturbance: Disturbance, seen: list[tuple[str, bytes]] | None = None
) -> Conversation:
    """A connection of MQTT 3.1.1 that has begun."""
    made = Conversation(
        disturbance,
        random.Random(1),
        lambda topic, payload: seen.append((topic, payload)) if seen is not None else None,
        lambda: None,
    )
    assert made.up(CONNECT_311.raw, 0.0) == CONNECT_311.raw
    return made


@given(
    st.lists(
        st.builds(Packet, st.integers(0x10, 0xFF), st.binary(max_size=300)), min_size=1, max_size=8
    ),
    st.data(),
)
def test_a_stream_gives_the_same_packets_however_it_is_cut(
    packets: list[Packet], data: st.DataObject
) -> None:
    stream = b"".join(packet.raw for packet in packets)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    splitter, found = Splitter(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])
    assert found == packets


@given(st.binary(max_size=200))
def test_any_bytes_are_packets_or_a_packet_error(data: bytes) -> None:
    try:
        for packet in Splitter().feed(data):
            if packet.kind == PUBLISH:
                read_publish(packet, 5)
            elif packet.kind == CONNECT:
                protocol_level(packet)
            elif packet.kind == PUBACK:
                acknowledged_id(packet)
    except PacketError:
        pass


def test_a_connect_tells_the_protocol() -> None:
    assert protocol_level(CONNECT_311) == 4
    assert protocol_level(CONNECT_5) == 5
    with pytest.raises(PacketError, match="not a CONNECT"):
        protocol_level(Packet(0x10, b"\x00\x04AMQP\x04"))


def test_the_payload_of_mqtt_5_begins_behind_the_properties() -> None:
    body = b"\x00\x01t" + b"\x00\x07" + b"\x02\x01\x01" + b"payload"
    message = read_publish(Packet(0x32, body), 5)
    assert (message.topic, message.qos, message.packet_id) == ("t", 1, 7)
    assert message.payload == b"payload"


def test_a_copy_with_its_own_identifier_is_no_redelivery() -> None:
    copy = with_packet_id(publish(7, b"payload", flags=0x0B), 65_535)
    assert copy.first & 0x08 == 0
    assert copy.first & 0x01 == 0x01  # still retained
    assert read_publish(copy, 4).packet_id == 65_535
    assert read_publish(copy, 4).payload == b"payload"


def test_a_quiet_link_passes_every_byte_and_tells_the_tape_what_the_client_published() -> None:
    seen: list[tuple[str, bytes]] = []
    quiet = conversation(Disturbance(), seen)
    stream = publish(1, b"one").raw + publish(2, b"two").raw + Packet(0xC0, b"").raw
    assert b"".join(quiet.up(stream[at : at + 1], 0.0) for at in range(len(stream))) == stream
    assert quiet.down(publish(9).raw, 0.0) == publish(9).raw
    assert seen == [("a/b", b"one"), ("a/b", b"two")]


def test_a_repeat_has_a_free_identifier_and_its_puback_goes_no_further() -> None:
    disturbance = Disturbance(share={"repeat": 1.0, "reorder": 0.0})
    link = conversation(disturbance)
    out = link.up(publish(1).raw, 0.0) + link.up(b"", 10.0)
    assert ids(out) == [1, 65_535]
    assert disturbance.done["repeat"] == 1
    assert link.down(puback(65_535).raw, 10.0) == b""
    assert link.down(puback(1).raw, 10.0) == puback(1).raw


def test_overtaken_messages_keep_their_identifiers_and_pubacks_come_in_order() -> None:
    disturbance = Disturbance(share={"repeat": 0.0, "reorder": 1.0})
    link = conversation(disturbance)
    held = link.up(publish(1).raw, 0.0)
    disturbance.share["reorder"] = 0.0
    out = held
    for packet_id in range(2, 8):
        out += link.up(publish(packet_id).raw, 0.0)
    assert sorted(ids(out)) == [1, 2, 3, 4, 5, 6, 7]
    assert ids(out)[0] != 1
    assert disturbance.done["reorder"] == 1
    assert link.down(puback(2).raw + puback(3).raw, 0.0) == b""
    assert ids(link.down(puback(1).raw, 0.0)) == [1, 2, 3]
    assert ids(link.down(puback(4).raw, 0.0)) == [4]


def test_a_message_that_nobody_overtakes_goes_out_when_its_time_has_come() -> None:
    disturbance = Disturbance(share={"repeat": 0.0, "reorder": 1.0})
    link = conversation(disturbance)
    assert link.up(publish(1).raw, 0.0) == b""
    assert ids(link.up(b"", 10.0)) == [1]
    assert disturbance.done["reorder"] == 0


def test_a_client_of_mqtt_5_is_told_the_packet_limit_and_may_not_exceed_it() -> None:
    made = Conversation(
        Disturbance(), random.Random(1), lambda *_: None, lambda: None, limit_bytes=1_000
    )
    made.up(CONNECT_5.raw, 0.0)
    said = made.down(Packet(0x20, b"\x00\x00\x03\x21\x00\x14").raw, 0.0)
    assert said == Packet(0x20, b"\x00\x00\x08\x21\x00\x14\x27\x00\x00\x03\xe8").raw
    body = b"\x00\x01t" + b"\x00\x07" + b"\x00"
    most = Packet(0x32, body + bytes(1_000 - 3 - len(body)))
    assert made.up(most.raw, 0.0) == most.raw
    with pytest.raises(PacketError, match="1001 bytes; at most 1000"):
        made.up(Packet(0x32, most.body + b"x").raw, 0.0)
    large = Packet(0x32, body + bytes(5_000))
    assert made.down(large.raw, 0.0) == large.raw


def test_a_sender_that_takes_the_identifier_of_a_repeat_loses_the_connection() -> None:
    link = conversation(Disturbance(share={"repeat": 1.0, "reorder": 0.0}))
    link.up(publish(1).raw, 0.0)
    with pytest.raises(PacketError, match="taken by a repeat"):
        link.up(publish(65_535).raw, 0.0)


@pytest.fixture
def broker_port(mosquitto_program: str, tmp_path: Path) -> Iterator[int]:
    """The port of a real mosquitto that ends with the test."""
    port = free_port()
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(
        f"listener {port} 127.0.0.1\nuser {getpass.getuser()}\nallow_anonymous true\n"
    )
    with (tmp_path / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([mosquitto_program, "-c", str(settings)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


async def carried(
    broker_port: int, protocol: str, disturbance: Disturbance, copies: int
) -> list[bytes]:
    """Publish 60 messages through a disturbed link; what a listener through another one got.

    After these the connections must still be there: one more message goes through.
    """
    ports = (free_port(), free_port())
    rng = random.Random(5)

    def carrier() -> Conversation:
        return Conversation(disturbance, rng, lambda _topic, _payload: None, lambda: None)

    settings = [
        BrokerSettings(port=port, protocol=protocol)  # type: ignore[arg-type]
        for port in ports
    ]
    got: list[bytes] = []
    async with contextlib.AsyncExitStack() as open_now:
        for name, port in zip("AB", ports, strict=True):
            link = FlakyLink(Link(name, port, broker_port), carrier=carrier)
            await open_now.enter_async_context(link)
        listener = await open_now.enter_async_context(connect(settings[0], "listener"))
        sender = await open_now.enter_async_context(connect(settings[1], "sender"))
        await listener.subscribe(["a/#"])
        async with asyncio.TaskGroup() as sends:
            for number in range(60):
                sends.create_task(sender.publish("a/b", b"%d" % number))
        async with asyncio.timeout(40):
            messages = listener.messages()
            while len(got) < 60 * copies:
                got.append((await anext(messages)).payload)
            disturbance.share.update(repeat=0.0, reorder=0.0)
            await sender.publish("a/after", b"after")
            assert (await anext(messages)).payload == b"after"
    return got


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_real_broker_and_real_clients_take_every_message_more_than_once(
    broker_port: int, protocol: str
) -> None:
    disturbance = Disturbance(share={"repeat": 1.0, "reorder": 0.0})
    got = Counter(asyncio.run(carried(broker_port, protocol, disturbance, copies=4)))
    assert len(got) == 60
    assert set(got.values()) == {4}  # twice on the way up, each of them twice on the way down
    assert disturbance.done["repeat"] == 60 + 120


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_real_broker_and_real_clients_take_messages_that_overtake_each_other(
    broker_port: int, protocol: str
) -> None:
    disturbance = Disturbance(share={"repeat": 0.0, "reorder": 0.5})
    got = asyncio.run(carried(broker_port, protocol, disturbance, copies=1))
    assert sorted(got, key=int) == [b"%d" % number for number in range(60)]
    assert got != sorted(got, key=int)
    assert disturbance.done["reorder"] > 10


@pytest.mark.parametrize(("protocol", "told"), [("3.1.1", None), ("5", 3_000)])
def test_a_real_client_of_mqtt_5_learns_the_packet_limit_of_its_link(
    broker_port: int, protocol: str, told: int | None
) -> None:
    def carrier() -> Conversation:
        rng = random.Random(1)
        return Conversation(Disturbance(), rng, lambda *_: None, lambda: None, limit_bytes=3_000)

    async def run() -> None:
        port = free_port()
        settings = BrokerSettings(port=port, protocol=protocol)  # type: ignore[arg-type]
        async with (
            FlakyLink(Link("A", port, broker_port), carrier=carrier),
            connect(settings, "client") as client,
        ):
            assert client.packet_bytes == told
            await client.publish("a", bytes(2_000))

    asyncio.run(run())


def test_who_does_not_speak_mqtt_is_cut_off(broker_port: int) -> None:
    async def run() -> None:
        def carrier() -> Conversation:
            return Conversation(Disturbance(), random.Random(1), lambda *_: None, lambda: None)

        port = free_port()
        async with FlakyLink(Link("A", port, broker_port), carrier=carrier), asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\x10\x05GET /")
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(run())
