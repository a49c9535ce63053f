"""Signed, counted, capped envelopes around MessagePack bodies.

An envelope is the MessagePack array

    [version, kind, signer, counter, body, signature]

`signature` is Ed25519 (RFC 8032) over

    "journeyman-v1" 00 federation 00 kind 00 signer 00 counter(8 bytes, big endian) body

so a message of one federation, kind or signer is never valid as one of another.  Sizes are checked
before anything is decoded, the signature before the body is parsed.  Decoder invariant: any bytes
give a value or `WireError`, nothing else.
"""

from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec

from wire.errors import MalformedError, ReplayError, TooLargeError
from wire.messages import (
    PROTOCOL_VERSION,
    AgentState,
    Charter,
    Command,
    CoordinatorState,
    Credential,
    Endorsement,
    Examine,
    FiguresHeader,
    Grant,
    Head,
    HelperState,
    Manifest,
    Masks,
    Message,
    Readiness,
    Receipts,
    Release,
    Renewal,
    Renewed,
    Report,
    RevocationList,
    UpdateHeader,
    Verdicts,
)
from wire.signing import PrivateKey, PublicKey
from wire.topics import NAME

T = TypeVar("T")

KINDS: dict[type[Message], str] = {
    Charter: "charter",
    Credential: "credential",
    AgentState: "agent-state",
    CoordinatorState: "coordinator-state",
    Head: "head",
    UpdateHeader: "update",
    Receipts: "receipts",
    Command: "command",
    Report: "report",
    Readiness: "readiness",
    Grant: "grant",
    Renewal: "renewal",
    Renewed: "renewed",
    RevocationList: "revoked",
    FiguresHeader: "figures",
    HelperState: "helper-state",
    Examine: "examine",
    Verdicts: "verdicts",
    Manifest: "manifest",
    Endorsement: "endorsement",
    Release: "release",
    Masks: "masks",
}
MAX_BYTES: dict[str, int] = {
    "charter": 16_384,
    "credential": 2_000,
    "agent-state": 8_192,
    "coordinator-state": 2_000,
    "head": 2 << 20,
    "update": 262_144,
    "receipts": 262_144,
    "command": 70_000,
    "report": 262_144,
    "readiness": 4_096,
    "grant": 2_000,
    "renewal": 8_192,
    "renewed": 32_768,
    "revoked": 524_288,
    "figures": 2_000,
    "helper-state": 2_000,
    "examine": 524_288,
    "verdicts": 262_144,
    "manifest": 1 << 20,
    "endorsement": 16_384,
    "release": 65_536,
    "masks": 262_144,
    "bundle": 40 << 20,
}
"""Largest envelope of each kind in bytes.  A head with eight contents of 4,096 chunks fits."""


class _Envelope(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    kind: Annotated[str, msgspec.Meta(max_length=32)]
    signer: Annotated[str, msgspec.Meta(pattern=rf"^(?:{NAME.pattern})\Z")]
    counter: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    body: bytes
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


@dataclass(frozen=True)
class Opened:
    """An envelope whose outside was read and whose signature was NOT checked yet."""

    kind: str
    signer: str
    counter: int
    body: bytes
    signature: bytes

    def verify(self, federation: str, key: PublicKey) -> None:
        """Raise `SignatureError` unless `key` signed this envelope for `federation`."""
        key.verify(self.signature, self._signed(federation), f"{self.kind} from {self.signer}")

    def _signed(self, federation: str) -> bytes:
        return _signed_bytes(federation, self.kind, self.signer, self.counter, self.body)


def _signed_bytes(federation: str, kind: str, signer: str, counter: int, body: bytes) -> bytes:
    head = f"journeyman-v1\0{federation}\0{kind}\0{signer}\0".encode()
    return head + counter.to_bytes(8, "big") + body


def seal_bytes(
    kind: str, body: bytes, *, federation: str, signer: str, counter: int, key: PrivateKey
) -> bytes:
    """Sign `body` and return the envelope; `TooLargeError` over the kind's cap."""
    signature = key.sign(_signed_bytes(federation, kind, signer, counter, body))
    data = msgspec.msgpack.encode(
        _Envelope(PROTOCOL_VERSION, kind, signer, counter, body, signature)
    )
    _check_size(data, kind)
    return data


def seal(message: Message, *, federation: str, signer: str, counter: int, key: PrivateKey) -> bytes:
    """Encode and sign one message."""
    body = msgspec.msgpack.encode(message)
    kind = KINDS[type(message)]
    return seal_bytes(kind, body, federation=federation, signer=signer, counter=counter, key=key)


def open_envelope(data: bytes, kind: str) -> Opened:
    """Read the outside of an envelope of `kind`; its signature is checked by `Opened.verify`."""
    _check_size(data, kind)
    envelope = _decode(data, _Envelope, "envelope")
    if envelope.version != PROTOCOL_VERSION:
        reason = f"{kind} of protocol version {envelope.version}; this program speaks version "
        reason += f"{PROTOCOL_VERSION}: upgrade the older side"
        raise MalformedError(reason)
    if envelope.kind != kind:
        reason = f"expected a {kind} message, got kind {envelope.kind!r}"
        raise MalformedError(reason)
    return Opened(
        envelope.kind, envelope.signer, envelope.counter, envelope.body, envelope.signature
    )


def unseal(
    data: bytes, what: type[T], *, federation: str, signer: str, key: PublicKey
) -> tuple[T, int]:
    """Check size, kind, signer and signature, then parse.

    Returns:
      The message and its counter.

    Raises:
      WireError: anything at all is wrong with the bytes.
    """
    opened = open_envelope(data, KINDS[what])  # type: ignore[index]
    if opened.signer != signer:
        reason = f"{opened.kind} is signed by {opened.signer!r}, expected {signer!r}"
        raise MalformedError(reason)
    opened.verify(federation, key)
    return _decode(opened.body, what, opened.kind), opened.counter


def kind_of(data: bytes, expected: tuple[str, ...]) -> str:
    """Which of these kinds an envelope says it is, for topics that carry several.

    Raises:
      MalformedError: none of them; whether it is what it says is for `open_envelope` to tell.
    """
    start = data[:40]
    for kind in expected:
        word = msgspec.msgpack.encode(kind)
        if word in start:
            return kind
    reason = f"expected one of {', '.join(expected)}"
    raise MalformedError(reason)


def parse_body(opened: Opened, what: type[T]) -> T:
    """Parse the body of a verified envelope."""
    return _decode(opened.body, what, opened.kind)


def _decode(data: bytes, what: type[T], name: str) -> T:
    try:
        return msgspec.msgpack.decode(data, type=what)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        reason = f"malformed {name}: {error}"
        raise MalformedError(reason) from None


def _check_size(data: bytes, kind: str) -> None:
    cap = MAX_BYTES[kind]
    if len(data) > cap:
        reason = f"{kind} of {len(data)} bytes exceeds its cap of {cap} bytes"
        raise TooLargeError(reason)


class ReplayGuard:
    """Accepts a signer's counters only in growing order.

    A counter is `session << 32 | n`: the session is durable and grows with every start, so that a
    restarted peer is above everything it said before.
    """

    def __init__(self, last: int = -1) -> None:
        self.last = last

    def accept(self, counter: int, what: str) -> None:
        """Raise `ReplayError` unless `counter` is above all accepted ones."""
        if counter <= self.last:
            reason = f"{what}: counter {counter} is not above {self.last} (replayed or reordered)"
            raise ReplayError(reason)
        self.last = counter


class Counter:
    """Counters of one process run: `session << 32 | n`, n = 1, 2, 3, ..."""

    def __init__(self, session: int) -> None:
        self._next = (session << 32) + 1

    def next(self) -> int:
        """Return a counter that was never returned before."""
        value = self._next
        self._next += 1
        return value
