"""From the bytes of a frame to a block: every channel's version of it, with one source timestamp.

Pure.  Invariant: a frame that can not be decoded is a Bad sample of every
channel, so that it is counted and not forgotten.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from agent.sensors.images.decode import decode_picture
from agent.sensors.images.picture import PictureError, to_channel
from agent.sensors.images.settings import ImagesSettings
from agent.sensors.source import SourceReport
from agent.signals.block import ArraySample
from agent.signals.time_text import read_zone, time_reader

GOOD, UNCERTAIN = 0, 0x4000_0000
BAD_DECODING_ERROR = 0x8007_0000


@dataclass(frozen=True)
class RawFrame:
    """A frame as it came.

    Attributes:
      data: its bytes.
      name: of its file; empty for a command's.
      time_us: of the file's last change, or of the frame's arrival; microseconds since 1970 UTC.
    """

    data: bytes
    name: str
    time_us: int

    @property
    def shown(self) -> str:
        """What people call it."""
        return self.name or "frame"


@dataclass(frozen=True)
class Decoded:
    """A frame for all channels.

    Attributes:
      samples: one for each channel; Uncertain when the time that was asked for is not known.
      problems: by channel, or `time`: what is wrong; empty when nothing is.
    """

    samples: tuple[ArraySample, ...]
    problems: dict[str, str]

    @property
    def is_bad(self) -> bool:
        """Not one channel has a picture."""
        return all(sample.status >= BAD_DECODING_ERROR for sample in self.samples)


class FrameDecoder:
    """Decodes frames; settings have no problems."""

    def __init__(self, settings: ImagesSettings) -> None:
        self._settings = settings
        self._pattern = re.compile(settings.time_pattern)
        self._time = time_reader(settings.time_format, read_zone(settings.time_zone))

    def name_time_us(self, name: str) -> int:
        """The time in a file name or comment.

        Raises:
          ValueError: there is none.
        """
        found = self._pattern.search(name)
        if found is None or found["time"] is None:
            raise ValueError(f"no time in {name[:80]!r}")
        return self._time(found["time"])

    def decode(self, frame: RawFrame) -> Decoded:
        """Decode one frame for all channels."""
        try:
            picture, comments = decode_picture(frame.data, self._settings.max_pixels)
        except PictureError as error:
            return self.refuse(frame, str(error))
        problems: dict[str, str] = {}
        time_us, status = self._stamp(frame, comments, problems)
        samples: list[ArraySample] = []
        for at, channel in enumerate(self._settings.channel):
            colors, height, width = channel.shape
            try:
                value = to_channel(picture, (colors, height, width), channel.crop)
                samples.append(ArraySample(at, value, status, time_us))
            except PictureError as error:
                problems[channel.name] = f"{frame.shown}: {error}"
                samples.append(_bad(at, channel.shape, time_us))
        return Decoded(tuple(samples), problems)

    def refuse(self, frame: RawFrame, reason: str) -> Decoded:
        """A frame that is not decoded: Bad for all channels."""
        channels = self._settings.channel
        problems = {channel.name: f"{frame.shown}: {reason}" for channel in channels}
        time_us, _ = self._stamp(frame, (), problems)
        samples = (_bad(at, each.shape, time_us) for at, each in enumerate(channels))
        return Decoded(tuple(samples), problems)

    def _stamp(
        self, frame: RawFrame, comments: tuple[str, ...], problems: dict[str, str]
    ) -> tuple[int, int]:
        """Source timestamp, and the status that follows from how well it is known."""
        read: dict[str, Callable[[], int]] = {
            "name": lambda: self.name_time_us(frame.name),
            "comment": lambda: self.name_time_us("\n".join(comments)),
        }
        how = self._settings.time or ""
        try:
            return (read[how]() if how in read else frame.time_us), GOOD
        except ValueError as error:
            problems["time"] = str(error)
            return frame.time_us, UNCERTAIN


def report_frame(decoded: Decoded, settings: ImagesSettings, report: SourceReport) -> None:
    """Report what was wrong with a frame, and forget what was wrong with the one before."""
    for name in ("time", *(channel.name for channel in settings.channel)):
        report.problems.pop(name, None)
    report.problems.update(decoded.problems)
    report.count("frames")
    if decoded.is_bad:
        report.count("bad_frames")


def _bad(channel: int, shape: tuple[int, ...], time_us: int) -> ArraySample:
    value = np.full(shape, np.nan, np.float32)
    return ArraySample(channel, value, BAD_DECODING_ERROR, time_us)
