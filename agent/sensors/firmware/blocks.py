"""From the bridge's samples to blocks: chosen channels, waveforms, gaps.  Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.sensors.firmware.settings import FirmwareChannel, field_of
from agent.signals.block import ArraySample, Block, Gap, block_of
from wire.bridge import Gap as BridgeGap
from wire.bridge import Samples

BAD_NO_COMMUNICATION: Final = 0x80310000
BAD_SENSOR_FAILURE: Final = 0x808C0000
"""StatusCodes (OPC 10000-6, annex A.2)."""
_NEVER: Final = -1


class BlockMaker:
    """Makes the blocks of one source.

    Args:
      channels: configured.

    Attributes:
      gaps: marked so far.
    """

    def __init__(self, channels: Sequence[FirmwareChannel]) -> None:
        self._channels = channels
        self._column: list[int | None] = [None] * len(channels)
        self._parts: dict[int, list[NDArray[np.float32]]] = {}
        self._last_us = _NEVER
        self._lost = ""
        self.gaps = 0

    def bind(self, fields: Sequence[str]) -> list[str]:
        """Take the stream's channels as the bridge names them; gives those that it does not have.

        Args:
          fields: in the order of the samples' columns.
        """
        found = {name: at for at, name in enumerate(fields)}
        self._column = [found.get(field_of(each)) for each in self._channels]
        return [field_of(each) for each in self._channels if field_of(each) not in found]

    def gap(self, gap: BridgeGap) -> Block:
        """What the bridge knows to be missing."""
        self._parts.clear()
        gaps = tuple(
            Gap(at, gap.from_us, gap.until_us, gap.reason, gap.lost)
            for at in range(len(self._channels))
        )
        self.gaps += len(gaps)
        self._lost = ""
        return block_of((), (), (), (), gaps=gaps)

    def lost(self, reason: str, now_us: int) -> Block:
        """Nothing comes from now on: a Bad sample for each channel.

        Args:
          reason: for people.
          now_us: by the gateway's clock.
        """
        self._parts.clear()
        self._lost = self._lost or reason
        at_us = max(now_us, self._last_us + 1)
        numbers = [at for at, each in enumerate(self._channels) if not each.shape]
        arrays = tuple(
            ArraySample(at, np.full(each.shape, np.nan, np.float32), BAD_NO_COMMUNICATION, at_us)
            for at, each in enumerate(self._channels)
            if each.shape
        )
        count = len(numbers)
        codes = [BAD_NO_COMMUNICATION] * count
        return block_of(numbers, [np.nan] * count, codes, [at_us] * count, arrays=arrays)

    def samples(self, samples: Samples) -> Block:
        """The block of these samples, in order of time."""
        values, stamps = samples.array, samples.timestamps_us
        gaps = self._gaps(int(stamps[0]))
        numbers = [
            (at, column)
            for at, column in enumerate(self._column)
            if column is not None and column < samples.channels and not self._channels[at].shape
        ]
        channel = np.tile(np.array([at for at, _ in numbers], np.uint32), samples.count)
        chosen = values[:, [column for _, column in numbers]].reshape(-1)
        times = np.repeat(stamps, len(numbers))
        # A float that is no number says that the device could not measure.
        status = np.where(np.isfinite(chosen), 0, BAD_SENSOR_FAILURE)
        self._last_us = int(stamps[-1])
        arrays = self._arrays(samples, values, stamps)
        return block_of(channel, chosen, status, times, arrays=arrays, gaps=gaps)

    def _gaps(self, first_us: int) -> tuple[Gap, ...]:
        """That of an outage that ends here."""
        reason, self._lost = self._lost, ""
        if not reason or self._last_us == _NEVER or first_us <= self._last_us:
            return ()
        gaps = tuple(Gap(at, self._last_us, first_us, reason) for at in range(len(self._channels)))
        self.gaps += len(gaps)
        return gaps

    def _arrays(
        self, samples: Samples, values: NDArray[np.float32], stamps: NDArray[np.int64]
    ) -> tuple[ArraySample, ...]:
        """Waveforms that are whole now; each has the time of its last value."""
        made: list[ArraySample] = []
        for at, channel in enumerate(self._channels):
            column = self._column[at]
            if column is None or column >= samples.channels or not channel.shape:
                continue
            kept = self._parts.pop(at, [])
            before = sum(map(len, kept))
            row = np.concatenate([*kept, values[:, column]])
            size = math.prod(channel.shape)
            whole = len(row) // size * size
            for start in range(0, whole, size):
                value = row[start : start + size].reshape(channel.shape)
                is_bad = not np.isfinite(value).all()
                code = BAD_SENSOR_FAILURE if is_bad else 0
                value = np.full_like(value, np.nan) if is_bad else value.copy()
                made.append(ArraySample(at, value, code, int(stamps[start + size - 1 - before])))
            self._parts[at] = [row[whole:].copy()]
        return tuple(made)
