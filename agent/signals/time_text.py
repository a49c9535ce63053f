"""Times as people and historians write them: ISO 8601, seconds and more since 1970, or a pattern.

What files of samples, of labels and names of images have in common.  Pure.  Invariant: a time is
either exact to its microsecond and between the years 1970 and 9999, or a `ValueError`.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

UNITS = ("s", "ms", "us", "ns")
"""Since 1970-01-01T00:00:00 UTC."""
MAX_TIME_CHARACTERS = 64
END_OF_TIME_US = 253_402_300_800_000_000
"""10000-01-01T00:00:00 UTC: what ISO 8601 can not write any more."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNIT_US = {"s": Decimal(1_000_000), "ms": Decimal(1000), "us": Decimal(1), "ns": Decimal("0.001")}
_AUTO = (("s", 1e9, 4.2e9), ("ms", 1e12, 4.2e12), ("us", 1e15, 4.2e15), ("ns", 1e18, 4.2e18))
"""Which unit a number without one has, by its size, in the years 2001 to 2103.  Others are refused,
because a date written in digits, such as 20260331140500, is a number too."""

TimeReader = Callable[[str], int]
"""Microseconds since 1970 UTC of a text; raises `ValueError`."""


def time_reader(how: str = "auto", zone: tzinfo = UTC) -> TimeReader:
    """How to read times written in one way.

    Args:
      how: `auto` (ISO 8601, or a number whose unit follows from its size), `iso8601`, one of
        `UNITS`, or a pattern of `datetime.strptime` with its percent signs.
      zone: of times that do not say theirs.
    """
    if "%" in how:
        return lambda text: instant_us(datetime.strptime(_short(text), how), zone)  # noqa: DTZ007
    if how == "iso8601":
        return lambda text: _iso8601(_short(text), zone)
    if how in UNITS:
        return lambda text: _number(_short(text), how)
    return lambda text: _either(_short(text), zone)


def read_zone(name: str) -> tzinfo:
    """A zone of the IANA database, such as `Europe/Berlin`, or `UTC`.

    Raises:
      ValueError: there is none of this name on this machine.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        reason = f"{name!r} is not a time zone that this machine knows, such as 'Europe/Berlin'"
        raise ValueError(reason) from None


def instant_us(time: datetime, zone: tzinfo = UTC) -> int:
    """Microseconds since 1970 UTC; `zone` is that of a time without one."""
    aware = time if time.tzinfo is not None else time.replace(tzinfo=zone)
    return _checked((aware - _EPOCH) // _MICROSECOND)


def epoch_us(numbers: NDArray[Any], unit: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Microseconds since 1970 UTC of many numbers at once.

    Args:
      numbers: of any integer or floating type, (N,).
      unit: one of `UNITS`, or `auto`: for each number by its size.

    Returns:
      int64 (N,) and which of them are not times, bool (N,): not finite, or out of range.
    """
    micros = np.zeros(len(numbers), np.int64)
    bad = np.ones(len(numbers), np.bool_)
    size = numbers.astype(np.float64)
    for name, low, high in _AUTO if unit == "auto" else ((unit, 0.0, np.inf),):
        here = (size >= low) & (size < high)
        micros[here], bad[here] = _scaled(numbers[here], name)
    return micros, bad


def _scaled(numbers: NDArray[Any], unit: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if np.issubdtype(numbers.dtype, np.integer):  # exact, also beyond 2^53
        bad = numbers >= int(END_OF_TIME_US / _UNIT_US[unit])
        whole = np.where(bad, 0, numbers).astype(np.int64)
        return (whole // 1000 if unit == "ns" else whole * int(_UNIT_US[unit])), bad
    scaled = numbers.astype(np.float64) * float(_UNIT_US[unit])
    bad = np.rint(scaled) >= END_OF_TIME_US
    return np.rint(np.where(bad, 0.0, scaled)).astype(np.int64), bad


def _either(text: str, zone: tzinfo) -> int:
    try:
        number = float(text)
    except ValueError:
        return _iso8601(text, zone)
    for unit, low, high in _AUTO:
        if low <= number < high:
            return _number(text, unit)
    reason = f"{text!r} is no time of this century in s, ms, us or ns since 1970; say how it is "
    raise ValueError(reason + "written")


def _number(text: str, unit: str) -> int:
    try:
        number = Decimal(text)
        if not number.is_finite() or abs(number) > 10**30:
            raise ValueError(f"{text!r} is not a time between 1970 and 9999")
        return _checked(round(number * _UNIT_US[unit]))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number of {unit} since 1970") from None


def _iso8601(text: str, zone: tzinfo) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        reason = f"{text!r} is not a time such as 2026-03-31T14:05:00Z"
        raise ValueError(reason) from None
    return instant_us(time, zone)


def _checked(micros: int) -> int:
    if not 0 <= micros < END_OF_TIME_US:
        raise ValueError("the time is not between the years 1970 and 9999")
    return micros


def _short(text: str) -> str:
    if len(text) > MAX_TIME_CHARACTERS:
        raise ValueError(f"a time of more than {MAX_TIME_CHARACTERS} characters")
    return text.strip()
