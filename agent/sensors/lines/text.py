"""Text lines, decoded: framing, parsing and conversion to columns.

Pure.
"""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agent.sensors.lines.framing import LineFramer
from agent.sensors.lines.parse import (
    RefusedError,
    number,
    read_line,
    strip_line,
    time_of,
    widths,
)
from agent.sensors.lines.readings import Readings, scaled, scaled_array
from agent.sensors.lines.settings import AnyTextSettings, LineChannel, request_bytes

_SHOWN_BYTES = 80


class TextDecoder:
    """From the bytes of a line to `Readings`.

    A device that speaks by itself is heard from the middle of a line on, so what stands before the
    first terminator is passed over, unless lines have a `start`: half a number looks like a number.
    """

    def __init__(self, settings: AnyTextSettings) -> None:
        self._echo = request_bytes(settings).strip(b" \t\r\n")
        self._is_first_whole = bool(self._echo or settings.start)
        self._framer = LineFramer(
            settings.terminator.encode(settings.encoding),
            settings.max_line_bytes,
            is_first_whole=self._is_first_whole,
        )
        self._strip, self._read = strip_line(settings), read_line(settings)
        self._time = (
            None
            if settings.timestamp is None
            else time_of(settings.timestamp_format, settings.timestamp_zone)
        )
        self._channels: tuple[LineChannel, ...] = settings.channel
        self._widths = widths(settings)
        self._convert = [
            _convert(channel, settings.decimal)
            for channel, width in zip(self._channels, self._widths, strict=True)
            for _ in range(width)
        ]

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
        self._framer.reset(is_first_whole=self._is_first_whole)

    def flush(self) -> Readings:
        """The line is quiet; a device may stop in the middle of a line and go on."""
        return self.push(b"")

    def push(self, data: bytes) -> Readings:
        """What the lines that these bytes complete say."""
        lines = self._framer.push(data)
        ends: list[int] = []
        rows: list[list[float]] = []
        times: list[int] = []
        after_loss: list[bool] = []
        counters: Counter[str] = Counter()
        complaint, is_lost = "", False
        for content, end in zip(lines.contents, lines.ends, strict=True):
            try:
                texts = self._texts(content)
            except RefusedError as refused:
                counters[refused.counter] += 1
                complaint = f"{refused}: {(content or b'')[:_SHOWN_BYTES]!r}"
                is_lost = True
                continue
            if texts is None:
                continue
            if self._time is not None:
                times.append(self._time(texts[0] or ""))
                texts = texts[1:]
            rows.append([convert(text) for convert, text in zip(self._convert, texts, strict=True)])
            ends.append(end)
            after_loss.append(is_lost)
            is_lost = False
        if rows:
            counters["frames"] = len(rows)
        values, is_present, arrays = self._columns(rows)
        return Readings(
            np.array(ends, np.int64),
            values,
            is_present,
            np.array(after_loss, np.bool_),
            None if self._time is None else np.array(times, np.int64),
            arrays,
            is_lost,
            counters,
            complaint,
        )

    def _texts(self, content: bytes | None) -> list[str | None] | None:
        """The texts of a line's time and values; None for a line to pass over."""
        if content is None:
            raise RefusedError("longer than max_line_bytes", "overlong_lines")
        if self._echo and content.strip(b" \t\r\n") == self._echo:
            return None
        line = self._strip(content)
        return list(self._read(line)) if line else None

    def _columns(
        self, rows: list[list[float]]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[int, NDArray[np.float32]]]:
        raw = np.array(rows, np.float64).reshape(len(rows), len(self._convert))
        values = np.full((len(rows), len(self._channels)), np.nan)
        arrays: dict[int, NDArray[np.float32]] = {}
        at = 0
        for index, (channel, width) in enumerate(zip(self._channels, self._widths, strict=True)):
            if channel.shape:
                flat = scaled_array(raw[:, at : at + width], channel)
                arrays[index] = flat.reshape(len(rows), *channel.shape)
            else:
                values[:, index] = raw[:, at]
            at += width
        is_present = values != _ABSENT
        values[~is_present] = np.nan
        return scaled(values, self._channels), is_present, arrays


_ABSENT = -math.inf
"""A line says nothing of a channel; no number that was read is infinite."""


def _convert(channel: LineChannel, decimal: str) -> Callable[[str | None], float]:
    """The function from a text to a raw value: NaN if unreadable, `_ABSENT` if there is none."""
    states = channel.states

    def from_state(text: str | None) -> float:
        return _ABSENT if text is None else states.get(text.strip(), math.nan)

    def from_number(text: str | None) -> float:
        return _ABSENT if text is None else number(text)

    def from_comma(text: str | None) -> float:
        if text is None:
            return _ABSENT
        return math.nan if "." in text else number(text.replace(",", "."))

    if states:
        return from_state
    return from_comma if decimal == "," else from_number
