"""From a device's samples to what agents get: scaled, named, in UTC, with gaps.  Pure.

A gap says how many samples are missing, where the stream has a period: lost frames do not say whose
they were, but the next samples' time does.

Refuses: streams that are not configured, and samples with another number of channels; they are
counted by their reason.
Invariant: source timestamps of a stream rise; a gap ends where the samples behind it begin.
"""

from typing import Final

import numpy as np

from firmware_bridge.events import Sampled, Scored
from firmware_bridge.settings import DeviceTable, StreamTable
from firmware_bridge.utc import UtcDifference
from wire.bridge import Gap, Samples, Scores

_KINDS: Final = {"int8": "i8", "int16": "i16", "float32": "f32"}
RESET, LOST = "device was reset", "frames lost"


class StreamMaker:
    """The streams of one device.

    Args:
      table: its configuration.
      utc: of this gateway.

    Attributes:
      unknown: frames of streams that are not configured.
      misshapen: frames with another number of channels than configured.
      samples: that agents were given, by stream.
      gaps: that were marked.
      lost: samples known to be missing.
    """

    def __init__(self, table: DeviceTable, utc: UtcDifference) -> None:
        self._device, self._utc = table.name, utc
        self._streams = {stream.number: stream for stream in table.stream}
        self._scale = {
            number: np.array([channel.scale for channel in stream.channel])
            for number, stream in self._streams.items()
        }
        self._offset = {
            number: np.array([channel.offset for channel in stream.channel])
            for number, stream in self._streams.items()
        }
        self._last_us: dict[int, int] = {}
        self.unknown = 0
        self.misshapen = 0
        self.samples = 0
        self.gaps = 0
        self.lost = 0

    def take(self, sampled: Sampled) -> list[Gap | Samples]:
        """What agents get of one frame; nothing of one that is refused."""
        sensor = sampled.sensor
        stream = self._streams.get(sensor.stream)
        if stream is None:
            self.unknown += 1
            return []
        count, channels = sensor.values.shape
        if channels != len(stream.channel):
            self.misshapen += 1
            return []
        last_us = self._last_us.get(sensor.stream)
        first_us = self._utc.utc_us(sampled.first_us)
        if last_us is not None:
            first_us = max(first_us, last_us + 1)
        raw = sensor.values.astype(np.float64)
        values = raw * self._scale[sensor.stream] + self._offset[sensor.stream]
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which agents take for Bad
            packed = values.astype("<f4").tobytes()
        samples = Samples(
            self._device,
            stream.name,
            first_us,
            sampled.period_us,
            count,
            channels,
            packed,
        )
        self._last_us[sensor.stream] = int(samples.timestamps_us[-1])
        self.samples += count
        gap = self._gap(sampled, stream, last_us, first_us)
        return [samples] if gap is None else [gap, samples]

    def _gap(
        self, sampled: Sampled, stream: StreamTable, last_us: int | None, first_us: int
    ) -> Gap | None:
        is_marked = sampled.is_after_reset or sampled.is_after_loss
        if last_us is None or not is_marked:
            return None
        lost: int | None = None
        if sampled.period_us and not sampled.is_after_reset:
            lost = round((first_us - last_us) / sampled.period_us) - 1
            if lost <= 0:
                return None  # the frames that were lost were another stream's
            lost = min(lost, 0xFFFF_FFFF)
        self.gaps += 1
        self.lost += lost or 0
        reason = RESET if sampled.is_after_reset else LOST
        return Gap(self._device, stream.name, last_us, first_us, reason, lost)

    def scores(self, scored: Scored) -> Scores | None:
        """What agents get of a score; nothing where its stream is not configured."""
        score = scored.score
        stream = self._streams.get(score.stream)
        if stream is None:
            self.unknown += 1
            return None
        kind = _KINDS[score.values.dtype.name]
        outputs = tuple(float(each) for each in score.values)
        at_us = self._utc.utc_us(scored.at_us)
        return Scores(
            self._device, stream.name, score.model, at_us, score.on_trial,
            kind, outputs,  # type: ignore[arg-type]
        )  # fmt: skip
