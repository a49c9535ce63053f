"""What this site reports about itself, and when: judgements, its choice, its statistics.

A report is idempotent and replaced by the next one, so it needs no outbox: everything is said once
on each connection, and again when something about it is new: another head, another model in use,
rows by which models are judged.
"""

from dataclasses import dataclass

import msgspec

from agent.adoption import Adopted, Adoption
from agent.figures import MaskedFigures, judged
from agent.history import History
from agent.judge import judge
from agent.personal import Personal
from agent.statistics import statistics_of
from wire.messages import Report, Statistics

AGAIN_S = 600.0
"""Rows change while the head stays: drift is seen within twice this."""
GROWN_S, _GROWN = 30.0, 1.25
"""Sooner where there are a quarter more rows than at the last report: a history from a thousand to
a hundred thousand rows is judged 20 times more, and each judgement costs a gateway some seconds."""
_NOTHING_S = 5.0
"""A site that had no rows to judge by may have some now, and others wait for its judgement."""


@dataclass(frozen=True)
class _Subject:
    """What a report was about; another one is due when it changes."""

    head: int | tuple[bytes, ...]
    serving: str
    has_statistics: bool


@dataclass
class Reporting:
    """Decides what is new since the last report of a connection."""

    adoption: Adoption
    history: History
    personal: Personal
    masked: MaskedFigures | None = None
    _told: _Subject | None = None
    _told_rows: int = 0
    _again_s: float = 0.0
    _grown_s: float = 0.0

    def begin(self) -> None:
        """A new connection: everything is new."""
        self._told = None

    def next_report(self, now_s: float) -> Report | None:
        """The report that is due now, if one is; costs nothing while nothing is new.

        Args:
          now_s: monotonic time.
        """
        adopted = self.adoption.current
        if adopted is None:
            return None
        is_masked = adopted.head.policy.protection == "masked"
        subject = _Subject(
            tuple(judged(adopted.head)) if is_masked else adopted.head.sequence,
            self.personal.serving(adopted).reason,
            self._has_statistics(adopted),
        )
        rows = self.history.count
        # Under masks one report about a subject is all that the helpers ever take.
        has_grown = not is_masked and rows >= _GROWN * self._told_rows
        due_s = min(self._again_s, self._grown_s) if has_grown else self._again_s
        if subject == self._told and now_s < due_s:
            return None
        report = self._report(adopted, self._statistics(adopted, subject))
        self._told, self._told_rows = subject, rows
        self._again_s = now_s + (AGAIN_S if report is not None else _NOTHING_S)
        self._grown_s = now_s + GROWN_S
        return report

    def _report(self, adopted: Adopted, statistics: Statistics | None) -> Report | None:
        held_out = self.history.read(held_out=True, in_stretches=adopted.in_stretches)
        judgement, choice = judge(adopted, held_out), self.personal.choice(adopted, held_out)
        if judgement is None and choice is None and statistics is None:
            return None
        report = judgement or Report(head=adopted.head.sequence)
        report = msgspec.structs.replace(report, choice=choice, statistics=statistics)
        if adopted.head.policy.protection != "masked":
            return report
        return self.masked.sealed(report, adopted.head) if self.masked is not None else None

    def _has_statistics(self, adopted: Adopted) -> bool:
        """Whether all sites' statistics are wanted, and there are rows enough to add ours."""
        wants = adopted.model.manifest.standardise == "federated"
        is_missing = wants and adopted.head.statistics is None
        rows = self.history.training_rows(in_stretches=adopted.in_stretches)
        return is_missing and rows >= adopted.head.policy.min_rows

    def _statistics(self, adopted: Adopted, subject: _Subject) -> Statistics | None:
        if not subject.has_statistics:
            return None
        rows = self.history.read(held_out=False, in_stretches=adopted.in_stretches)
        return statistics_of(adopted, rows)
