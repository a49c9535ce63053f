"""What the event loop said last, for those who ask from another thread.

`/healthz` must answer when the event loop hangs, which is when it matters; so nobody asks the loop.
It posts, twice a second, and what it posts is bytes or is never changed again.

    alive   the event loop runs and no watched task is stuck: if not, a restart helps
    ready   alive, and sources and disk are well: if not, somebody has to look

A machine that is switched off makes the agent not ready; restarting it for that would only cost
the other machines' samples.
"""

import time
from collections.abc import Sequence

import msgspec

from agent.health.metrics import channel_lines, status_lines
from agent.health.process import process_lines
from agent.health.readiness import Readiness
from agent.signals.quality import ChannelQuality
from agent.status import Status
from wire.exposition import family
from wire.progress import Progress

_BLOCKED_S = 30.0
"""The loop looks every second; half of what the unit's WatchdogSec allows."""
_NOT_STARTED = "has not started yet"


class Board:
    """What was posted.

    Args:
      progress: of the tasks.
      software: name and version of this program.
      most_channels: of `[metrics]`, channels.
    """

    def __init__(self, progress: Progress, software: str, most_channels: int) -> None:
        self._progress, self._software = progress, software
        self._most_channels = most_channels
        self._readiness = Readiness()
        self._unready = _NOT_STARTED
        self._status: bytes | None = None
        self._channels: tuple[ChannelQuality, ...] = ()
        self._started_at = time.time()

    def post(self, status: Status, encoded: bytes, now_s: float) -> None:
        """Take the status as it is now.

        Args:
          status: of the agent; not kept.
          encoded: the same as JSON.
          now_s: monotonic time.
        """
        self._unready = self._readiness.look(status.sources, status.storage, now_s)
        self._status = encoded

    def post_channels(self, channels: Sequence[ChannelQuality]) -> None:
        """Take the statistics of all channels."""
        self._channels = tuple(channels)

    def not_alive(self, now_s: float) -> str:
        """Why a restart would help, in one line; empty when it would not.

        Args:
          now_s: monotonic time.
        """
        looked_s = self._progress.looked_s
        if looked_s is None:
            return _NOT_STARTED
        if now_s - looked_s > _BLOCKED_S:
            return f"the event loop has not run for {now_s - looked_s:.0f} s"
        stalled = self._progress.stalled
        return f"stuck: {', '.join(map(str, stalled))}" if stalled else ""

    def not_ready(self, now_s: float) -> str:
        """What is wrong, in one line; empty when nothing is.

        Args:
          now_s: monotonic time.
        """
        return self.not_alive(now_s) or self._unready

    def metrics(self, now_s: float) -> str:
        """All figures, in Prometheus' text format; ends with a newline.

        Args:
          now_s: monotonic time.
        """
        lines = [*process_lines(self._started_at), *self._health_lines(now_s)]
        status = self._status
        if status is not None:
            lines += status_lines(msgspec.json.decode(status, type=Status), self._software)
            lines += channel_lines(self._channels, self._most_channels)
        return "\n".join(lines) + "\n"

    def _health_lines(self, now_s: float) -> list[str]:
        alive, ready = not self.not_alive(now_s), not self.not_ready(now_s)
        silences = self._progress.silences().items()
        name = "journeyman_agent"
        return [
            *family(f"{name}_alive", "gauge", "1 while /healthz is 200.", [({}, alive)]),
            *family(f"{name}_ready", "gauge", "1 while /readyz is 200.", [({}, ready)]),
            *family(
                f"{name}_task_silence_seconds",
                "gauge",
                "How long a watched task has given no sign of progress.",
                [({"task": task}, silent_s) for task, silent_s in silences],
            ),
        ]
