"""Offers of agents: through the gate, and then on their way.

One offer of a device at a time; a newer one takes the place of one that waits.  The gate computes
in a thread and a process, so lines do not wait for it.
"""

import asyncio
import hashlib
import logging
import sys
from collections.abc import Callable

from firmware_bridge.devices import Devices, Known
from firmware_bridge.gate import Limits, Passed, RefusedError, judge
from wire.bridge import Deploy, FromBridge, Judgment, Offer
from wire.errors import one_line

logger = logging.getLogger(__name__)

_UNSEEN_S = 1.0
_MOST_REASON = 900
"""Characters; a message has room for 1000."""


class Offers:
    """What agents want on devices.

    Args:
      devices: all.
      tell: gives a message to all agents.
      wake: lets the lines look at what is new.
      python: that has tflite-micro, if any has.
    """

    def __init__(
        self,
        devices: Devices,
        tell: Callable[[FromBridge], None],
        wake: Callable[[], None],
        python: str = sys.executable,
    ) -> None:
        self._devices, self._tell, self._wake, self._python = devices, tell, wake, python
        self._waiting: dict[str, Offer] = {}
        self._news = asyncio.Event()

    def take(self, offer: Offer) -> None:
        """Judge an offer soon; what comes of it is told."""
        self._waiting[offer.device] = offer
        self._news.set()

    async def run(self) -> None:
        """Judge what comes, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                offer = self._waiting.pop(next(iter(self._waiting)))
                if not self._is_unseen(offer.device):
                    await self._judge(offer)
                    continue
                # Not refused, which would be for good: a device is seen when it was connected.
                self._waiting.setdefault(offer.device, offer)
                await asyncio.sleep(_UNSEEN_S)

    async def _judge(self, offer: Offer) -> None:
        name = one_line(offer.device)
        try:
            passed = await judge(offer, self._limits(offer.device), self._python)
        except RefusedError as error:
            reason = one_line(str(error))[:_MOST_REASON]
            logger.warning("%s: a model is refused at the gate: %s", name, reason)
            self._tell(Judgment(offer.device, offer.key, reason, bytes(32), "", 0, 0, 0.0, 0.0))
            return
        size = len(passed.content)
        logger.info("%s: a model of %d bytes passed: %s", name, size, passed.judges)
        order = Deploy(offer.device, passed.content, offer.trial_s)
        self._tell(_judgment(offer, passed, hashlib.sha256(passed.content).digest()))
        answer = self._devices.order(order)
        if answer is not None:
            self._tell(answer)
        self._wake()

    def _known(self, name: str) -> Known | None:
        return next((each for each in self._devices if each.table.name == name), None)

    def _is_unseen(self, name: str) -> bool:
        known = self._known(name)
        return known is not None and known.device.known is None

    def _limits(self, name: str) -> Limits:
        """What a device has.

        Raises:
          RefusedError: it takes no models, or is not there.
        """
        known = self._known(name)
        seen = None if known is None else known.device.known
        if seen is None:
            raise RefusedError("there is no device of this name")
        if not seen.has_slots:
            raise RefusedError("this device takes no models")
        return Limits(seen.slot_bytes, seen.arena_bytes, seen.ops)


def _judgment(offer: Offer, passed: Passed, sha256: bytes) -> Judgment:
    return Judgment(
        device=offer.device,
        key=offer.key,
        reason="",
        sha256=sha256,
        judges=passed.judges,
        content_bytes=len(passed.content),
        arena_bytes=passed.arena_bytes,
        largest=passed.largest,
        bound=passed.bound,
    )
