"""From decoded items to blocks that wait for the consumer, in the order of the source.

Invariant: within a channel, samples leave in the order of the source: those that came live while
its history is being read wait behind it.
"""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from asyncua import ua

from agent.sensors.opcua.pending import Pending, weight_of
from agent.sensors.opcua.session import Items
from agent.sensors.opcua.timeline import Timeline
from agent.sensors.opcua.values import Numbers, Values, chosen_of
from agent.signals.block import BAD, SEVERITY_SHIFT, ArraySample, Block

_CODE: Final = 0xFFFF_0000
_VANISHED: Final = np.array(
    [
        ua.StatusCodes.BadNodeIdUnknown,
        ua.StatusCodes.BadNodeIdInvalid,
        ua.StatusCodes.BadAttributeIdInvalid,
    ],
    np.uint32,
)
"""An item that says this may be silent for ever, also when its node comes back."""


class Intake:
    """Takes what the server sent.

    Args:
      channels: how many the source has.
      values: makes numbers and arrays of items.
      timeline: of the channels.
      pending: where blocks go.
      on_vanished: told of channels whose node the server does not know.
    """

    def __init__(
        self,
        channels: int,
        values: Values,
        timeline: Timeline,
        pending: Pending,
        on_vanished: Callable[[Iterable[int]], None],
    ) -> None:
        self._values, self._timeline, self._pending = values, timeline, pending
        self._on_vanished = on_vanished
        self._is_held = np.zeros(channels, np.bool_)
        self._held: list[tuple[Numbers, list[ArraySample]]] = []
        self._held_weight = 0

    def take(self, items: Items, *, is_replayed: bool = False) -> None:
        """Turn items into blocks and put them where they wait for the consumer."""
        numbers, arrays = self._values.typed(items)
        bad = numbers[2] >> SEVERITY_SHIFT >= BAD
        if bad.any():
            vanished = bad & np.isin(numbers[2] & np.uint32(_CODE), _VANISHED)
            if vanished.any():
                self._on_vanished(np.unique(numbers[0][vanished]).tolist())
        if self._is_held.any():
            numbers, arrays = self._without_held(numbers, arrays)
        self.place(numbers, arrays, is_replayed=is_replayed)

    def place(
        self, numbers: Numbers, arrays: list[ArraySample], *, is_replayed: bool = False
    ) -> None:
        """Put samples where they wait for the consumer, with the gaps before them."""
        blocks: list[Block] = []
        if len(numbers[0]):
            blocks += self._timeline.place(*numbers, is_replayed=is_replayed)
        for sample in arrays:
            blocks += self._timeline.place_array(sample, is_replayed=is_replayed)
        for block in blocks:
            self._pending.put(block)

    def hold(self, channels: Iterable[int]) -> None:
        """Let samples of these channels wait until `release`."""
        self._is_held[list(channels)] = True

    def held(self) -> list[int]:
        """Channels whose samples wait."""
        return [int(each) for each in np.flatnonzero(self._is_held)]

    def is_held(self, channel: int) -> bool:
        """Whether samples of this channel wait."""
        return bool(self._is_held[channel])

    def first_held_us(self, channel: int) -> int | None:
        """Source timestamp of the first sample of this channel that waits."""
        for (channels, _, _, times_us), arrays in self._held:
            at = np.flatnonzero(channels == channel)
            if len(at):
                return int(times_us[at[0]])
            for sample in arrays:
                if sample.channel == channel:
                    return sample.source_timestamp_us
        return None

    def release(self, channels: Iterable[int]) -> None:
        """Let samples of these channels flow, first those that waited."""
        released = np.zeros_like(self._is_held)
        released[list(channels)] = True
        released &= self._is_held
        self._is_held &= ~released
        held, self._held = self._held, []
        for numbers, arrays in held:
            goes = released[numbers[0]]
            late = [each for each in arrays if released[each.channel]]
            self.place(chosen_of(numbers, goes), late)
            self._keep(
                chosen_of(numbers, ~goes), [each for each in arrays if not released[each.channel]]
            )
        self._held_weight = sum(_weight(*each) for each in self._held)

    def _without_held(
        self, numbers: Numbers, arrays: list[ArraySample]
    ) -> tuple[Numbers, list[ArraySample]]:
        """Set aside what must wait; return the rest."""
        waits = self._is_held[numbers[0]]
        late = [each for each in arrays if self._is_held[each.channel]]
        rest = chosen_of(numbers, ~waits), [e for e in arrays if not self._is_held[e.channel]]
        self._keep(chosen_of(numbers, waits), late)
        if self._held_weight > self._pending.capacity:
            self.release(self.held())  # their gaps are open, so they are marked
        return rest

    def _keep(self, numbers: Numbers, arrays: list[ArraySample]) -> None:
        if len(numbers[0]) or arrays:
            self._held.append((numbers, arrays))
            self._held_weight += _weight(numbers, arrays)


def _weight(numbers: Numbers, arrays: list[ArraySample]) -> int:
    return len(numbers[0]) + weight_of(arrays)
