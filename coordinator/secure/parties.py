"""Those who open sums, as the connection sees them: three helpers, or one recipient.

    topic, payload ─► hear ─► Result: receipts, and whether the head moved
    time           ─► due  ─► what to publish to whom

Routes and no more: what is asked and put together is `exchange.py`'s and `decryption.py`'s, what
follows from it the federation's.
"""

from collections.abc import Iterator

from coordinator.current import Result
from coordinator.federation import Federation
from coordinator.secure.decryption import Decryption
from coordinator.secure.exchange import Exchange
from wire.chunks import CHUNK_BYTES
from wire.codec import kind_of, parse_body
from wire.messages import Endorsement, Examine, HelperState, Masks, Release, Verdicts
from wire.topics import Topics
from wire.trust import Trust

_AGAIN_S, _MORE_S = 0.1, 0.0005


class Parties:
    """Hears and asks whoever opens sums under this charter."""

    def __init__(self, federation: Federation, trust: Trust) -> None:
        self._federation, self._topics = federation, Topics(trust.federation)
        self._exchange = Exchange(federation.sums, trust.federation, CHUNK_BYTES)
        self._decryption: Decryption | None = None
        recipient, sums = trust.charter.recipient, federation.encrypted
        if recipient is not None and sums is not None:
            self._decryption = Decryption(sums, recipient, trust.federation, CHUNK_BYTES)

    @property
    def are_there(self) -> bool:
        """Whether anybody opens sums here at all."""
        return bool(self._federation.sums.helpers) or self._decryption is not None

    def limit_parts(self, chunk_bytes: int) -> None:
        """Keep to a broker's maximum packet size."""
        if self._decryption is not None:
            self._decryption.part_bytes = min(CHUNK_BYTES, chunk_bytes)

    def hear(self, topic: str, payload: bytes, now_s: float) -> Result:
        """Take what a helper or the recipient says; `WireError` for what does not count."""
        name, what, chunk = self._topics.parse_helper(topic)
        if self._decryption is None:
            return self._hear_helper(name, what, chunk, payload, now_s)
        if name != self._decryption.name:
            return Result()  # helpers of masks have no say in what is encrypted
        return self._hear_recipient(self._decryption, chunk, payload, now_s)

    def _hear_helper(
        self, name: str, what: str, chunk: tuple[str, int] | None, payload: bytes, now_s: float
    ) -> Result:
        if chunk is not None:
            complete = self._exchange.on_chunk(name, bytes.fromhex(chunk[0]), chunk[1], payload)
            if complete is None:
                return Result()
            return self._federation.on_masks(complete.manifest, complete.masks, now_s)
        kind = "helper-state"
        if what != "state":
            kind = kind_of(payload, ("verdicts", "endorsement", "masks"))
        helper, opened = self._exchange.verified(payload, kind, name)
        if kind == "verdicts":
            return self._federation.on_verdicts(helper, parse_body(opened, Verdicts))
        if kind == "endorsement":
            word = parse_body(opened, Endorsement)
            return self._federation.on_endorsement(helper, word, payload)
        if kind == "masks":
            self._exchange.on_masks(helper, parse_body(opened, Masks))
        else:
            self._exchange.on_state(helper, parse_body(opened, HelperState), opened.counter)
        return Result()

    def _hear_recipient(
        self,
        decryption: Decryption,
        chunk: tuple[str, int] | None,
        payload: bytes,
        now_s: float,
    ) -> Result:
        if chunk is None:
            heard = decryption.hear(payload)
            key = decryption.recipient.signing.hex()
            return Result() if heard is None else self._federation.on_recipient(key, heard)
        decrypted = decryption.on_chunk(bytes.fromhex(chunk[0]), chunk[1], payload)
        return Result() if decrypted is None else self._federation.on_decrypted(decrypted, now_s)

    def due(self, now_s: float) -> Iterator[tuple[str, Examine | Release | bytes]]:
        """What to publish now: topic, and a message to be signed or bytes that are."""
        if self._decryption is not None:
            topic = self._topics.helper_ask(self._decryption.name)
            yield from ((topic, message) for message in self._decryption.due(now_s))
            return
        for ask in self._exchange.due(now_s):
            yield self._topics.helper_ask(ask.helper), ask.message

    def parts(self) -> Iterator[tuple[str, bytes]]:
        """Topic and bytes of what the recipient has to decrypt and lacks."""
        if self._decryption is not None:
            yield from self._decryption.parts(self._topics)

    def rest_s(self, waiting: int) -> float:
        """How long to wait before asking again: to find what takes longer, the more waits."""
        return _AGAIN_S + _MORE_S * waiting
