"""Ingest: headers and chunks in any order, complete and verified updates out.

Soft state only: what is here is gone after a crash, and nobody minds, because agents offer every
update until it is receipted.  Pure: the caller passes monotonic time in and sends what comes out.
"""

from dataclasses import dataclass, field

from wire.chunks import Assembly, check_content, to_bitmap
from wire.errors import MalformedError
from wire.messages import Content, Receipt, UpdateHeader
from wire.topics import UpdateTopic

BUDGET_BYTES = 64 << 20
SHARE = 4
"""One agent may fill a quarter of the budget, and always one update: none starves the others."""
QUIET_S = 0.5
"""An update whose chunks paused this long is answered with what is missing."""
FORGET_S = 120.0
_ENTRY_BYTES, _CHUNK_BYTES = 1_500, 100
"""What an update and each of its chunks cost beside their bytes, measured and rounded up."""
_Key = tuple[str, str, int]


@dataclass(frozen=True)
class Update:
    """A complete client update: a verified header and its content (empty for a tombstone).

    Attributes:
      envelope: the header as the agent signed it.
    """

    header: UpdateHeader
    content: bytes
    envelope: bytes = b""


@dataclass
class _Incoming:
    header: UpdateHeader
    envelope: bytes
    assembly: Assembly
    chunk_s: float
    heard_s: float
    asked_s: float = field(default=-1e9)


class Ingest:
    """Updates on their way in."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._incoming: dict[_Key, _Incoming] = {}
        self._pledged: dict[str, int] = {}
        """By agent."""
        self.pledged_bytes = 0
        """What the updates on their way in will need at most."""

    def on_header(
        self, header: UpdateHeader, now_s: float, envelope: bytes = b""
    ) -> Update | Receipt | None:
        """Start assembling; returns the update itself when it needs no content.

        Returns:
          A tombstone as a complete update, a `later` receipt when there is no room, else None.

        Raises:
          MalformedError: the header contradicts itself or an earlier one with the same id.
        """
        key = (header.agent, header.incarnation, header.sequence)
        if header.dropped:
            self._forget(key)
            return Update(header, b"", envelope)
        check_content(header.content)
        held = self._incoming.get(key)
        if held is not None:
            if held.header.content.digest != header.content.digest:
                reason = f"update {header.sequence} of {header.agent} came with two contents"
                raise MalformedError(reason)
            if held.header.content == header.content:
                held.heard_s, held.asked_s = now_s, -1e9  # offered again: answer soon
                return None
            self._forget(key)  # cut anew for another broker's packets
        if not self._has_room(header):
            return receipt(header, "later", reason="no room for more chunks now")
        self._incoming[key] = _Incoming(header, envelope, Assembly(header.content), now_s, now_s)
        self._pledge(header.agent, pledge(header.content))
        return None

    def on_chunk(self, topic: UpdateTopic, data: bytes, now_s: float) -> Update | None:
        """Add a chunk; return the update when it is complete.

        Raises:
          MalformedError: the chunk is not the announced one.
        """
        key = (topic.agent, topic.incarnation, topic.sequence)
        held = self._incoming.get(key)
        if held is None or topic.chunk is None:
            return None
        held.assembly.add(topic.chunk, data)
        held.chunk_s = held.heard_s = now_s
        if held.assembly.missing:
            return None
        self._forget(key)
        try:
            return Update(held.header, held.assembly.join(), held.envelope)
        except MalformedError:
            # The header contradicts itself: each chunk fits, the whole does not.  It can never
            # become valid, so it gets its outcome now: refused for its missing content.
            return Update(held.header, b"", held.envelope)

    def ask(self, now_s: float) -> list[tuple[str, Receipt]]:
        """Receipts `wanted` for updates whose chunks paused; forgets the abandoned ones."""
        asked: list[tuple[str, Receipt]] = []
        for key, held in list(self._incoming.items()):
            if now_s - held.heard_s > FORGET_S:
                self._forget(key)
            elif now_s - held.chunk_s >= QUIET_S and now_s - held.asked_s >= 4 * QUIET_S:
                held.asked_s = now_s
                wanted = to_bitmap(held.assembly.missing)
                asked.append((key[0], receipt(held.header, "wanted", wanted=wanted)))
        return asked

    def _has_room(self, header: UpdateHeader) -> bool:
        """Whether the budget, and the agent's share of it, hold this update too."""
        own, more = self._pledged.get(header.agent, 0), pledge(header.content)
        has_share = not own or own + more <= self._budget_bytes // SHARE
        return has_share and self.pledged_bytes + more <= self._budget_bytes

    def _forget(self, key: _Key) -> None:
        held = self._incoming.pop(key, None)
        if held is not None:
            self._pledge(key[0], -pledge(held.header.content))

    def _pledge(self, agent: str, more: int) -> None:
        self.pledged_bytes += more
        left = self._pledged.pop(agent, 0) + more
        if left:
            self._pledged[agent] = left


def pledge(content: Content) -> int:
    """Bytes of memory that an update on its way in will need at most, with its header."""
    return content.size + _ENTRY_BYTES + _CHUNK_BYTES * len(content.chunks)


def receipt(
    header: UpdateHeader,
    status: str,
    *,
    reason: str = "",
    version: int = 0,
    wanted: bytes = b"",
) -> Receipt:
    """A receipt for the update of this header."""
    return Receipt(
        incarnation=header.incarnation,
        sequence=header.sequence,
        status=status,  # type: ignore[arg-type]  # checked by msgspec when it is read
        reason=reason[:500],
        version=version,
        wanted=wanted,
        digest=header.content.digest,
    )
