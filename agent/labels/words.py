"""Labels as people say and read them: values by name, time spans, a line for each record.  Pure."""

import math
import re
from datetime import UTC, datetime, tzinfo

from agent.labels.settings import LabelChannel
from agent.labels.store import KeptLabel
from agent.signals.label_file import LabelRecord
from agent.signals.time_text import time_reader

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NOTHING = ("none", "unknown")


def value_of(channel: LabelChannel, text: str) -> float:
    """A label in words as its number; NaN for `none`.

    Raises:
      ValueError: it is neither a number nor one of the channel's states.
    """
    if text in channel.states:
        return channel.states[text]
    if text.lower() in _NOTHING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        known = ", ".join(channel.states) or "no states are configured"
        raise ValueError(f"{text!r} is neither a number nor a state of {channel.name} ({known})")
    return value


def span_us(
    begin: str | None, until: str | None, last: str | None, now_us: int, zone: tzinfo | None = None
) -> tuple[int, int]:
    """The time span that an operator means, in microseconds since 1970 UTC.

    Args:
      begin: ISO 8601 or seconds since 1970.
      until: as well; `now_us` if not given.
      last: how long before `until` it began, instead of `begin`.
      now_us: the time, microseconds since 1970 UTC.
      zone: of times that do not say theirs; the gateway's own if not given.

    Raises:
      ValueError: says what is wrong.
    """
    read = time_reader("auto", zone or datetime.now(UTC).astimezone().tzinfo or UTC)
    end = now_us if not until else read(until)
    if bool(begin) == bool(last):
        raise ValueError("give either --from TIME or --last SPAN")
    if begin:
        first = read(begin)
    else:
        found = _SPAN.fullmatch(last or "")
        if found is None:
            raise ValueError(f"{last!r} is not a time span such as 90s, 10m, 8h or 2d")
        first = end - round(float(found[1]) * _SECONDS[found[2]] * 1e6)
    if first > end:
        raise ValueError("it would end before it begins")
    return first, end


def describe(channel: LabelChannel | None, record: LabelRecord) -> str:
    """A record in words: `defect = scratch (2) from ... until ...`."""
    names = {} if channel is None else {value: name for name, value in channel.states.items()}
    value = f"{record.value:g}"
    if math.isnan(record.value):
        value = "no label"
    elif record.value in names:
        value = f"{names[record.value]} ({value})"
    return f"{record.channel} = {value} from {_iso(record.from_us)} until {_iso(record.until_us)}"


def in_a_line(channel: LabelChannel | None, kept: KeptLabel) -> str:
    """A kept record in one line, for a terminal."""
    note = f"  # {kept.note}" if kept.note else ""
    return f"{kept.number:6}  {describe(channel, kept.record)}  by {kept.origin}{note}"


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")
