"""A device's clock, seen from the gateway: offset and drift out of TIME exchanges.

FRAMING.md, 'Clock'.  An exchange has four times: the gateway sent (1), the device received (2) and
sent (3), the gateway received (4).  As in RFC 5905, section 8:

    offset = ((2 - 1) + (3 - 4)) / 2        delay = (4 - 1) - (3 - 2)

What lies between (1) and (4) and is not the device's is the way.  It is never shorter than the line
takes, and each delay on it (a USB adapter that holds bytes back, a busy gateway) falls on one side,
so the error of `offset` is at most half of what `delay` has too much.  Of each EXCHANGES_A_GROUP
exchanges the one with the shortest delay is believed (the clock filter of section 10); through the
believed ones of the last GROUPS groups goes a line by least squares, each weighted by what its
delay has too much beside the shortest.  Before there is enough to see the drift, a drift within
DRIFT_SIGMA is assumed: one more, weak, observation.

Pure.  Times are microseconds: of the device since its reset, of the gateway on a clock that never
steps.  Invariant: `to_gateway_us` rises with the device's time.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

EXCHANGES_A_GROUP: Final = 8
GROUPS: Final = 12
DRIFT_SIGMA: Final = 500e-6
"""Ten times what quartz crystals are off; ceramic resonators and RC oscillators come to 0.5 %."""
MOST_DRIFT: Final = 0.01
"""A clock that is wrong by more than 1 % is none; HSI oscillators stay below."""
STEP_US: Final = 50_000
"""So far from the fit, and not explained by the delay, it is another clock: a reset."""
_FLOOR_US: Final = 20.0
"""Error of the best exchange: what a device needs to answer an interrupt, and its timer's tick."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One TIME request and its answer, in microseconds.

    Attributes:
      sent_us: gateway, first byte; what the request takes on the line already added.
      received_us: device.
      answered_us: device.
      arrived_us: gateway, last byte; what the answer takes on the line already taken off.
    """

    sent_us: float
    received_us: int
    answered_us: int
    arrived_us: float

    @property
    def delay_us(self) -> float:
        """Time on the way, both ways together."""
        return (self.arrived_us - self.sent_us) - (self.answered_us - self.received_us)

    @property
    def device_us(self) -> float:
        """Device time in the middle."""
        return (self.received_us + self.answered_us) / 2

    @property
    def gateway_us(self) -> float:
        """Gateway time in the middle."""
        return (self.sent_us + self.arrived_us) / 2


@dataclass(frozen=True, slots=True)
class Fit:
    """A line: gateway = origin_gateway + (device - origin_device) * rate.

    Attributes:
      origin_device_us: device time that it turns around.
      origin_gateway_us: gateway time there.
      rate: gateway microseconds in one of the device.
      error_us: standard error of a time near the newest exchange.
    """

    origin_device_us: float
    origin_gateway_us: float
    rate: float
    error_us: float

    def gateway_us(self, device_us: float) -> float:
        """Gateway time of a device time."""
        return self.origin_gateway_us + (device_us - self.origin_device_us) * self.rate


class DeviceClock:
    """Offset and drift of one device since its reset.

    Attributes:
      fit: None before the first group is complete.
      exchanges: how many were taken.
    """

    def __init__(self) -> None:
        self._group: list[Exchange] = []
        self._believed: deque[Exchange] = deque(maxlen=GROUPS)
        self.fit: Fit | None = None
        self.exchanges = 0

    def add(self, exchange: Exchange) -> bool:
        """Take an exchange; False when it belongs to another clock: the device was reset."""
        if self.fit is not None:
            apart_us = abs(exchange.gateway_us - self.fit.gateway_us(exchange.device_us))
            if apart_us > STEP_US + max(0.0, exchange.delay_us) / 2:
                return False
        self.exchanges += 1
        self._group.append(exchange)
        if len(self._group) >= EXCHANGES_A_GROUP:
            self._believed.append(min(self._group, key=lambda each: each.delay_us))
            self._group.clear()
            self.fit = fit_line(tuple(self._believed))
        return True

    def to_gateway_us(self, device_us: int) -> float | None:
        """Gateway time of a device time; None while too little is known."""
        return None if self.fit is None else self.fit.gateway_us(device_us)

    @property
    def error_us(self) -> float | None:
        """Standard error of a time now; None while too little is known."""
        return None if self.fit is None else self.fit.error_us

    @property
    def drift_ppm(self) -> float | None:
        """By how much the device's clock is fast, in millionths; None while unknown."""
        return None if self.fit is None else (1 / self.fit.rate - 1) * 1e6


def fit_line(believed: tuple[Exchange, ...]) -> Fit:
    """Weighted least squares through the believed exchanges, drift held near 0 where unknown.

    Args:
      believed: one at least, in order of time.
    """
    last = believed[-1]
    device = np.array([each.device_us - last.device_us for each in believed])
    apart = np.array([each.gateway_us - last.gateway_us for each in believed]) - device
    delay = np.array([each.delay_us for each in believed])
    sigma = _FLOOR_US + (delay - delay.min()) / 2
    # Unknowns: offset at the newest exchange, and drift; the last row is the assumption about it.
    rows = np.vstack((np.ones_like(device), device)).T / sigma[:, None]
    rows = np.vstack((rows, (0.0, 1 / DRIFT_SIGMA)))
    right = np.append(apart / sigma, 0.0)
    normal = rows.T @ rows
    offset, drift = np.linalg.solve(normal, rows.T @ right)
    drift = min(max(float(drift), -MOST_DRIFT), MOST_DRIFT)
    # The offset is known no better than the shortest way is alike in both directions: the fit
    # can not tell, so what is claimed is never better than one exchange's floor.
    error_us = max(_FLOOR_US, float(np.sqrt(np.linalg.inv(normal)[0, 0])))
    return Fit(last.device_us, last.gateway_us + float(offset), 1 + drift, error_us)
