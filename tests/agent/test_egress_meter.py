"""What a meter counts of streams and of real sockets: every byte, whatever becomes of them."""

import asyncio
import socket
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Identity
from agent.egress import Egress, LinkMeter
from agent.egress.classify import FederationMessages, Parts
from agent.egress.packets import KEPT_BYTES, Message, Packets
from tests.agent.conftest import Broker
from tests.agent.federation import AGENT, FEDERATION
from wire.codec import seal
from wire.errors import LinkDownError
from wire.messages import (
    BOX_BYTES,
    Choice,
    Content,
    Evaluation,
    Masked,
    Readiness,
    Report,
    SealedFigures,
    Statistics,
    UpdateHeader,
)
from wire.messages import Message as Signed
from wire.mqtt import BrokerSettings, Will, connect
from wire.topics import Topics

TOPICS = Topics(FEDERATION)
INCARNATION = "ab" * 8
CONNACK = b"\x20\x02\x00\x00"
MASKED = Masked(
    ring=32, ephemeral=bytes(32), commitments=(bytes(32),) * 3, boxes=(bytes(BOX_BYTES),) * 3
)
EVALUATION = Evaluation(digest=bytes(32), alarms=(3, 4))


def counted(stream: bytes, cuts: list[int]) -> Counter[str]:
    """What a meter counts of a stream that is handed over in these pieces, and then ends."""
    found: Counter[str] = Counter()
    meter = LinkMeter(
        lambda category, _, size: found.update({category: size}), FederationMessages()
    )
    ends = [*sorted(at % (len(stream) + 1) for at in cuts), len(stream)]
    begin = 0
    for end in ends:
        meter.sent(stream[begin:end])
        begin = end
    meter.ended()
    return found


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_any_bytes_in_any_pieces_are_counted_once(stream: bytes, cuts: list[int]) -> None:
    assert sum(counted(stream, cuts).values()) == len(stream)


@given(st.lists(st.integers(0, 10_000), max_size=12), st.integers(0, 5000))
def test_pieces_change_nothing_and_a_cut_only_the_last_packet(cuts: list[int], end: int) -> None:
    topic = TOPICS.state(AGENT).encode()
    body = len(topic).to_bytes(2, "big") + topic + b"\x00\x01" + b"x" * 300
    birth = b"\x32" + bytes([len(body) & 127 | 128, len(body) >> 7]) + body
    stream = (birth + b"\xc0\x00") * 5
    part = stream[: end % (len(stream) + 1)]
    assert counted(part, cuts) == counted(part, [])
    assert counted(part, [])["birth and will"] == 300 * part.count(birth)


def signed(message: Signed, identity: Identity) -> bytes:
    return seal(message, federation=FEDERATION, signer=AGENT, counter=1, key=identity.key)


def header(**changes: object) -> UpdateHeader:
    content = Content(digest=bytes(32), size=1000, chunk_bytes=500, chunks=(bytes(32),) * 2)
    made = UpdateHeader(
        agent=AGENT,
        incarnation=INCARNATION,
        sequence=7,
        lineage=0,
        base_version=0,
        base_digest=bytes(32),
        examples=64,
        weight=64,
        scale=0.001,
        bits=8,
        content=content,
    )
    return msgspec.structs.replace(made, **changes)


def parts(classify: FederationMessages, topic: str, payload: bytes) -> dict[str, int]:
    found: Parts = classify(Message(topic, payload, len(payload)))
    assert sum(size for _, size in found) == len(payload)
    return dict(found)


@pytest.mark.parametrize(
    ("changes", "category", "content"),
    [
        ({}, "update: header", "update: content"),
        ({"masked": MASKED}, "update: header", "update: masked content"),
        ({"encrypted": bytes(32)}, "update: header", "update: encrypted content"),
        ({"dropped": "quota"}, "update: tombstone", "update: content"),
    ],
)
def test_an_update_is_what_its_header_announces(
    changes: dict[str, object], category: str, content: str, identity: Identity
) -> None:
    classify = FederationMessages()
    topic = TOPICS.update(AGENT, INCARNATION, 7, "h")
    assert [*parts(classify, topic, signed(header(**changes), identity))] == [category]
    assert [*parts(classify, TOPICS.update(AGENT, INCARNATION, 7, 0), b"x" * 500)] == [content]


def test_a_report_is_divided_by_what_it_holds(identity: Identity) -> None:
    classify = FederationMessages()
    whole = Report(
        head=1,
        evaluations=(EVALUATION,),
        choice=Choice(model="local", evaluation=EVALUATION),
        statistics=Statistics(bundle=bytes(32), count=9, sums=(1.0,), squares=(2.0,)),
        sealed=(SealedFigures(header=b"h" * 100, vector=b"v" * 400),),
    )
    found = parts(classify, TOPICS.report(AGENT), signed(whole, identity))
    names = ["envelope", "evaluations", "choice", "statistics", "masked sums"]
    assert [*found] == [f"report: {name}" for name in names]
    assert found["report: evaluations"] == len(msgspec.msgpack.encode((EVALUATION,)))
    assert 500 < found["report: masked sums"] < 540
    empty = parts(classify, TOPICS.report(AGENT), signed(Report(head=1), identity))
    assert [*empty] == ["report: envelope"]


def test_the_histogram_of_a_readiness_is_told_apart(identity: Identity) -> None:
    classify, topic = FederationMessages(), TOPICS.ask(AGENT)
    bare = Readiness(base_version=1, examples=64)
    assert [*parts(classify, topic, signed(bare, identity))] == ["readiness"]
    full = msgspec.structs.replace(bare, novelty=(0.5,) * 16)
    assert parts(classify, topic, signed(full, identity))["readiness: histogram"] == 16 * 9 + 3


@pytest.mark.parametrize(
    "topic", ["elsewhere", "journeyman/v1/plant-net/head/x", TOPICS.ask(AGENT)]
)
def test_what_is_no_message_of_an_agent_is_unknown(topic: str) -> None:
    assert parts(FederationMessages(), topic, b"whatever") == {"unknown": 8}


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_a_real_client_is_counted_as_the_broker_got_it(protocol: str, broker: Broker) -> None:
    egress = Egress()
    settings = BrokerSettings(port=broker.port, protocol=protocol, username="u" * 20)  # type: ignore[arg-type]

    async def talk() -> None:
        will = Will(TOPICS.state(AGENT), b"w" * 400)
        meter = egress.broker("127.0.0.1", broker.port)
        async with connect(settings, AGENT, will, meter) as link:
            await link.subscribe([TOPICS.head])
            await link.publish(TOPICS.state(AGENT), b"b" * 500, retain=True)
            chunks = [(TOPICS.update(AGENT, INCARNATION, 1, at), b"c" * 9000) for at in range(40)]
            await link.publish_bulk(chunks)

    asyncio.run(talk())
    found = {line.category: (line.messages, line.bytes) for line in egress.account().lines}
    assert found["birth and will"] == (2, 900)
    assert found["update: content"] == (40, 360_000)
    assert found.keys() == {"birth and will", "update: content", "protocol"}


def test_what_a_cut_connection_took_is_counted_to_the_last_byte() -> None:
    """The other end reads some and resets: what the kernel took has left, as far as we know."""
    egress, got = Egress(), bytearray()

    def read_some(listener: socket.socket) -> None:
        held, _ = listener.accept()
        with held:
            while len(got) < 300_000:
                got.extend(held.recv(4096))
                if len(got) < 5000:
                    held.sendall(CONNACK)

    async def talk(listener: socket.socket) -> None:
        port = listener.getsockname()[1]
        reading = asyncio.create_task(asyncio.to_thread(read_some, listener))
        chunks = [(TOPICS.update(AGENT, INCARNATION, 1, at), b"c" * 9_000_000) for at in range(2)]
        meter = egress.broker("127.0.0.1", port)
        with pytest.raises(ExceptionGroup) as cut:
            async with connect(BrokerSettings(port=port), AGENT, None, meter) as link:
                await link.publish_bulk(chunks)
        assert cut.group_contains(LinkDownError)
        await reading

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(talk(listener))
    found = {line.category: line.bytes for line in egress.account().lines}
    assert found["cut short"] > 0
    assert sum(found.values()) >= len(got) >= 300_000
    assert "TLS" not in found, "what the kernel was given is what was counted"


def test_of_a_large_packet_little_is_kept() -> None:
    packets = Packets()
    size = 3_000_000
    digits = [size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21]
    whole = b"\x32" + bytes(digits) + b"\x00\x01t\x00\x01" + bytes(size - 5)
    (packet,) = packets.feed(whole)
    assert (packet.size, packet.body_size, len(packet.body)) == (len(whole), size, KEPT_BYTES)
    message = packets.message(packet)
    assert message is not None
    assert (message.topic, message.size) == ("t", size - 5)
