"""The open requests to one device: numbered, repeated until answered, lost ones noticed at once.

FRAMING.md, 'Requests'.  Pure: times are microseconds of a clock that never steps, given by the
caller.  A device answers in the order in which requests come, so an answer says that whatever was
sent before it and is not answered was lost: it is repeated without waiting for its time to be over.
That keeps a line busy at which one frame in a hundred is lost (fast retransmit, RFC 5681, 3.2).

Some are asked anew, never repeated: WRITE goes on from what the device has, a late answer to an
earlier TIME would look like a long way, POLL's frames are gone, and CONNECT has nothing to repeat.

Invariant: an answer is taken once, and only for a request that is open, with its number and type.
"""

from dataclasses import dataclass, replace
from typing import Final

from firmware_bridge.frames import SEQUENCE_MODULUS, Frame
from firmware_bridge.messages import ANSWER, Answer, Request, parse_answer

ASKED_ANEW: Final = frozenset({Request.CONNECT, Request.WRITE, Request.TIME, Request.POLL})

_LONGEST_US: Final = 4_000_000
"""Each time that a request is repeated it gets twice the time, up to this: flash may be erased."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was sent.

    Attributes:
      number: its sequence number.
      type: what it asks.
      payload: as it was sent.
      sent_us: last time.
      due_us: when it counts as lost.
      timeout_us: how long an answer may take.
      is_stale: its answer only frees its place in the window.
    """

    number: int
    type: Request
    payload: bytes
    sent_us: int
    due_us: int
    timeout_us: int
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that was taken.

    Attributes:
      asked: the request.
      answer: what came.
      lost: requests sent before it that will not be answered, and have to be asked anew.
    """

    asked: Asked
    answer: Answer
    lost: tuple[Asked, ...]


class Requests:
    """What was asked of one device and is not answered yet.

    Args:
      address: of the device.
      number: of the first request; best not the one that the last run of the gateway began with.

    Attributes:
      unanswered: requests in a row whose time ran out.
      unexpected: answers to nothing that is open, or that can not be parsed.
      repeated: requests that were sent again, or asked anew.
    """

    def __init__(self, address: int, number: int) -> None:
        self._address, self._number = address, number % SEQUENCE_MODULUS
        self._open: dict[int, Asked] = {}  # in the order in which they were sent last
        self.unanswered = 0
        self.unexpected = 0
        self.repeated = 0

    def __len__(self) -> int:
        return len(self._open)

    def has(self, *types: Request) -> bool:
        """Whether one of these types is open."""
        return any(each.type in types for each in self._open.values())

    def ask(self, kind: Request, payload: bytes, now_us: int, timeout_us: int) -> Frame:
        """Open a request; return its frame."""
        number = self._number
        self._number = (number + 1) % SEQUENCE_MODULUS
        due_us = now_us + timeout_us
        self._open[number] = Asked(number, kind, payload, now_us, due_us, timeout_us)
        return Frame(kind, number, payload, self._address)

    def overdue(self, now_us: int) -> list[Asked]:
        """Close what is not answered in time and has to be asked anew."""
        late = [each for each in self._open.values() if each.due_us <= now_us]
        gone = [each for each in late if each.type in ASKED_ANEW]
        for each in gone:
            del self._open[each.number]
        self._count_lost(len(gone))
        if gone:
            self.unanswered += 1
        return gone

    def repeat(self, now_us: int) -> Frame | None:
        """The frame of a request to send again; None when none is due."""
        for each in self._open.values():
            if each.due_us <= now_us and each.type not in ASKED_ANEW:
                del self._open[each.number]
                longer_us = min(2 * each.timeout_us, max(_LONGEST_US, each.timeout_us))
                again = replace(
                    each, sent_us=now_us, due_us=now_us + longer_us, timeout_us=longer_us
                )
                self._open[each.number] = again
                self.unanswered += 1
                self._count_lost(1)
                return Frame(each.type, each.number, each.payload, self._address)
        return None

    def take(self, frame: Frame, now_us: int) -> Answered | None:
        """Close the request that this frame answers; None when it answers none."""
        asked = self._open.get(frame.sequence)
        answer = parse_answer(frame.payload)
        if asked is None or answer is None or frame.type != asked.type + ANSWER:
            self.unexpected += 1
            return None
        lost: list[Asked] = []
        for number, each in list(self._open.items()):
            if number == asked.number:
                break
            if each.type in ASKED_ANEW:
                del self._open[number]
                if not each.is_stale:
                    lost.append(each)
            else:
                self._open[number] = replace(each, due_us=now_us)
        del self._open[asked.number]
        self._count_lost(len(lost))
        self.unanswered = 0
        return Answered(asked, answer, tuple(lost))

    def make_stale(self, kind: Request) -> None:
        """Let answers to open requests of a type mean nothing any more."""
        for number, each in self._open.items():
            if each.type is kind:
                self._open[number] = replace(each, is_stale=True)

    def forget(self) -> None:
        """Close all: the device was reset, or does not answer."""
        self._open.clear()
        self.unanswered = 0

    def next_due_us(self) -> int | None:
        """When the first of them counts as lost; None where none is open."""
        return min((each.due_us for each in self._open.values()), default=None)

    def extend(self, kind: Request, now_us: int) -> None:
        """Begin the time for open requests of a type anew: the device is speaking."""
        for number, each in self._open.items():
            if each.type is kind:
                self._open[number] = replace(each, due_us=now_us + each.timeout_us)

    def _count_lost(self, by: int) -> None:
        self.repeated += by
