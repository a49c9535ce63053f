"""From readings to blocks: source timestamps, status codes, and the gaps.

A gap is marked between the last sample before something was lost (an outage of the line, a frame
that was refused) and the first after it, for each channel.  When an outage begins, every channel
gets one Bad sample, so that nobody goes on with the last value.

Pure.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.sensors.lines.readings import NO_TIME, Readings
from agent.signals.block import EMPTY, ArraySample, Block, Gap, block_of

BAD_NO_COMMUNICATION = 0x80310000
BAD_DECODING_ERROR = 0x80070000
"""StatusCodes (OPC 10000-6, annex A.2)."""
_NEVER = -1


@dataclass
class BlockMaker:
    """Makes the blocks of one source.

    Attributes:
      shapes: of the channels; () for numbers.
      has_own_times: frames hold their time.
      bad_values: values that could not be read.
      gaps: marked so far.
    """

    shapes: tuple[tuple[int, ...], ...]
    has_own_times: bool
    bad_values: int = 0
    gaps: int = 0
    _last_us: list[int] = field(default_factory=list)
    _is_heard: bool = False
    _ahead_us: int = 0
    _pending: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last_us = [_NEVER] * len(self.shapes)

    def lost(self, reason: str, now_us: int, *, is_gap: bool = True) -> Block:
        """Nothing can be read from now on: a Bad sample for each channel.

        Args:
          reason: for people.
          now_us: by the gateway's clock.  Moved to the device's where frames hold their times; if
            that is not known yet, there are no samples.
          is_gap: mark a gap when there are samples again; a poll without an answer is none.
        """
        channels = range(len(self.shapes))
        if is_gap:
            self._pending |= {at: self._pending.get(at, reason) for at in channels}
        if self.has_own_times:
            if not self._is_heard:
                return EMPTY
            now_us += self._ahead_us
        numbers = [at for at in channels if not self.shapes[at]]
        arrays = tuple(
            ArraySample(at, np.full(shape, np.nan, np.float32), BAD_NO_COMMUNICATION, now_us)
            for at, shape in enumerate(self.shapes)
            if shape
        )
        if not is_gap:
            self._last_us = [now_us] * len(self.shapes)
        count = len(numbers)
        codes = [BAD_NO_COMMUNICATION] * count
        return block_of(numbers, [np.nan] * count, codes, [now_us] * count, arrays=arrays)

    def block(self, readings: Readings, stamps: NDArray[np.int64]) -> Block:
        """The block of these readings, whose frames arrived at these times (int64 (N,))."""
        times = stamps
        is_untimed = np.zeros(len(stamps), np.bool_)
        if readings.times_us is not None:
            is_untimed = readings.times_us == NO_TIME
            times = np.where(is_untimed, stamps, readings.times_us)
        is_bad = np.isnan(readings.values) | is_untimed[:, None]
        is_number = np.array([not shape for shape in self.shapes])
        frames, channels = np.nonzero(readings.is_present & is_number)
        status = np.where(is_bad[frames, channels], BAD_DECODING_ERROR, 0)
        arrays = self._arrays(readings, times, is_untimed)
        self.bad_values += int((status != 0).sum()) + sum(each.status != 0 for each in arrays)
        gaps = self._gaps(readings, times)
        self.gaps += len(gaps)
        if len(times):
            self._ahead_us = int(times[-1] - stamps[-1])
            self._is_heard = True
        values = readings.values[frames, channels]
        return block_of(channels, values, status, times[frames], arrays=arrays, gaps=gaps)

    def _arrays(
        self, readings: Readings, times: NDArray[np.int64], is_untimed: NDArray[np.bool_]
    ) -> tuple[ArraySample, ...]:
        samples = []
        for channel, values in readings.arrays.items():
            for value, time_us, no_time in zip(values, times, is_untimed, strict=True):
                is_bad = bool(no_time) or bool(np.isnan(value).any())
                kept = np.full_like(value, np.nan) if is_bad else value
                code = BAD_DECODING_ERROR if is_bad else 0
                samples.append(ArraySample(channel, kept, code, int(time_us)))
        return tuple(samples)

    def _gaps(self, readings: Readings, times: NDArray[np.int64]) -> tuple[Gap, ...]:
        """The gaps that end in these readings; later ones are kept in mind."""
        gaps: list[Gap] = []
        lost_before = np.flatnonzero(readings.is_after_loss)
        reason = readings.complaint.partition(":")[0] or "bytes could not be read"
        for channel in range(len(self.shapes)):
            present = np.flatnonzero(readings.is_present[:, channel])
            ended = {int(at) for at in np.searchsorted(present, lost_before)}
            if channel in self._pending:
                ended.add(0)
            for at in sorted(ended):
                if at == len(present):
                    self._pending.setdefault(channel, reason)
                    continue
                until_us = int(times[present[at]])
                from_us = int(times[present[at - 1]]) if at else self._last_us[channel]
                why = self._pending.pop(channel, reason) if at == 0 else reason
                if from_us != _NEVER:
                    gaps.append(Gap(channel, from_us, until_us, why))
            if len(present):
                self._last_us[channel] = int(times[present[-1]])
            if readings.is_loss_behind:
                self._pending.setdefault(channel, reason)
        return tuple(gaps)
