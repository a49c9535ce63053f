"""What is served: candidates, the gate's verdicts, new lineages, rollbacks.

    candidate ──► judged by the sites ──► not worse: served
                       │ else kept back; worse, `patience` times in a row, or far worse at once
                       ▼
               a new lineage: training goes on from what is served; open updates end `refused`

Training never waits for any of this.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from coordinator.aggregation import begin
from coordinator.current import Current, Result
from coordinator.gate import decide, is_given_up
from coordinator.record import Served, Verdict
from wire.messages import Delta, VersionRef

logger = logging.getLogger(__name__)

_LOOK_S = 20.0
"""Between two looks at the threshold while no head is published for another reason."""


class Judging:
    """Decides about one federation's candidates.

    Args:
      current: what is current.
      now_s: monotonic time.
    """

    def __init__(self, current: Current, now_s: float) -> None:
        self._current = current
        self._gate = current.settings.gate
        self._candidate_since_s = now_s
        self._looks_again_s = now_s

    def open(self, version: int, now_s: float) -> tuple[dict[str, object], list[Delta | None]]:
        """The candidate that comes with a version, where one is due: changes, and ways to it."""
        current, saved = self._current, self._current.saved
        since_serve = version - max(saved.serve.version, saved.judged)
        if saved.candidate is not None or since_serve < self._gate.every:
            return {}, []
        candidate = current.keep_version(version, current.average)
        self._candidate_since_s = now_s
        # Both are averages of the versions, so they are nearer to each other than to either.
        way = current.way(saved.serve.content.digest, candidate.content.digest)
        return {"candidate": candidate}, [way]

    def judge(self, result: Result, now_s: float) -> None:
        """Promote, keep back or give up the candidate; abandon a lineage that got worse."""
        current, candidate = self._current, self._current.saved.candidate
        if candidate is None:
            self._propose_last(result, now_s)
            self._look_at_threshold(result, now_s)
            return
        served = current.saved.serve
        verdict = decide(
            current.store.evaluations(candidate.content.digest),
            current.store.evaluations(served.content.digest),
            self._gate,
        )
        if verdict is None and now_s - self._candidate_since_s < self._gate.deadline_s:
            return
        with current.step():
            if verdict is None:
                reason = f"no quorum within {self._gate.deadline_s:g} s"
                self._drop(candidate, "no quorum", reason, current.saved.worse)
            elif verdict.outcome == "promote":
                self._promote(candidate, verdict.reason)
            else:
                is_over = is_given_up(verdict, current.saved.worse, self._gate)
                worse = current.saved.worse + (verdict.outcome != "unclear")
                self._drop(candidate, "kept back", verdict.reason, worse)
                if is_over:
                    self._begin_lineage(result, served, "abandoned", verdict.reason)
        result.head_moved = True

    def roll_back_on_request(self, result: Result) -> None:
        """Go back to earlier served weights because the operator asked for it."""
        current = self._current
        wanted = current.store.rollback
        if wanted is None:
            return
        current.store.request_rollback(None)
        known = {served.version: served for served in current.store.record.served()}
        if wanted not in known:
            logger.error("no rollback to version %d: kept are %s", wanted, sorted(known))
            return
        with current.step():
            good = current.keep_again(wanted, known[wanted].digest)
            served = Served(wanted, current.saved.lineage + 1, known[wanted].digest)
            current.store.record.note_served(served, time.time())
            reason = f"the operator went back to version {wanted}"
            self._begin_lineage(result, good, "rolled back", reason)
        result.head_moved = True

    def _promote(self, candidate: VersionRef, reason: str) -> None:
        current = self._current
        self._decide(candidate.version, "promoted", reason)
        served = Served(candidate.version, current.saved.lineage, candidate.content.digest)
        current.store.record.note_served(served, time.time())
        current.publish(
            {"serve": candidate, "candidate": None, "judged": candidate.version, "worse": 0}
        )

    def _drop(self, candidate: VersionRef, verdict: Verdict, reason: str, worse: int) -> None:
        self._decide(candidate.version, verdict, reason)
        self._current.publish({"candidate": None, "judged": candidate.version, "worse": worse})

    def recover(self, recovery: int) -> None:
        """Go on from what this store has, in a lineage of the root's new recovery.

        What was decided after the backup is lost here, and agents may know it: a lineage of each
        recovery's own range never meets one of theirs.
        """
        current = self._current
        lineage = max(current.saved.lineage + 1, recovery << 16)
        reason = f"recovery {recovery}: the coordinator was set up again from older state"
        changes = {"serve": current.saved.serve, "recovery": recovery}
        with current.step():
            train = current.saved.train
            self._begin_lineage(Result(), train, "rolled back", reason, lineage, changes)

    def _begin_lineage(
        self,
        result: Result,
        good: VersionRef,
        verdict: Verdict,
        reason: str,
        lineage: int | None = None,
        changes: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Go on from good weights; what was trained since ends refused.

        Args:
          result: where receipts go.
          good: trained on from, and served where `changes` do not say otherwise.
          verdict: for people.
          reason: for people and receipts.
          lineage: its number; the next one where that is not said.
          changes: of the saved state, besides.
        """
        current = self._current
        abandoned, version = current.saved.lineage, current.model.version + 1
        lineage = abandoned + 1 if lineage is None else lineage
        current.settle(result, "refused", f"lineage {abandoned} was abandoned: {reason}", 0)
        params = current.weights(good.content)
        fresh = begin(current.usual_rules, params, version)
        average = params.astype("float64")
        current.save_model(replace(fresh, radius=current.model.radius), average)
        current.store.add_version(version, lineage, good.content.digest, 0, time.time())
        self._decide(version, verdict, reason)
        logger.error("lineage %d begins from version %d", lineage, good.version)
        current.publish(
            {
                "version": version,
                "lineage": lineage,
                "train": VersionRef(version=version, content=good.content),
                "serve": good,
                "candidate": None,
                "judged": version,
                "worse": 0,
                "averaged": 0,
                **changes,
            }
        )

    def _propose_last(self, result: Result, now_s: float) -> None:
        """Once training is closed, have the last average judged."""
        current, saved = self._current, self._current.saved
        is_waiting = current.model.buffer.members or current.store.secure.waiting("update")
        is_last = current.store.training == "closed" and not is_waiting
        if not is_last or saved.version <= max(saved.serve.version, saved.judged):
            return
        with current.step():
            self._candidate_since_s = now_s
            current.publish({"candidate": current.keep_version(saved.version, current.average)})
        result.head_moved = True

    def _look_at_threshold(self, result: Result, now_s: float) -> None:
        """Say the threshold of late reports: a candidate is promoted with a quorum's alone."""
        current = self._current
        if now_s < self._looks_again_s or current.saved.candidate is not None:
            return
        self._looks_again_s = now_s + _LOOK_S
        if not current.is_threshold_new:
            return
        with current.step():
            current.publish({})
        result.head_moved = True

    def _decide(self, version: int, verdict: Verdict, reason: str) -> None:
        self._current.note_decision(version, self._current.saved.lineage, verdict, reason)
