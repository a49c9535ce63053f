"""What waits for one client: bounded, so that a slow one can not stop a line.  Pure.

Samples that find no room push out the oldest, and each stream's loss becomes a Gap that its client
gets before the next samples of that stream.  What is not samples (states, scores, deployments,
gaps) is dropped only when it alone fills the room, which a client that reads at all never sees.

Invariant: at most `most_bytes` wait, and what of a stream was dropped is told before what follows.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from wire.bridge import FromBridge, Gap, Samples, pack

SLOW: Final = "this client was too slow"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A packed message; `samples` where it is some, and may be pushed out."""

    packed: bytes
    samples: Samples | None


@dataclass(slots=True)
class _Dropped:
    """A stream's samples that were pushed out: the first one's source timestamp, and how many."""

    from_us: int
    lost: int


class Mailbox:
    """The messages for one client.

    Args:
      most_bytes: that may wait.

    Attributes:
      dropped: samples that were pushed out.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._given_us: dict[tuple[str, str], int] = {}
        self._dropped: dict[tuple[str, str], _Dropped] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, message: FromBridge) -> None:
        """Put a message behind the others."""
        packed = pack(message)
        samples = message if isinstance(message, Samples) else None
        self._waiting.append(_Waiting(packed, samples))
        self._bytes += len(packed)
        while self._bytes > self._most_bytes and self._waiting:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        at = next((i for i, each in enumerate(self._waiting) if each.samples is not None), 0)
        gone = self._waiting[at]
        del self._waiting[at]
        self._bytes -= len(gone.packed)
        samples = gone.samples
        if samples is None:
            return
        self.dropped += samples.count
        key = samples.device, samples.stream
        before = self._dropped.setdefault(key, _Dropped(samples.first_us, 0))
        before.lost += samples.count

    def pop(self) -> bytes:
        """The bytes of the next message, with the gap before it; empty where none waits."""
        if not self._waiting:
            return b""
        message = self._waiting.popleft()
        self._bytes -= len(message.packed)
        if message.samples is None:
            return message.packed
        samples = message.samples
        key = samples.device, samples.stream
        given_us = self._given_us.get(key)
        self._given_us[key] = int(samples.timestamps_us[-1])
        dropped = self._dropped.pop(key, None)
        if dropped is None:
            return message.packed
        from_us = dropped.from_us if given_us is None else given_us
        gap = Gap(samples.device, samples.stream, from_us, samples.first_us, SLOW, dropped.lost)
        return pack(gap) + message.packed
