"""Which categories the bytes of a message belong to.  Pure.

A message that is to the federation is opened (it is the agent's own, so no signature is checked)
and its bytes are divided by fields where these are categories of their own.

Invariant: the parts of a message add up to its size; whatever is wrong with it is `unknown`.
"""

from collections.abc import Callable

import msgspec

from agent.egress.categories import (
    AVAILABILITY,
    BIRTH,
    CHOICE,
    CONTENT,
    ENCRYPTED,
    EVALUATIONS,
    HEADER,
    HISTOGRAM,
    MASKED,
    READINESS,
    RENEWAL,
    REPORT,
    SCORES,
    SEALED,
    STATISTICS,
    TOMBSTONE,
    UNKNOWN,
)
from agent.egress.packets import Message
from wire.codec import open_envelope, parse_body
from wire.errors import WireError
from wire.messages import UpdateHeader
from wire.topics import ROOT, Topics

Parts = list[tuple[str, int]]
"""Categories and bytes."""
Classify = Callable[[Message], Parts]

_IN_REPORTS = {
    "evaluations": EVALUATIONS,
    "statistics": STATISTICS,
    "choice": CHOICE,
    "sealed": SEALED,
}
_IN_READINESS = {"novelty": HISTOGRAM}
_WHOLE = {"state": BIRTH, "renew": RENEWAL}
_EMPTY = frozenset({b"\xc0", b"\x90"})  # nil and the empty list of MessagePack
_UPDATES = 256
"""Announced contents that are remembered; the agent offers 32 at a time."""


class FederationMessages:
    """Classifies what goes to the federation's broker; remembers how contents were announced."""

    def __init__(self) -> None:
        self._contents: dict[tuple[str, int], str] = {}

    def __call__(self, message: Message) -> Parts:
        """The categories of one message."""
        levels = message.topic.split("/")
        kind = levels[3] if message.topic.startswith(f"{ROOT}/") and len(levels) > 4 else ""
        try:
            if kind == "up":
                return [(self._of_update(levels[2], message), message.size)]
            if kind == "report":
                return _by_field(message, "report", _IN_REPORTS, REPORT)
            if kind == "ask":
                return _by_field(message, "readiness", _IN_READINESS, READINESS)
        except (WireError, msgspec.MsgspecError, ValueError, RecursionError):
            return [(UNKNOWN, message.size)]
        return [(_WHOLE.get(kind, UNKNOWN), message.size)]

    def _of_update(self, federation: str, message: Message) -> str:
        topic = Topics(federation).parse_update(message.topic)
        update = (topic.incarnation, topic.sequence)
        if topic.chunk is not None:
            return self._contents.get(update, CONTENT)
        header = parse_body(open_envelope(message.payload, "update"), UpdateHeader)
        if header.dropped:
            return TOMBSTONE
        self._contents.pop(update, None)
        while len(self._contents) >= _UPDATES:
            del self._contents[next(iter(self._contents))]
        masked = MASKED if header.masked is not None else CONTENT
        self._contents[update] = ENCRYPTED if header.encrypted else masked
        return HEADER


def score_messages(availability: str) -> Classify:
    """Classify what goes to the scores' broker, by the topic of the agent's availability."""

    def classify(message: Message) -> Parts:
        is_availability = message.topic == availability
        return [(AVAILABILITY if is_availability else SCORES, message.size)]

    return classify


def _by_field(message: Message, kind: str, fields: dict[str, str], rest: str) -> Parts:
    """Divide a signed message by fields of its body; names, signature and the others are `rest`."""
    body = open_envelope(message.payload, kind).body
    found = msgspec.msgpack.decode(body, type=dict[str, msgspec.Raw])
    parts = [
        (fields[name], len(memoryview(raw)))
        for name, raw in found.items()
        if name in fields and bytes(raw) not in _EMPTY
    ]
    return [(rest, message.size - sum(size for _, size in parts)), *parts]
