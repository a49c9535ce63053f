"""What is served and what must arrive: the same in all processes of a run.

The value of item `i` in cycle `k` is `k * SPREAD + i`, a whole number that a float64 holds exactly,
so that a value says which it is: that each came once and from the right item can be checked, and a
sum is a checksum.

Source timestamps lie in the middle of their cycle, the items' up to `JITTER_US` apart, as the scan
cycle of a PLC gives them; a row at a multiple of the period holds one whole cycle.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SPREAD_BITS = 14
SPREAD = 1 << SPREAD_BITS
"""More items than any plan has."""
JITTER_US = 900
BEGIN_US = 1_767_225_600_000_000
"""2026-01-01 00:00:00 UTC, a multiple of every period."""
NAMESPACE = "urn:journeyman:ingest"


@dataclass(frozen=True)
class Plan:
    """One load.

    Attributes:
      items: how many nodes are monitored.
      hz: samples of each node in a second.
      at_once: samples of each node in a message; as servers queue them, item by item.
      messages: how many of them.
      port: of the server on 127.0.0.1.
      directory: of certificates and of the agent's state.
    """

    items: int
    hz: int
    at_once: int
    messages: int
    port: int
    directory: str

    @property
    def period_us(self) -> int:
        """Between two samples of a node."""
        return 1_000_000 // self.hz

    @property
    def messages_hz(self) -> float:
        """Messages in a second."""
        return self.hz / self.at_once

    @property
    def cycles(self) -> int:
        """Samples of each node."""
        return self.messages * self.at_once

    @property
    def values_at_once(self) -> int:
        """Values in a message."""
        return self.items * self.at_once

    @property
    def values(self) -> int:
        """How many there are."""
        return self.items * self.cycles

    @property
    def endpoint(self) -> str:
        """Where the server is."""
        return f"opc.tcp://127.0.0.1:{self.port}/ingest"

    @property
    def patience_s(self) -> float:
        """After which a client gives up: a machine may be busy, and connecting takes its time."""
        return 5.0 * self.messages / self.messages_hz + 60.0

    @property
    def server_certificate(self) -> Path:
        """DER; the private key is beside it in `key.pem`."""
        return Path(self.directory) / "server" / "certificate.der"

    def values_of(self, message: int) -> NDArray[np.float64]:
        """What a message says: float64 (items * at_once,), item by item."""
        cycles = np.arange(self.at_once, dtype=np.float64) + message * self.at_once
        items = np.arange(self.items, dtype=np.float64)
        return np.add.outer(items, cycles * SPREAD).ravel()

    def times_us_of(self, message: int) -> NDArray[np.int64]:
        """The source timestamps of a message: int64 (items * at_once,)."""
        cycles = np.arange(self.at_once, dtype=np.int64) + message * self.at_once
        middle_us = BEGIN_US + cycles * self.period_us + self.period_us // 2
        return np.add.outer(np.arange(self.items) * 7919 % JITTER_US, middle_us).ravel()

    def sum_of(self, cycles: int) -> int:
        """Of all values of the first so many cycles."""
        per_cycle = self.items * (self.items - 1) // 2
        return SPREAD * self.items * (cycles * (cycles - 1) // 2) + cycles * per_cycle

    def text(self) -> str:
        """As an argument of a process."""
        return json.dumps(asdict(self))


def plan_from(text: str) -> Plan:
    """The plan that `text` wrote."""
    return Plan(**json.loads(text))
