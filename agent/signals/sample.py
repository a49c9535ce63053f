"""One measured value, with the quality and the time that its source gave it."""

from dataclasses import dataclass

_SEVERITY_SHIFT = 30
_GOOD, _UNCERTAIN = 0, 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one channel.

    Attributes:
      channel: index into the agent's configured channels.
      value: as a float; NaN when the status is Bad.
      status: OPC UA StatusCode (Part 4, section 7.39), 32 bits.
      source_timestamp_us: microseconds since 1970 UTC, from the source, never from arrival.
    """

    channel: int
    value: float
    status: int
    source_timestamp_us: int

    @property
    def is_good(self) -> bool:
        """Severity Good: use without reserve."""
        return self.status >> _SEVERITY_SHIFT == _GOOD

    @property
    def is_uncertain(self) -> bool:
        """Severity Uncertain: usable, counted."""
        return self.status >> _SEVERITY_SHIFT == _UNCERTAIN
