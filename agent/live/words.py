"""A sample in words: value, quality, time, age.  Pure."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
from asyncua import ua

from agent.live.seen import Newest
from agent.sensors.source import ChannelSettings
from agent.signals.block import SEVERITY_SHIFT

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEVERITIES = ("Good", "Uncertain", "Bad", "Bad")
_CODE_BITS = 0xFFFF0000
"""Of a StatusCode: severity and sub-code; below are flags (OPC 10000-4, 7.39)."""

COLUMNS = ("CHANNEL", "VALUE", "UNIT", "QUALITY", "SOURCE TIME (UTC)", "AGE", "PER S")


def cells(channel: ChannelSettings, newest: Newest | None, now_us: int) -> tuple[str, ...]:
    """One row of the table of `COLUMNS`."""
    if newest is None:
        return channel.name, "-", channel.unit, "nothing yet", "-", "-", "-"
    return (
        channel.name,
        value_text(channel, newest),
        channel.unit,
        quality_text(newest.status),
        time_text(newest.source_timestamp_us),
        age_text(now_us - newest.source_timestamp_us),
        "-" if newest.rate_hz is None else f"{newest.rate_hz:.3g}",
    )


def value_text(channel: ChannelSettings, newest: Newest) -> str:
    """A number, the text of a state, or what an array is like."""
    value = newest.value
    if isinstance(value, np.ndarray):
        shape = "x".join(map(str, value.shape)) or "1"
        finite = value[np.isfinite(value)].astype(np.float64)
        if not finite.size:
            return f"[{shape}] no numbers"
        rms = math.sqrt(float(np.mean(finite * finite)))
        return f"[{shape}] min {finite.min():.5g} max {finite.max():.5g} rms {rms:.5g}"
    if math.isnan(value):
        return "-"
    for text, number in channel.states.items():
        if number == value:
            return f"{text} ({value:g})"
    return f"{value:.10g}"


def quality_text(status: int) -> str:
    """`Good`, or the severity with the StatusCode's name: `Bad (BadSensorFailure)`."""
    severity = _SEVERITIES[status >> SEVERITY_SHIFT]
    name = status_name(status)
    return severity if name == severity else f"{severity} ({name})"


def status_name(status: int) -> str:
    """The standard's name of a StatusCode, or its number where it has none (OPC 10000-6, A.2)."""
    code = status & _CODE_BITS
    name = str(ua.StatusCode(ua.UInt32(code)).name)
    is_known = name not in _SEVERITIES or code in (0, 0x40000000, 0x80000000)
    return name if is_known else f"0x{status:08X}"


def time_text(source_timestamp_us: int) -> str:
    """ISO 8601, UTC, with milliseconds; a number where no calendar reaches."""
    try:
        time = _EPOCH + timedelta(microseconds=source_timestamp_us)
    except OverflowError:
        return f"{source_timestamp_us} us"
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z"


def age_text(age_us: int) -> str:
    """How long ago, in the unit that people would use; negative: the source's clock is ahead."""
    for unit, size_us in (("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000)):
        if abs(age_us) >= 2 * size_us:
            return f"{age_us / size_us:.1f} {unit}"
    return f"{age_us / 1e6:.2f} s"


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
