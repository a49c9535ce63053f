"""Binary frames, decoded: the layout that the settings describe, and its fields as columns.

Pure.
"""

import re

import numpy as np
from numpy.typing import NDArray

from agent.sensors.lines.checksums import checksum
from agent.sensors.lines.framing import FrameFramer, FrameLayout, Frames
from agent.sensors.lines.parse import EPOCH_UNIT_US
from agent.sensors.lines.readings import LATEST_US, NO_TIME, Readings, scaled, scaled_array
from agent.sensors.lines.settings import BinarySettings

_CODES = {
    "b": "i1",
    "B": "u1",
    "?": "u1",
    "h": "i2",
    "H": "u2",
    "i": "i4",
    "I": "u4",
    "l": "i4",
    "L": "u4",
    "q": "i8",
    "Q": "u8",
    "e": "f2",
    "f": "f4",
    "d": "f8",
}
"""Codes of Python's struct in standard sizes, as numpy calls them."""
_FIELD = re.compile(r"([0-9]{0,5})([a-zA-Z?])")
_PADDING = "x"


def field_count(code: str) -> tuple[str, int]:
    """The type and how many values a field has: `16H` is ("H", 16).

    Raises:
      ValueError: it is not a code of struct, or one of texts.
    """
    match = _FIELD.fullmatch(code)
    if match is None or (match[2] not in _CODES and match[2] != _PADDING):
        known = ", ".join((*_CODES, _PADDING))
        raise ValueError(f"{code!r} is not a count and one of {known}")
    count = int(match[1] or "1")
    if not count:
        raise ValueError(f"{code!r} has no values")
    return match[2], count


def record_type(settings: BinarySettings) -> np.dtype[np.void]:
    """The fields of a frame as a packed numpy record.

    Raises:
      ValueError: a field's code is wrong.
    """
    order = "<" if settings.byte_order == "little" else ">"
    names: list[str] = []
    formats: list[tuple[str, tuple[int, ...]]] = []
    offsets: list[int] = []
    at = 0
    for name, code in settings.fields.items():
        kind, count = field_count(code)
        if kind == _PADDING:
            at += count
            continue
        names.append(name)
        formats.append((order + _CODES[kind], (count,)))
        offsets.append(at)
        at += count * np.dtype(_CODES[kind]).itemsize
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": at})


def fields_at(settings: BinarySettings) -> int:
    """Offset of the first field."""
    if settings.fields_at is not None:
        return settings.fields_at
    header = len(bytes.fromhex(settings.sync))
    return header + length_bytes(settings) if settings.length_at == header else header


def length_bytes(settings: BinarySettings) -> int:
    """Bytes of the length field."""
    return 1 if settings.length_type == "u8" else 2


def frame_layout(settings: BinarySettings) -> FrameLayout:
    """Where the parts of a frame stand.

    Raises:
      ValueError: hexadecimal or a field's code is wrong.
    """
    sync, end = bytes.fromhex(settings.sync), bytes.fromhex(settings.end)
    algorithm = checksum(settings.checksum)
    at = settings.checksum_at
    if at is None:
        at = -algorithm.size - len(end)
    fields = fields_at(settings) + record_type(settings).itemsize
    size = None
    behind_length = 0
    if settings.length_at is None:
        size = settings.frame_bytes or (
            fields + max(-at, len(end)) if at <= 0 else max(fields, at + algorithm.size) + len(end)
        )
    else:
        behind_length = settings.length_at + length_bytes(settings)
    from_front = max(len(sync), behind_length, settings.checksum_from)
    least = from_front - at if at < 0 else max(from_front, at + algorithm.size) + len(end)
    order = settings.checksum_byte_order or settings.byte_order
    return FrameLayout(
        sync=sync,
        end=end,
        size=size,
        length_at=settings.length_at or 0,
        length_bytes=length_bytes(settings),
        length_adds=settings.length_adds,
        is_length_big=settings.byte_order == "big",
        min_size=least,
        max_size=settings.max_frame_bytes,
        checksum=algorithm,
        checksum_at=at,
        checksum_from=settings.checksum_from,
        is_checksum_big=order == "big",
    )


class BinaryDecoder:
    """From the bytes of a line to `Readings`."""

    def __init__(self, settings: BinarySettings) -> None:
        self._settings = settings
        self._record, self._at = record_type(settings), fields_at(settings)
        self._framer = FrameFramer(frame_layout(settings))
        self._channels = settings.channel
        self._told = (0, 0)

    @property
    def offset(self) -> int:
        """Bytes taken so far."""
        return self._framer.offset

    @property
    def kept(self) -> int:
        """Stream offset of the first byte that is kept."""
        return self._framer.kept

    def reset(self) -> None:
        """Forget what is kept: the next bytes do not continue it."""
        self._framer.reset()

    def flush(self) -> Readings:
        """The line is quiet: an unfinished frame will not be completed."""
        return self._readings(self._framer.flush())

    def push(self, data: bytes) -> Readings:
        """What the frames that these bytes complete say."""
        return self._readings(self._framer.push(data))

    def _readings(self, frames: Frames) -> Readings:
        size = self._record.itemsize
        is_whole = frames.sizes >= self._at + size
        short = len(is_whole) - int(is_whole.sum())
        is_loss_behind = False
        if short:
            is_loss_behind = bool(frames.is_after_loss[_behind(is_whole) :].any())
            frames = _chosen(frames, is_whole)
        records = frames.columns(self._at, size).view(self._record)[:, 0]
        counters = self._counters(len(records), short)
        raw = np.full((len(records), len(self._channels)), np.nan)
        arrays = {}
        for index, channel in enumerate(self._channels):
            values = records[channel.field].astype(np.float64)
            if channel.shape:
                flat = scaled_array(values, channel)
                arrays[index] = flat.reshape(len(records), *channel.shape)
            else:
                raw[:, index] = values[:, 0]
        return Readings(
            frames.ends,
            scaled(raw, self._channels),
            np.ones(raw.shape, np.bool_),
            frames.is_after_loss,
            self._times(records),
            arrays,
            is_loss_behind,
            counters,
            "no frame of the layout fits" if counters.get("bad_frames") else "",
        )

    def _times(self, records: NDArray[np.void]) -> NDArray[np.int64] | None:
        """The frames' own times: int64 (n,), or None where they have none."""
        if self._settings.timestamp is None:
            return None
        unit = EPOCH_UNIT_US[self._settings.timestamp_format]
        raw = records[self._settings.timestamp][:, 0]
        is_known = np.isfinite(raw) & (raw >= 0) & (raw <= LATEST_US / unit)
        times = np.where(is_known, raw, 0)
        if times.dtype.kind == "f":
            times = np.round(times.astype(np.float64) * unit)
            unit = 1
        return np.where(is_known, times.astype(np.int64) * unit, NO_TIME)

    def _counters(self, frames: int, short: int) -> dict[str, int]:
        """What the framer has counted since the last time, and these."""
        told, self._told = self._told, (self._framer.bad_frames, self._framer.discarded_bytes)
        found = {
            "frames": frames,
            "short_frames": short,
            "bad_frames": self._told[0] - told[0],
            "discarded_bytes": self._told[1] - told[1],
        }
        return {name: count for name, count in found.items() if count}


def _behind(is_chosen: NDArray[np.bool_]) -> int:
    """The index behind the last that is chosen."""
    return int(np.flatnonzero(is_chosen)[-1]) + 1 if is_chosen.any() else 0


def _chosen(frames: Frames, is_chosen: NDArray[np.bool_]) -> Frames:
    """Only these frames; a loss before one that is left out counts for the next."""
    after = np.flatnonzero(is_chosen)
    lost_before = np.cumsum(frames.is_after_loss)[after]
    return Frames(
        frames.stream,
        frames.starts[after],
        frames.sizes[after],
        frames.ends[after],
        np.diff(lost_before, prepend=0) > 0,
    )
