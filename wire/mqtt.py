"""One MQTT connection over paho-mqtt, in asyncio, with windows of our own.

Why not paho's own loop: it resends everything outstanding in one burst after a reconnect and
ignores the receiver's limits, and what it holds in memory is gone with the process.  Here one
`Link` is one connection: when it ends, everything in flight is forgotten (`LinkDownError`), and
the durable owner of the data (the agent's outbox, the coordinator's store) offers it again.  A
PUBACK means that the broker has the message, nothing more.

No thread: paho's socket is read and written by the event loop; a full inbox stops the reading, so
a slow consumer slows the sender through TCP instead of growing memory.  PUBACKs come over the same
socket: a consumer that answers each message leaves the publishing to another task, or it waits for
a PUBACK behind the messages that it does not take.  (Acknowledging late instead would not bound
the inbox: mosquitto 2.0.11 puts 20 more messages in flight for each acknowledged one.)

Two lanes: small messages (births, receipts, headers) go at once, bulk (chunks) within a rate and a
window that adapts to the link (`wire/pacing.py`), so that what matters is not behind what is large.
A link is given up when nothing moves for `ack_timeout_s`, not when it is slow: an acknowledgment,
an incoming byte, or a send queue that shrinks counts as moving.

What MQTT 5 brokers say in CONNACK is kept: Receive Maximum bounds the window, Maximum Packet Size
is `Link.packet_bytes` and is checked before a packet is sent (section 3.2.2.3 of the standard).
"""

import asyncio
import fcntl
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast

import msgspec
import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from wire.errors import LinkDownError, PacketTooLargeError, SettingsError
from wire.files import check_secret
from wire.handed_over import handed_over
from wire.lanes import Lane
from wire.pacing import BulkWindow, TokenBucket
from wire.settings import Settings, resolve

WINDOW = 16
"""Publishes without PUBACK at a time; mosquitto's default max_inflight_messages is 20."""
BULK = 12
"""How many of them may be bulk, so that a small message never waits for a place."""
PACKET_OVERHEAD = 500
"""Bytes of a PUBLISH beside its payload, at most: topic, packet identifier, properties."""
LARGEST_PACKET = 17 << 20
"""What a broker of MQTT 5 is told not to exceed; the largest chunk is 16 MiB."""
_READS = 32
"""Packets read for one readiness of the socket, so that other tasks get their turn."""
INBOX = 512
"""Received messages waiting for the consumer before reading stops."""
INBOX_BYTES = 32 << 20
"""And their payloads."""
_MISC_S = 0.5
_PROTOCOLS = {"3.1.1": paho.MQTTv311, "5": paho.MQTTv5}


class BrokerSettings(Settings, frozen=True, kw_only=True):
    """The `[broker]` table: how to reach the MQTT broker.

    Attributes:
      host: name or address of the broker.
      port: usually 1883, and 8883 with TLS.
      protocol: version of MQTT; with 5 the broker's limits and reasons are known.
      keepalive_s: a dead link is noticed within twice this.
      ack_timeout_s: a connection on which nothing moves for this long, while an acknowledgment is
        due, is given up.
      bulk_bytes_s: most bytes of chunks a second; 0 means no limit.
      username: for the broker's access rules: the agent's id; empty for none.
      password_file: file with nothing but the password.
      ca_file: PEM of the CA; turns TLS on.
      cert_file: PEM of the client's own certificate.
      key_file: its private key.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    keepalive_s: Annotated[int, msgspec.Meta(ge=2, le=600)] = 20
    ack_timeout_s: Annotated[float, msgspec.Meta(ge=1, le=600)] = 20.0
    bulk_bytes_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


def with_full_paths(broker: BrokerSettings, config: Path) -> BrokerSettings:
    """The table with its files as paths that hold anywhere; `config` is the file it stands in."""
    files = {
        name: str(resolve(config, value))
        for name in ("password_file", "ca_file", "cert_file", "key_file")
        if (value := getattr(broker, name))
    }
    return msgspec.structs.replace(broker, **files)


class Received(msgspec.Struct, frozen=True):
    """A message as it came from the broker; nothing in it was checked yet."""

    topic: str
    payload: bytes
    retained: bool


class Will(msgspec.Struct, frozen=True):
    """What the broker publishes, retained, when the connection ends without a goodbye."""

    topic: str
    payload: bytes


class Meter(Protocol):
    """Counts what one connection sends; never raises."""

    def sent(self, data: bytes) -> None:
        """Take bytes of MQTT that the socket, or its TLS, has just taken."""

    def on_wire(self, total: int) -> None:
        """Take how many bytes TCP was given by this connection so far, TLS and all."""

    def ended(self) -> None:
        """Note that no more will be sent."""


class _MeteredClient(paho.Client):
    """Paho's client, every byte of which passes the meter."""

    meter: Meter | None = None

    def _sock_send(self, buf: bytes | bytearray) -> int:
        """Send what the socket takes: the only place where paho hands bytes to one."""
        taken = super()._sock_send(buf)
        if self.meter is not None and taken > 0:
            self.meter.sent(bytes(buf[:taken]))
        return taken


class Link:
    """One live connection; made by `connect`.

    Attributes:
      connected: set when the broker accepted.
      packet_bytes: largest packet that the broker takes, or None when it did not say.
    """

    def __init__(self, client: _MeteredClient, broker: BrokerSettings) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._ack_timeout_s = broker.ack_timeout_s
        self._window = Lane(WINDOW)
        self._bulk = Lane(BulkWindow.FIRST)
        self._bulk_window = BulkWindow(BULK)
        self._rate = TokenBucket(broker.bulk_bytes_s, broker.bulk_bytes_s / 4)
        self._acks: dict[int, asyncio.Future[None]] = {}
        self._inbox: asyncio.Queue[Received | None] = asyncio.Queue()
        self._inbox_bytes = 0
        self._socket: socket.socket | None = None
        self._reading = False
        self._moved_s = time.monotonic()
        self._queued_bytes = 0
        self._down: str = ""
        self.packet_bytes: int | None = None
        self.connected: asyncio.Future[None] = self._loop.create_future()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_ack
        client.on_subscribe = self._on_ack
        client.on_unsubscribe = self._on_ack
        client.on_message = self._on_message
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        client.on_socket_close = self._on_socket_close

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 1 and wait for the broker's PUBACK.

        Args:
          topic: where to.
          payload: the bytes; empty and retained clears the topic.
          retain: the broker keeps it for later subscribers.

        Raises:
          LinkDownError: the connection ended first; the broker may or may not have the message.
            A broker that refuses the message (MQTT 5 only) ends the connection too.
          PacketTooLargeError: the broker said that it takes no packet of this size.
        """
        self._check_size(payload)
        await self._publish(topic, payload, retain)

    async def publish_bulk(
        self, messages: Iterable[tuple[str, bytes]], *, retain: bool = False
    ) -> None:
        """Publish all of these as bulk, some at a time, and wait for every PUBACK.

        Args:
          messages: topics and payloads; each is taken when there is room for it and not before,
            so that an iterator may change its mind.
          retain: as in `publish`.

        Raises:
          ExceptionGroup: of what `publish` raises.
        """
        following = iter(messages)
        async with asyncio.TaskGroup() as sends:
            while True:
                await self._enter_bulk()
                message = next(following, None)
                if message is None:
                    self._leave_bulk()
                    return
                self._rate.reserve(len(message[1]), time.monotonic())
                sent = sends.create_task(self._publish_in_lane(*message, retain=retain))
                # Not in the task's own `finally`: one that is cancelled at once never begins.
                sent.add_done_callback(lambda _: self._leave_bulk())

    async def _enter_bulk(self) -> None:
        """Wait for a place in the lane and for the rate."""
        await self._bulk.enter()
        try:
            await asyncio.sleep(self._rate.reserve(0, time.monotonic()))
        except asyncio.CancelledError:
            self._leave_bulk()
            raise

    def _leave_bulk(self) -> None:
        if not self._down:
            self._bulk.places = self._bulk_window.size
        self._bulk.leave()

    async def _publish_in_lane(self, topic: str, payload: bytes, *, retain: bool) -> None:
        began_s = time.monotonic()
        self._check_size(payload)
        await self._publish(topic, payload, retain)
        self._bulk_window.acknowledged(time.monotonic() - began_s)

    def _check_size(self, payload: bytes) -> None:
        if self.packet_bytes is not None and len(payload) + PACKET_OVERHEAD > self.packet_bytes:
            raise PacketTooLargeError(len(payload), self.packet_bytes - PACKET_OVERHEAD)

    async def _publish(self, topic: str, payload: bytes, retain: bool) -> None:  # noqa: FBT001
        await self._window.enter()
        try:
            self._check()
            info = self._client.publish(topic, payload, qos=1, retain=retain)
            await self._acknowledged(info.rc, info.mid)
        finally:
            self._window.leave()

    async def subscribe(self, topic_filters: list[str]) -> None:
        """Subscribe with QoS 1 and wait for the SUBACK; a refusal is `LinkDownError`."""
        self._check()
        code, mid = self._client.subscribe([(topic_filter, 1) for topic_filter in topic_filters])
        await self._acknowledged(code, mid or 0)

    async def unsubscribe(self, topic_filters: list[str]) -> None:
        """Unsubscribe and wait for the UNSUBACK."""
        self._check()
        code, mid = self._client.unsubscribe(topic_filters)
        await self._acknowledged(code, mid or 0)

    async def messages(self) -> AsyncIterator[Received]:
        """Yield messages in order of arrival until the connection ends (`LinkDownError`)."""
        while True:
            message = await self._inbox.get()
            if message is None:
                raise LinkDownError(self._down)
            yield message
            self._inbox_bytes -= len(message.payload)
            is_low = self._inbox.qsize() < INBOX // 2 and self._inbox_bytes < INBOX_BYTES // 2
            if not self._reading and is_low:
                self._resume_reading()

    @property
    def waiting(self) -> int:
        """Received messages that the consumer has not taken yet."""
        return self._inbox.qsize()

    async def _acknowledged(self, code: MQTTErrorCode, mid: int) -> None:
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._end(paho.error_string(code))
            raise LinkDownError(self._down)
        if not self._acks:
            self._moved_s = time.monotonic()
        ack = self._acks[mid] = self._loop.create_future()
        try:
            await ack
        finally:
            self._acks.pop(mid, None)

    def _check(self) -> None:
        if self._down:
            raise LinkDownError(self._down)

    def attach(self) -> None:
        """Let the event loop serve the connected socket."""
        self._socket = cast("socket.socket | None", self._client.socket())
        if self._socket is not None:
            # Else the end of a large record waits for a delayed ACK: 39 ms for 100 kB over TLS
            # against 0.6 ms (mosquitto 2.0.11, loopback).
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._resume_reading()
        if self._client.want_write():
            self._on_register_write(self._client, None, self._socket)

    async def serve_timers(self) -> None:
        """Run paho's keep-alive, and notice a stalled link, until the connection ends."""
        try:
            while not self._down:
                await asyncio.sleep(_MISC_S)
                code = self._client.loop_misc()
                if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._end(paho.error_string(code))
                self._look_whether_it_moves()
        finally:
            # Whatever ended them: without timers a dead link would look like a quiet one.
            self._end("the connection's timers ended")

    def _look_whether_it_moves(self) -> None:
        self._measure()
        queued = _unsent_bytes(self._socket)
        if queued < self._queued_bytes or not self._acks:
            self._moved_s = time.monotonic()
        self._queued_bytes = queued
        if time.monotonic() - self._moved_s > self._ack_timeout_s:
            self._end(f"no acknowledgment within {self._ack_timeout_s:g} s")

    def close(self) -> None:
        """Say goodbye (so no will is published) and release the socket."""
        if not self._down:
            self._client.disconnect()
            self._client.loop_write()  # the event loop will not get to it any more
        self._end("closed")

    def abort(self) -> None:
        """Drop the connection without a goodbye: the broker publishes the will."""
        self._end("aborted")

    def _resume_reading(self) -> None:
        if self._socket is not None and not self._down:
            self._loop.add_reader(self._socket, self._read)
            self._reading = True
            self._loop.call_soon(self._read_pending)

    def _read(self) -> None:
        self._moved_s = time.monotonic()
        for _ in range(_READS):
            before = self._inbox.qsize()
            self._read_packet()
            if not self._reading or self._inbox.qsize() == before:
                break  # no more messages for now: acknowledgments alone are not worth a spin
        self._read_pending()

    def _read_packet(self) -> None:
        try:
            code = self._client.loop_read()
        except (MQTTException, struct.error, IndexError, ValueError, TypeError) as error:
            self._end(f"the broker sent what is not MQTT: {error}")
            return
        if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._end(paho.error_string(code))

    def _read_pending(self) -> None:
        """TLS holds decrypted bytes that never make the socket readable."""
        while self._reading and isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._read_packet()

    def _write(self) -> None:
        self._moved_s = time.monotonic()
        self._client.loop_write()

    def _end(self, reason: str) -> None:
        if self._down:
            return
        self._down = reason
        self._release(self._socket)
        failure = LinkDownError(reason)
        for waiting in (*self._acks.values(), self.connected):
            if not waiting.done():
                waiting.set_exception(failure)
                waiting.exception()  # marks it as seen: nobody may be waiting
        self._inbox.put_nowait(None)
        self._bulk.end()
        self._window.end()
        held = self._client.socket()
        if held is not None:
            held.close()
        if self._client.meter is not None:
            self._client.meter.ended()

    def _measure(self) -> None:
        total = handed_over(self._socket) if self._client.meter is not None else None
        if total is not None and self._client.meter is not None:
            self._client.meter.on_wire(total)

    def _release(self, held: socket.socket | None) -> None:
        self._measure()
        if held is not None and held.fileno() >= 0:
            self._loop.remove_reader(held)
            self._loop.remove_writer(held)
        self._socket, self._reading = None, False

    # Callbacks of paho, all on the event loop's thread.

    def _on_connect(self, _c: object, _u: object, _f: object, code: Any, said: object) -> None:  # noqa: ANN401
        if self.connected.done():
            return
        if code.is_failure:
            self._end(f"the broker refused the connection: {code}")
            return
        if not getattr(said, "MaximumQoS", 1) or not getattr(said, "RetainAvailable", 1):
            self._end("the broker offers no QoS 1 or no retained messages; both are needed")
            return
        self.packet_bytes = getattr(said, "MaximumPacketSize", None)
        self._window.places = min(WINDOW, getattr(said, "ReceiveMaximum", WINDOW))
        self.connected.set_result(None)

    def _on_disconnect(self, _c: object, _u: object, _f: object, code: object, _p: object) -> None:
        self._end(f"disconnected: {code}")

    def _on_ack(self, _c: object, _u: object, mid: int, codes: Any, *_rest: object) -> None:  # noqa: ANN401
        ack = self._acks.get(mid)
        refusals = [
            code for code in (codes if isinstance(codes, list) else [codes]) if code.is_failure
        ]
        if refusals:
            self._end(f"the broker refused a message or a subscription: {refusals[0]}")
        elif ack is not None and not ack.done():
            ack.set_result(None)

    def _on_message(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # [MQTT-1.5.3-1]: close the connection
            self._end("the broker sent a topic that is not UTF-8")
            return
        self._inbox.put_nowait(Received(topic, bytes(message.payload), message.retain))
        self._inbox_bytes += len(message.payload)
        is_full = self._inbox.qsize() >= INBOX or self._inbox_bytes >= INBOX_BYTES
        if is_full and self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._reading = False

    def _on_register_write(self, _c: object, _u: object, held: Any) -> None:  # noqa: ANN401
        if self._socket is not None:
            self._loop.add_writer(held, self._write)

    def _on_unregister_write(self, _c: object, _u: object, held: Any) -> None:  # noqa: ANN401
        if self._socket is not None and held.fileno() >= 0:
            self._loop.remove_writer(held)

    def _on_socket_close(self, _c: object, _u: object, held: Any) -> None:  # noqa: ANN401
        self._release(held)
        self._end("the socket was closed")


@asynccontextmanager
async def connect(
    broker: BrokerSettings, client_id: str, will: Will | None = None, meter: Meter | None = None
) -> AsyncIterator[Link]:
    """Connect with a clean session; yields a live `Link` and ends it at the end.

    At the end a link with a will drops the connection without a goodbye, so that a program which
    was stopped is announced as offline by the same message as one that died; one without says
    goodbye.  `Link.close` says goodbye in any case.  Every byte sent passes the meter.

    Raises:
      LinkDownError: the broker can not be reached or refuses.
      SettingsError: a password, certificate or key file can not be used.
    """
    client = _client(broker, client_id, will)
    client.meter = meter
    link = Link(client, broker)
    # 5 ends a clean session with the connection unless told otherwise; 3.1.1 always does.
    properties = _connect_properties() if broker.protocol == "5" else None
    try:
        await asyncio.to_thread(
            client.connect,
            broker.host,
            broker.port,
            broker.keepalive_s,
            clean_start=True if broker.protocol == "5" else paho.MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
        )
    except (OSError, ValueError) as error:
        reason = f"can not connect to the broker at {broker.host}:{broker.port}: {error}"
        raise LinkDownError(reason) from None
    link.attach()
    timers = asyncio.create_task(link.serve_timers(), name="mqtt-timers")
    try:
        await _accepted(link, broker)
        yield link
    finally:
        timers.cancel()
        if will is None:
            link.close()
        else:
            link.abort()


async def _accepted(link: Link, broker: BrokerSettings) -> None:
    try:
        async with asyncio.timeout(broker.ack_timeout_s):
            await link.connected
    except TimeoutError:
        reason = f"the broker at {broker.host}:{broker.port} did not answer the connection"
        raise LinkDownError(reason) from None
    except LinkDownError as error:
        reason = f"{broker.host}:{broker.port} did not accept the connection: {error}"
        if broker.cert_file:
            # TLS 1.3 lets a client finish its handshake before the server has judged it.
            reason += f"; is {broker.cert_file} expired, revoked or of another CA? See its log"
        raise LinkDownError(reason) from None


def _client(broker: BrokerSettings, client_id: str, will: Will | None) -> _MeteredClient:
    is_v5 = broker.protocol == "5"
    client = _MeteredClient(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=_PROTOCOLS[broker.protocol],
        clean_session=None if is_v5 else True,
        reconnect_on_failure=False,
    )
    client.connect_timeout = broker.ack_timeout_s
    client.max_inflight_messages_set(WINDOW + 4)
    _set_identity(client, broker)
    if will is not None:
        properties = Properties(PacketTypes.WILLMESSAGE) if is_v5 else None  # type: ignore[no-untyped-call]
        client.will_set(will.topic, will.payload, qos=1, retain=True, properties=properties)
    return client


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 0
    properties.MaximumPacketSize = LARGEST_PACKET
    return properties


def _unsent_bytes(held: socket.socket | None) -> int:
    """Bytes in the kernel that the other end has not acknowledged (SIOCOUTQ, tcp(7))."""
    if held is None or held.fileno() < 0:
        return 0
    answer = fcntl.ioctl(held, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _set_identity(client: paho.Client, broker: BrokerSettings) -> None:
    if broker.username:
        password = None
        if broker.password_file:
            try:
                password = Path(broker.password_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = f"can not read the broker's password: {error}"
                raise SettingsError(
                    broker.password_file, None, "broker.password_file", reason
                ) from None
        client.username_pw_set(broker.username, password)
    if broker.ca_file:
        try:
            if broker.key_file:
                check_secret(Path(broker.key_file), "the key for the broker")
            client.tls_set(broker.ca_file, broker.cert_file or None, broker.key_file or None)
        except (OSError, ValueError) as error:
            reason = f"can not use the CA, certificate or key for the broker: {error}"
            raise SettingsError(broker.ca_file, None, "broker.ca_file", reason) from None


def reason_of(group: BaseExceptionGroup[BaseException]) -> str:
    """The first reason in an exception group, for the log."""
    first = group.exceptions[0]
    return reason_of(first) if isinstance(first, BaseExceptionGroup) else str(first)
