"""Which scores are explained, and how often: the drivers of alarms, at a bounded cost.

A gradient takes longer than a score, and an alarm can stay for hours, so at most one score of a
batch is explained, the newest alarm (of predicted numbers, which are never an alarm, the newest),
not before `drivers_every_s` have gone by, and not before the last explanation was 1 % of the time
since.  So the rest of the agent hardly sees it, whatever the model's size.  Other scores have none.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from agent.adopted import Adopted
from agent.attribution import largest_shares, why_none
from agent.learning.ir import GraphError
from agent.learning.runtime import BackendError
from agent.personal import Scored
from agent.serve.score import Driver, Score
from agent.serve.settings import ScoresTable
from agent.signals.rows import Rows
from wire.manifest import REGRESSION
from wire.tensors import Params

logger = logging.getLogger(__name__)

_SHARE_OF_TIME = 0.01
_NONE = "none: "


class Explaining:
    """Gives scores their drivers.

    Args:
      units: of this agent's channels, in order.
      table: `[scores]`.
      clock: monotonic, in seconds.

    Attributes:
      table: as it is now.
      said: what drove the newest score that was explained, or why none is, in words.
    """

    def __init__(
        self,
        units: Sequence[str],
        table: ScoresTable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._units, self.table, self._clock = units, table, clock
        self._next_s = -math.inf
        self._failed: bytes = b""
        """The bundle whose gradient can not be computed."""
        self.said = ""

    def explain(
        self, adopted: Adopted, params: Params, scored: Scored, rows: Rows, scores: list[Score]
    ) -> list[Score]:
        """Give the newest alarm its drivers, if it is time.

        Args:
          adopted: the head in use.
          params: what was served.
          scored: what the model gave.
          rows: that it is about.
          scores: the same as scores, in order.

        Returns:
          The scores, at most one of them with drivers.
        """
        why = self._why_none(adopted)
        if why or self.said.startswith(_NONE):
            self.said = why
        if why:
            return scores
        at = self._newest(adopted, scores)
        began_s = self._clock()
        if at is None or began_s < self._next_s:
            return scores
        drivers = self._drivers(adopted, params, scored, rows, at)
        took_s = self._clock() - began_s
        self._next_s = began_s + max(self.table.drivers_every_s, took_s / _SHARE_OF_TIME)
        if drivers:
            self.said = f"{scores[at].source_time:%Y-%m-%dT%H:%M:%SZ}: " + ", ".join(
                map(str, drivers)
            )
        return [*scores[:at], dataclasses.replace(scores[at], drivers=drivers), *scores[at + 1 :]]

    def _why_none(self, adopted: Adopted) -> str:
        if not self.table.drivers:
            return f"{_NONE}[scores] drivers = 0"
        if why := why_none(adopted.model.manifest):
            return f"{_NONE}{why}"
        is_failed = self._failed == adopted.head.bundle.digest
        return f"{_NONE}the model's gradient can not be computed" if is_failed else ""

    def _newest(self, adopted: Adopted, scores: Sequence[Score]) -> int | None:
        """Which score to explain."""
        is_number = adopted.model.manifest.loss in REGRESSION
        chosen = (
            at
            for at in reversed(range(len(scores)))
            if scores[at].is_alarm or (is_number and not scores[at].is_bad)
        )
        return next(chosen, None)

    def _drivers(
        self, adopted: Adopted, params: Params, scored: Scored, rows: Rows, at: int
    ) -> tuple[Driver, ...]:
        inputs, outputs = scored.inputs[at], scored.outputs[at]
        model = adopted.model
        try:
            shares = largest_shares(model, params, inputs, outputs, self.table.drivers)
        except (GraphError, BackendError) as error:
            logger.warning("bundle %s: no drivers of alarms: %s", model.manifest.name, error)
            self._failed = adopted.head.bundle.digest
            return ()
        row = int(scored.ends[at])
        found = []
        for share in shares:
            channel = model.manifest.channels[share.channel]
            column = adopted.input_columns[share.channel]
            value = np.nan if channel.shape else float(rows.values[row, column])
            found.append(Driver(channel.name, share.share, value, self._units[column]))
        return tuple(found)
