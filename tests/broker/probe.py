"""An MQTT client that keeps nothing to itself: reason codes, payloads, and its own end.

`wire.mqtt.Link` ends at the first refusal, as a program should.  Here refusals are what is tested.
"""

import queue
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

Protocol = Literal["3.1.1", "5"]
NOT_AUTHORIZED = 0x87
"""MQTT 5, section 2.4."""
REFUSED = 0x80
"""MQTT 3.1.1, section 3.9.3: the only refusal that a SUBACK knows; a PUBACK knows none."""
DEADLINE_S = 20.0
_ENDED = -1


class Probe:
    """A connected client with a thread of its own.

    Making one raises `OSError` when the broker does not let it in, in TLS or in MQTT.
    """

    def __init__(
        self,
        port: int,
        protocol: Protocol,
        certificates: Path,
        user: str,
        client_id: str = "",
        will: tuple[str, bytes] | None = None,
    ) -> None:
        self.protocol = protocol
        self.inbox: queue.SimpleQueue[tuple[str, bytes, bool]] = queue.SimpleQueue()
        self.ended = threading.Event()
        self.told: Any = None  # properties of the CONNACK, in MQTT 5
        self._answers: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self._connected: queue.SimpleQueue[int] = queue.SimpleQueue()
        is_v5 = protocol == "5"
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or user,
            protocol=paho.MQTTv5 if is_v5 else paho.MQTTv311,
            clean_session=None if is_v5 else True,
            reconnect_on_failure=False,
        )
        context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        context.load_cert_chain(certificates / f"{user}.crt", certificates / f"{user}.tls.key")
        self._client.tls_set_context(context)
        if will is not None:
            properties = Properties(PacketTypes.WILLMESSAGE) if is_v5 else None  # type: ignore[no-untyped-call]
            self._client.will_set(will[0], will[1], qos=1, retain=True, properties=properties)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_answer
        self._client.on_subscribe = self._on_answer
        self._client.on_unsubscribe = self._on_answer
        self._client.on_message = self._on_message
        self._client.connect("localhost", port, 60)
        held: Any = self._client.socket()
        if held is None:
            raise ConnectionRefusedError(user)
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # 40 ms an answer otherwise
        self._client.loop_start()
        self.accepted = self._connected.get(timeout=DEADLINE_S)
        if self.accepted == _ENDED:
            self._client.loop_stop()
            raise ConnectionRefusedError(user)

    @property
    def is_connected(self) -> bool:
        """Whether the broker has not ended the connection."""
        return not self.ended.is_set()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int:
        """Publish with QoS 1; returns the reason code of the PUBACK (0: taken, or 3.1.1)."""
        self._client.publish(topic, payload, qos=1, retain=retain)
        return self._answer()[0] & ~0x10  # 0x10: taken, and nobody subscribes

    def send(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1 and wait for nothing."""
        self._client.publish(topic, payload, qos=1)

    def subscribe(self, *filters: str) -> list[int]:
        """Subscribe with QoS 1; returns the reason code of each filter (1: granted)."""
        self._client.subscribe([(each, 1) for each in filters])
        return self._answer()

    def unsubscribe(self, *filters: str) -> None:
        """Unsubscribe and wait for the answer."""
        self._client.unsubscribe(list(filters))
        self._answer()

    def heard(self) -> dict[str, bytes]:
        """Topic and payload of all that the broker has sent until now.

        The broker answers in the order of what it sent before, so the answer to an UNSUBSCRIBE
        marks the end; nothing depends on time.
        """
        self.unsubscribe("nothing/of/this/name")
        messages: dict[str, bytes] = {}
        while not self.inbox.empty():
            topic, payload, _ = self.inbox.get()
            messages[topic] = payload
        return messages

    def retained(self, topic: str) -> bytes | None:
        """What the broker keeps under a topic, as this client may read it."""
        self.heard()
        self.subscribe(topic)
        self.unsubscribe(topic)
        return self.heard().get(topic)

    def close(self) -> None:
        """Say goodbye: no will."""
        self._client.disconnect()
        self._client.loop_stop()

    def abort(self) -> None:
        """Drop the connection: the broker publishes the will."""
        held: Any = self._client.socket()
        if held is not None:
            held.shutdown(socket.SHUT_RDWR)  # wakes paho's thread, which `close` would not
        self._client.loop_stop()

    def _answer(self) -> list[int]:
        return self._answers.get(timeout=DEADLINE_S)

    def _on_connect(self, _c: object, _u: object, _f: object, code: Any, told: Any) -> None:
        self.told = told
        self._connected.put(code.value)

    def _on_disconnect(self, *_of_paho: object) -> None:
        self.ended.set()
        self._connected.put(_ENDED)

    def _on_answer(self, _c: object, _u: object, _mid: int, codes: Any, *_rest: object) -> None:
        listed = codes if isinstance(codes, list) else [codes]
        self._answers.put([code.value for code in listed] or [0])

    def _on_message(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        self.inbox.put((message.topic, bytes(message.payload), bool(message.retain)))
