"""A score: what the model says about one row or window, with its time, quality and origin.

The one value that all outputs carry: each says the same, in its own words.  Pure.

Invariant: a score whose status is Bad is NaN, and so is its confidence.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from agent.signals.block import BAD, GOOD, SEVERITY_SHIFT, UNCERTAIN

OK: Final = "ok"
"""Health of an agent that nothing is wrong with."""
NO_RANGE: Final = (-math.inf, math.inf)
PROBABILITY: Final = (0.0, 1.0)

# OPC 10000-4, 7.39.2 and OPC 10000-8, table of status codes for data access.
STATUS_GOOD: Final = 0
STATUS_INPUTS_UNCERTAIN: Final = 0x40950000
"""UncertainSubNormal: fewer good sources than required; here inputs were held or stale."""
STATUS_STALE: Final = 0x40900000
"""UncertainLastUsableValue: whatever updated this value has stopped doing so."""
STATUS_NO_SCORE: Final = 0x80000000
"""Bad: no score could be made of this row."""
STATUS_WAITING: Final = 0x80320000
"""BadWaitingForInitialData: there was no score yet."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US: Final = -11_644_473_600_000_000
"""1601-01-01, where the time of OPC UA begins (OPC 10000-6, 5.2.2.5)."""
_LAST_US: Final = 253_402_300_799_000_000
"""The end of the year 9999, where that of Python ends."""
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Origin:
    """Which model scores: the same for many scores.

    Attributes:
      model: the bundle's name.
      bundle: SHA-256 of the bundle, 64 hexadecimal digits.
      version: of the served weights.
      serving: which model that is: `global`, or the kind of this site's own one.
      unit: of the score; empty for a probability.
      threshold: from which score on it is an alarm; NaN where nothing is (a predicted number).
      limits: least and greatest score that is possible; infinite where that is not known.
    """

    model: str
    bundle: str = ""
    version: int = 0
    serving: str = "global"
    unit: str = ""
    threshold: float = math.nan
    limits: tuple[float, float] = NO_RANGE


@dataclass(frozen=True, slots=True)
class Driver:
    """A channel that drove a score (`agent/attribution.py`).

    Attributes:
      channel: its name.
      share: of what all channels contributed, by size, -1 to 1: of an alarm positive; negative
        where it makes a predicted number smaller.
      value: of the channel in the row scored, in `unit`; NaN for a waveform.
      unit: of the value.
    """

    channel: str
    share: float
    value: float = math.nan
    unit: str = ""

    def __str__(self) -> str:
        """In words: `tool_wear 62 % (215 min)`."""
        words = f"{self.channel} {100 * self.share:.0f} %"
        if math.isnan(self.value):
            return words
        return f"{words} ({f'{self.value:.6g} {self.unit}'.rstrip()})"


@dataclass(frozen=True, slots=True)
class Score:
    """What one model says about one row or window.

    Attributes:
      origin: the model.
      source_timestamp_us: of the row, or of the window's last row, from the source; microseconds
        since 1970 UTC.
      value: the score (`agent/model.py`, scores): a probability, a number in the origin's unit or
        a reconstruction error; NaN when there is none.
      decision: in words: `normal` or `alarm`, a class's name, or the number.
      code: the decision as a number: 0 normal, 1 alarm; the number of the class; 0 for a number.
      is_alarm: the score reached the threshold.
      confidence: 0 undecided to 1 certain, see `decide.py`; NaN where the model gives none.
      status: OPC UA StatusCode: Uncertain when inputs were held or stale, Bad without a score.
      drivers: the channels that drove it, largest share first; empty where it is not explained.
    """

    origin: Origin
    source_timestamp_us: int
    value: float
    decision: str = ""
    code: int = 0
    is_alarm: bool = False
    confidence: float = math.nan
    status: int = STATUS_GOOD
    drivers: tuple[Driver, ...] = ()

    def __post_init__(self) -> None:
        """Keep the invariant: a number that is none is Bad, and what is Bad has no number."""
        if not math.isfinite(self.value) and not self.is_bad:
            object.__setattr__(self, "status", STATUS_NO_SCORE)
        if self.is_bad:
            for name, nothing in _NOTHING.items():
                object.__setattr__(self, name, nothing)

    @property
    def is_bad(self) -> bool:
        """Whether there is no score."""
        return self.status >> SEVERITY_SHIFT >= BAD

    @property
    def quality(self) -> str:
        """`good`, `uncertain` or `bad`."""
        return _SEVERITIES.get(self.status >> SEVERITY_SHIFT, "bad")

    @property
    def source_time(self) -> datetime:
        """The source timestamp, UTC."""
        return time_of(self.source_timestamp_us)


_NOTHING: Final[Mapping[str, object]] = {
    "value": math.nan,
    "confidence": math.nan,
    "decision": "",
    "code": 0,
    "is_alarm": False,
    "drivers": (),
}
_SEVERITIES: Final = {GOOD: "good", UNCERTAIN: "uncertain", BAD: "bad"}


def time_of(microseconds: int) -> datetime:
    """Microseconds since 1970 as a time; what is outside of both calendars is moved inside."""
    return _EPOCH + min(max(microseconds, _FIRST_US), _LAST_US) * _MICROSECOND


def microseconds_of(time: datetime) -> int:
    """Microseconds since 1970 of a time; one without a zone is UTC."""
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND
