"""When to connect again: soon after a short cut, and not all at once after a long one.

Pure but for the generator of random numbers, which the caller gives.
"""

import random
from collections.abc import Iterator


def backoff(first_s: float, longest_s: float, rng: random.Random) -> Iterator[float]:
    """Yield waiting times before each attempt, for ever: decorrelated jitter.

    Each wait is drawn between `first_s` and three times the one before (M. Brooker, "Exponential
    Backoff and Jitter", 2015), so a thousand gateways that lost the same broker spread out, and a
    wait stays in proportion to the time that really passed.  Doubling a ceiling at each attempt
    does not: after a few short draws within a 3 s outage, a gateway once waited 21 s.
    """
    wait_s = first_s
    while True:
        wait_s = min(longest_s, rng.uniform(first_s, 3 * wait_s))
        yield wait_s


class Reconnecting:
    """How long to wait before the next connection.

    The waits of `backoff`, begun anew after a connection that lived: a short cut costs little.  One
    that is accepted and dropped again (an overloaded broker, two programs under one name) does not
    count, so that a storm dies down.
    """

    LIVED_S = 1.0

    def __init__(self, first_s: float, longest_s: float, rng: random.Random) -> None:
        self._first_s, self._longest_s, self._rng = first_s, longest_s, rng
        self._waits = backoff(first_s, longest_s, rng)

    def wait_s(self, lived_s: float) -> float:
        """Seconds to wait after a connection that was up for `lived_s`; 0 for none at all."""
        if lived_s >= self.LIVED_S:
            self._waits = backoff(self._first_s, self._longest_s, self._rng)
        return next(self._waits)
