"""Whether the agent does what it is for: every source gives what it should, and the disk works.

A source that was well may be lost for a short time, a reconnect's; one that never was is not ready.
Being off the link or having no model yet is not unready: an agent acquires, learns and keeps its
updates without.  Pure.
"""

import math
from collections.abc import Sequence

from agent.sensors.source import SourceReport
from agent.serve.score import OK

GRACE_S = 30.0


class Readiness:
    """What is not well, with the grace of those sources that were well a moment ago."""

    def __init__(self) -> None:
        self._well_s: dict[int, float] = {}

    def look(self, sources: Sequence[SourceReport], storage: str, now_s: float) -> str:
        """What is wrong, in one line; empty when nothing is.

        Args:
          sources: of all sources, in the same order each time.
          storage: what is wrong with the disk, or `ok`.
          now_s: monotonic time.
        """
        self._well_s |= {at: now_s for at, source in enumerate(sources) if source.is_well}
        wrong = [
            f"{source.name}: {source.state}"
            for at, source in enumerate(sources)
            if now_s - self._well_s.get(at, -math.inf) > GRACE_S
        ]
        wrong += [f"storage: {storage}"] if storage != OK else []
        return "; ".join(wrong)
