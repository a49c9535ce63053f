"""Scoring: what is served says about every new row, as soon as it is cut.

A model of windows looks at rows before the newest one too, so the last ones are kept; a row before
which something is missing has no whole window and no score.  Scores go to whoever reads them
(`agent/serve`) and to the status.
"""

from collections.abc import Callable, Sequence

import numpy as np

from agent.adoption import Adopted, Adoption
from agent.explaining import Explaining
from agent.personal import Personal
from agent.serve.decide import decide, origin_of
from agent.serve.score import STATUS_GOOD, STATUS_INPUTS_UNCERTAIN, Score
from agent.signals.rows import Rows, joined
from agent.status import Status


class Scoring:
    """Scores rows in their order.

    Args:
      adoption: the head in use.
      personal: which model is served.
      units: of this agent's channels, in order.
      status: what people see.
      give: takes scores, and does not wait.
      explaining: gives alarms their drivers; None: they have none.
    """

    def __init__(
        self,
        adoption: Adoption,
        personal: Personal,
        units: Sequence[str],
        status: Status,
        give: Callable[[Sequence[Score]], None],
        explaining: Explaining | None = None,
    ) -> None:
        self._adoption, self._personal, self._units = adoption, personal, units
        self._status, self._give, self._explaining = status, give, explaining
        self._before: Rows | None = None

    def take(self, rows: Rows) -> None:
        """Score these rows, which come after all earlier ones."""
        adopted = self._adoption.current
        if adopted is None or adopted.unready or not len(rows):
            return
        whole = rows if self._before is None else joined([self._before, rows])
        found = self._scores(adopted, whole, after=len(whole) - len(rows))
        self._before = whole.newest(adopted.rows_needed - 1)
        if found:
            self._status.scored += len(found)
            self._status.score = found[-1].value
            self._status.alarms += sum(score.is_alarm for score in found)
            self._give(found)

    def _scores(self, adopted: Adopted, rows: Rows, after: int) -> list[Score]:
        manifest, head = adopted.model.manifest, adopted.head
        scored, serving = (
            self._personal.scored(adopted, rows, after),
            self._personal.serving(adopted),
        )
        label = adopted.label_column
        origin = origin_of(
            manifest,
            head.bundle.digest,
            head.serve.version,
            str(serving.kind),
            adopted.threshold,
            "" if label is None else self._units[label],
        )
        uncertain = np.zeros(len(rows), np.bool_)
        if rows.is_uncertain is not None:
            uncertain = rows.is_uncertain
        status = np.where(uncertain[scored.ends], STATUS_INPUTS_UNCERTAIN, STATUS_GOOD)
        stamps = rows.source_timestamp_us[scored.ends]
        found = decide(origin, manifest, scored.outputs, scored.inputs, stamps, status)
        if self._explaining is None:
            return found
        found = self._explaining.explain(adopted, serving.params, scored, rows, found)
        self._status.drivers = self._explaining.said
        return found
