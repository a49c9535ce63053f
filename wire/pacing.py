"""How fast bulk may go out: a rate in bytes per second, and how much may be unacknowledged.

Pure: monotonic time is passed in.  Bulk is what can wait (chunks of updates and models); small
messages (births, receipts, headers) never wait for any of this.
"""


class TokenBucket:
    """How long to wait before sending, so that a rate holds.

    Args:
      rate_bytes_s: bytes added per second; 0 means no limit.
      burst_bytes: most bytes that may pass at once after a pause.
    """

    def __init__(self, rate_bytes_s: float, burst_bytes: float) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._burst_bytes = burst_bytes
        self._tokens = burst_bytes
        self._filled_at_s: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether there is a rate to keep."""
        return self._rate_bytes_s > 0.0

    def reserve(self, count: int, now_s: float) -> float:
        """Take `count` bytes out, going into debt, and return the seconds until it is paid.

        Whoever sends first and waits for the debt before the next message asks with 0.
        """
        if not self.is_limited:
            return 0.0
        if self._filled_at_s is not None:
            gained = (now_s - self._filled_at_s) * self._rate_bytes_s
            self._tokens = min(self._burst_bytes, self._tokens + gained)
        self._filled_at_s = now_s
        self._tokens -= count
        return max(0.0, -self._tokens / self._rate_bytes_s)


class BulkWindow:
    """How many bulk messages may be unacknowledged at a time.

    It opens by one for each prompt acknowledgment and closes by half for a slow one (additive
    increase, multiplicative decrease: Chiu and Jain, 1989), so that on a slow link a small message
    waits behind little, and what a cut costs is little, while a fast link is kept full.

    Args:
      most: it never opens further.
    """

    PROMPT_S = 1.0
    SLOW_S = 3.0
    FIRST = 2

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = min(self.FIRST, most)

    def acknowledged(self, after_s: float) -> None:
        """Learn from one acknowledgment that came `after_s` seconds after its message left."""
        if after_s <= self.PROMPT_S:
            self.size = min(self.size + 1, self._most)
        elif after_s >= self.SLOW_S:
            self.size = max(self.size // 2, 1)
