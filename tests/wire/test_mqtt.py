"""The MQTT link against a real mosquitto, in both protocols."""

import asyncio
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from shopfloor import links
from shopfloor.links import FlakyLink
from shopfloor.ports import free_port
from wire.errors import LinkDownError, PacketTooLargeError, SettingsError
from wire.mqtt import INBOX, WINDOW, BrokerSettings, Link, Received, Will, connect

Protocol = Literal["3.1.1", "5"]
both_protocols = pytest.mark.parametrize("protocol", ["3.1.1", "5"])
StartBroker = Callable[..., Any]


def settings(port: int, protocol: Protocol = "3.1.1", **more: Any) -> BrokerSettings:
    return BrokerSettings(port=port, protocol=protocol, **more)


async def taken(link: Link, number: int) -> list[Received]:
    messages: list[Received] = []
    async for message in link.messages():
        messages.append(message)
        if len(messages) == number:
            break
    return messages


async def publish_all(link: Link, topic: str, payloads: list[bytes]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for payload in payloads:
            tasks.create_task(link.publish(topic, payload))


@both_protocols
def test_two_thousand_messages_arrive_once_and_in_order(
    start_broker: StartBroker, protocol: Protocol
) -> None:
    broker = settings(start_broker().port, protocol)
    payloads = [number.to_bytes(2, "big") for number in range(2000)]

    async def scenario() -> list[bytes]:
        async with connect(broker, "reader") as reader, connect(broker, "writer") as writer:
            await reader.subscribe(["numbers/+"])
            reading = asyncio.create_task(taken(reader, len(payloads)))
            await publish_all(writer, "numbers/all", payloads)
            return [message.payload for message in await reading]

    assert asyncio.run(scenario()) == payloads


@both_protocols
def test_a_large_message_arrives_whole(start_broker: StartBroker, protocol: Protocol) -> None:
    broker = settings(start_broker().port, protocol)
    payload = random.Random(1).randbytes(3_000_000)

    async def scenario() -> Received:
        async with connect(broker, "both") as link:
            await link.subscribe(["a"])
            await link.publish("a", payload)
            return (await taken(link, 1))[0]

    assert asyncio.run(scenario()) == Received("a", payload, retained=False)


@both_protocols
def test_a_retained_message_is_marked_for_who_comes_later(
    start_broker: StartBroker, protocol: Protocol
) -> None:
    broker = settings(start_broker().port, protocol)

    async def scenario() -> list[Received]:
        async with connect(broker, "writer") as writer, connect(broker, "reader") as reader:
            await writer.publish("a", b"kept", retain=True)
            await reader.subscribe(["a"])
            first = await taken(reader, 1)
            await writer.publish("a", b"live")
            return first + await taken(reader, 1)

    assert asyncio.run(scenario()) == [
        Received("a", b"kept", retained=True),
        Received("a", b"live", retained=False),
    ]


async def said_after(
    broker: BrokerSettings, end: Callable[[Link], None] | None
) -> tuple[list[bytes], list[Received]]:
    """What an observer hears, and what is retained, after a link with a will ended by `end`."""
    async with connect(broker, "observer") as observer:
        await observer.subscribe(["state", "done"])
        async with connect(broker, "program", Will("state", b"offline")) as link:
            await link.publish("state", b"online", retain=True)
            if end is not None:
                end(link)
        if end is None or end is Link.abort:
            heard = [message.payload for message in await taken(observer, 2)]
        else:
            # The broker handles the goodbye before this later connection's message.
            async with connect(broker, "later") as later:
                await later.publish("done", b"done")
            heard = [message.payload for message in await taken(observer, 2)]
    async with connect(broker, "afterwards") as afterwards:
        await afterwards.subscribe(["state"])
        return heard, await taken(afterwards, 1)


@both_protocols
@pytest.mark.parametrize("end", [None, Link.abort])
def test_the_will_is_published_when_a_link_drops_or_its_program_ends(
    start_broker: StartBroker, protocol: Protocol, end: Callable[[Link], None] | None
) -> None:
    heard, kept = asyncio.run(said_after(settings(start_broker().port, protocol), end))
    assert heard == [b"online", b"offline"]
    assert kept == [Received("state", b"offline", retained=True)]


@both_protocols
def test_no_will_is_published_after_a_goodbye(
    start_broker: StartBroker, protocol: Protocol
) -> None:
    heard, kept = asyncio.run(said_after(settings(start_broker().port, protocol), Link.close))
    assert heard == [b"online", b"done"]
    assert kept == [Received("state", b"online", retained=True)]


@both_protocols
def test_everything_pending_ends_when_the_broker_is_killed(
    start_broker: StartBroker, protocol: Protocol
) -> None:
    process = start_broker()

    async def scenario() -> list[BaseException | None]:
        async with connect(settings(process.port, protocol), "writer") as link:
            await link.subscribe(["nothing"])
            publishing = [
                asyncio.create_task(link.publish("a", bytes(200_000))) for _ in range(4 * WINDOW)
            ]
            listening = asyncio.create_task(taken(link, 1))
            await publishing[0]
            process.kill()
            ended = await asyncio.gather(*publishing, listening, return_exceptions=True)
            with pytest.raises(LinkDownError):
                await link.publish("a", b"too late")
            with pytest.raises(LinkDownError):
                await link.subscribe(["a"])
            return [each for each in ended if isinstance(each, BaseException)]

    failures = asyncio.run(asyncio.wait_for(scenario(), 15))
    assert len(failures) > WINDOW
    assert {type(failure) for failure in failures} == {LinkDownError}


def test_a_broker_that_stops_answering_ends_the_link(start_broker: StartBroker) -> None:
    process = start_broker()

    async def scenario() -> None:
        async with connect(settings(process.port, ack_timeout_s=1.0), "writer") as link:
            process.process.send_signal(19)  # SIGSTOP: alive for TCP, dead for MQTT
            with pytest.raises(LinkDownError, match="no acknowledgment within 1 s"):
                await link.publish("a", b"anybody?")

    asyncio.run(scenario())


@both_protocols
def test_a_slow_consumer_loses_nothing_and_holds_little(
    start_broker: StartBroker, protocol: Protocol
) -> None:
    broker = settings(start_broker().port, protocol)
    payloads = [number.to_bytes(2, "big") + bytes(1000) for number in range(3 * INBOX)]

    async def scenario() -> tuple[list[bytes], int]:
        async with connect(broker, "reader") as reader, connect(broker, "writer") as writer:
            await reader.subscribe(["a"])
            await publish_all(writer, "a", payloads)  # the consumer does not take any meanwhile
            most, received = reader.waiting, []
            async for message in reader.messages():
                most = max(most, reader.waiting)
                received.append(message.payload)
                if len(received) == len(payloads):
                    return received, most
                if len(received) % 100 == 0:
                    await asyncio.sleep(0.001)
            raise AssertionError

    received, most = asyncio.run(scenario())
    assert received == payloads
    assert INBOX <= most < INBOX + 2 * WINDOW


@both_protocols
def test_answers_of_another_task_get_through_while_more_than_the_inbox_is_on_the_way(
    start_broker: StartBroker, protocol: Protocol
) -> None:
    broker = settings(start_broker().port, protocol, ack_timeout_s=5.0)
    number = 4 * INBOX

    async def answer(link: Link, questions: asyncio.Queue[bytes]) -> int:
        answered = 0
        while answered < number:
            await link.publish("out", await questions.get())
            answered += 1
        return answered

    async def scenario() -> int:
        async with connect(broker, "reader") as reader, connect(broker, "writer") as writer:
            await reader.subscribe(["in"])
            await publish_all(writer, "in", [b"x"] * number)
            questions: asyncio.Queue[bytes] = asyncio.Queue()
            answering = asyncio.create_task(answer(reader, questions))
            received = 0
            async for message in reader.messages():
                questions.put_nowait(message.payload)
                received += 1
                if received == number:
                    break
            return await answering

    assert asyncio.run(scenario()) == number


def test_a_message_that_the_broker_refuses_is_an_error(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    access = tmp_path / "acl"
    access.write_text("topic write mine/#\n")
    access.chmod(0o644)
    broker = settings(start_broker(f"allow_anonymous true\nacl_file {access}").port, "5")

    async def scenario() -> None:
        async with connect(broker, "writer") as link:
            await link.publish("mine/a", b"allowed")
            with pytest.raises(LinkDownError, match=r"refused.*[Nn]ot authorized"):
                await link.publish("others/a", b"not allowed")

    asyncio.run(scenario())


def test_a_packet_that_the_broker_does_not_take_is_not_sent(start_broker: StartBroker) -> None:
    port = start_broker("allow_anonymous true\nmax_packet_size 5000").port

    async def scenario() -> None:
        async with connect(settings(port, "5"), "writer") as link:
            assert link.packet_bytes == 5000
            with pytest.raises(PacketTooLargeError, match="at most 4500") as caught:
                await link.publish("a", bytes(4501))
            assert (caught.value.payload_bytes, caught.value.limit_bytes) == (4501, 4500)
            await link.publish("a", bytes(4500))  # the link is still alive
        async with connect(settings(port), "writer") as link:  # 3.1.1 brokers do not say it
            assert link.packet_bytes is None

    asyncio.run(scenario())


def test_the_window_is_the_one_that_the_broker_asks_for(start_broker: StartBroker) -> None:
    process = start_broker("allow_anonymous true\nmax_inflight_messages 3")

    async def scenario() -> int:
        async with connect(settings(process.port, "5"), "writer") as link:
            process.process.send_signal(signal.SIGSTOP)
            sends = [asyncio.create_task(link.publish("a", b"x")) for _ in range(10)]
            await asyncio.sleep(0.1)
            unacknowledged = len(vars(link)["_acks"])
            process.process.send_signal(signal.SIGCONT)
            await asyncio.gather(*sends)
            return unacknowledged

    assert asyncio.run(scenario()) == 3


@both_protocols
def test_a_small_message_does_not_wait_behind_all_of_the_bulk(
    start_broker: StartBroker, protocol: Protocol
) -> None:
    broker = settings(start_broker().port, protocol, bulk_bytes_s=2_000_000)

    async def scenario() -> int:
        async with connect(broker, "reader") as reader, connect(broker, "writer") as writer:
            await reader.subscribe(["#"])
            chunks = [("chunk", bytes(100_000)) for _ in range(20)]
            bulk = asyncio.create_task(writer.publish_bulk(chunks))
            await taken(reader, 3)
            await writer.publish("small", b"")
            before = 3
            async for message in reader.messages():
                if message.topic == "small":
                    break
                before += 1
            bulk.cancel()
            return before

    assert asyncio.run(scenario()) < 15


def test_bulk_keeps_to_its_rate(start_broker: StartBroker) -> None:
    broker = settings(start_broker().port, bulk_bytes_s=400_000)

    async def scenario() -> float:
        async with connect(broker, "writer") as link:
            began_s = time.monotonic()
            await link.publish_bulk(("a", bytes(50_000)) for _ in range(8))
            return time.monotonic() - began_s

    # 400 kB less the burst and the last message: never faster, however quick the machine.
    assert asyncio.run(scenario()) >= 0.6


def test_a_slow_link_is_not_given_up_while_bytes_still_leave(start_broker: StartBroker) -> None:
    """One message that takes longer than ack_timeout_s arrives, because the queue shrinks."""
    port = start_broker().port
    slow_port = free_port()

    async def scenario() -> bytes:
        slow = FlakyLink(links.Link("slow", slow_port, port), rate_bytes_s=500_000)
        async with slow, connect(settings(port), "reader") as reader:
            await reader.subscribe(["a"])
            async with connect(settings(slow_port, ack_timeout_s=4.0), "writer") as writer:
                await writer.publish("a", bytes(3_000_000))
            return (await taken(reader, 1))[0].payload

    assert asyncio.run(scenario()) == bytes(3_000_000)


def test_bytes_that_are_not_mqtt_end_the_link_with_a_reason() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x20\x02\x00\x00")  # a CONNACK, then a PUBLISH shorter than its topic
        writer.write(b"\x32\x03\xff\xff\x41")
        await writer.drain()

    async def scenario() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = int(server.sockets[0].getsockname()[1])
        async with server, connect(settings(port), "reader") as link:
            with pytest.raises(LinkDownError):
                await taken(link, 1)

    asyncio.run(scenario())


def test_a_broker_that_is_not_there_is_named(start_broker: StartBroker) -> None:
    process = start_broker()
    process.kill()

    async def scenario() -> None:
        async with connect(settings(process.port), "writer"):
            pass

    with pytest.raises(LinkDownError, match=f"127.0.0.1:{process.port}"):
        asyncio.run(scenario())


def test_a_refused_login_is_a_link_that_is_down(start_broker: StartBroker, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("")
    password = tmp_path / "password"
    password.write_text("secret\n")
    process = start_broker(f"password_file {users}")

    async def scenario() -> None:
        login = settings(process.port, username="press-1", password_file=str(password))
        async with connect(login, "writer"):
            pass

    with pytest.raises(LinkDownError, match="refused the connection"):
        asyncio.run(scenario())


@pytest.mark.parametrize(
    "wrong", [{"username": "a", "password_file": "/nothing"}, {"ca_file": "/nothing"}]
)
def test_a_wrong_file_is_the_users_error_and_not_a_dead_link(wrong: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with connect(settings(1, **wrong), "writer"):
            pass

    with pytest.raises(SettingsError, match="/nothing"):
        asyncio.run(scenario())


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "gateway-1.tls.key"
    key.write_text("a secret")
    key.chmod(0o640)

    async def scenario() -> None:
        files: dict[str, Any] = dict.fromkeys(("ca_file", "cert_file", "key_file"), str(key))
        async with connect(settings(1, **files), "writer"):
            pass

    with pytest.raises(SettingsError, match=r"gateway-1\.tls\.key: .*chmod 600"):
        asyncio.run(scenario())


def test_something_that_listens_but_is_no_broker_is_given_up() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            async with connect(settings(port, ack_timeout_s=1.0), "writer"):
                pass

    with pytest.raises(LinkDownError, match="did not answer"):
        asyncio.run(scenario())


def test_an_error_of_the_program_is_not_mistaken_for_the_brokers(
    start_broker: StartBroker,
) -> None:
    process = start_broker()

    async def scenario() -> None:
        async with connect(settings(process.port), "writer"):
            raise TimeoutError("the program's own")

    with pytest.raises(TimeoutError, match="the program's own"):
        asyncio.run(scenario())
