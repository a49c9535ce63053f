"""The course of one device's model, from offer to confirmation or rejection.  Pure.

It is told what the bridge says, and says what to send.  A model that was refused at the gate, that
failed on the device, whose trial ended or whose scores disagree is rejected for good: another is
offered only when something else is served.

Invariant: CONFIRM is asked only for the content that the gate made of the offer, on trial, with a
verdict `agrees`; a confirmed model that disagrees later is left as well.
"""

import logging
from collections.abc import Callable

import msgspec

from agent.devices.agreement import Agreement, Compared
from agent.devices.kept import Kept, KeptFile
from agent.devices.making import Beside
from agent.devices.report import DeviceReport
from agent.devices.settings import DeviceTable
from wire.bridge import (
    ENDED_STAGES,
    Confirm,
    Deployment,
    FromBridge,
    Judgment,
    Offer,
    Rollback,
    Scores,
    ToBridge,
)
from wire.errors import one_line

logger = logging.getLogger(__name__)

_SHOWN = 16


class Course:
    """One device.

    Args:
      table: its settings.
      report: what people see.
      last: what the device was given last, as an earlier process kept it.
      good: what was confirmed last.
      beside: compares a score with the float model; None where that is not at hand.
    """

    def __init__(
        self,
        table: DeviceTable,
        report: DeviceReport,
        last: KeptFile,
        good: KeptFile,
        beside: Callable[[Scores], Beside | None],
    ) -> None:
        self._table, self.report, self._beside = table, report, beside
        self._last_file, self._good_file = last, good
        self.kept = kept = last.load()
        self._good = good.load()
        self._sha256 = b""
        self._agreement: Agreement | None = None
        self._leaving = ""
        self._is_confirming = False
        self._is_offered = False
        if kept is not None:
            report.version, report.reason = kept.version, kept.rejected or kept.refused_reason

    @property
    def is_under_way(self) -> bool:
        """Whether the last offer has not come to its end."""
        if self.kept is None or self.kept.rejected:
            return False
        return self.report.stage not in ENDED_STAGES

    def has_seen(self, key: bytes) -> bool:
        """Whether this is what was offered last, whatever became of it."""
        return self.kept is not None and key in (self.kept.key, self.kept.refused)

    def renew(self, kept: Kept) -> None:
        """Another model is to go to the device, or can not: `kept.rejected` says so."""
        self.kept = kept
        self._last_file.keep(kept)
        self.forget_bridge()
        self.report.version, self.report.sha256 = kept.version, ""
        self.report.reason = kept.rejected
        if kept.rejected:
            self.report.rejections += 1
            logger.warning("%s: %s", self.report.name, one_line(kept.rejected))

    def forget_bridge(self) -> None:
        """The bridge, or the device, begins anew: what it knows of the model is not known here."""
        self._sha256, self._agreement, self._leaving = b"", None, ""
        self._is_offered = self._is_confirming = False
        report = self.report
        report.stage, report.rows, report.bits_equal = "", 0, 0
        report.largest = report.mean = 0.0

    def next_offer(self) -> Offer | None:
        """The offer to send now, once for each connection."""
        kept, table = self.kept, self._table
        if kept is None or kept.rejected or self._is_offered:
            return None
        self._is_offered = True
        return Offer(
            device=table.device,
            key=kept.key,
            model=kept.model,
            vectors=kept.vectors,
            rows=kept.rows,
            outputs=kept.outputs,
            bound_steps=table.bound_steps,
            trial_s=table.trial_s,
        )

    def take(self, message: FromBridge) -> list[ToBridge]:
        """Take what the bridge says; give what to send."""
        if self.kept is None or getattr(message, "device", "") != self._table.device:
            return []
        if isinstance(message, Judgment) and message.key == self.kept.key:
            self._judged(message)
        elif isinstance(message, Deployment) and message.sha256 == self._sha256:
            self._deployed(message)
        elif isinstance(message, Scores):
            return self._scored(message)
        return []

    def _judged(self, judgment: Judgment) -> None:
        report, table = self.report, self._table
        if judgment.reason:
            self._reject(f"refused at the gate: {judgment.reason}")
            return
        self._sha256, report.sha256 = judgment.sha256, judgment.sha256.hex()
        report.judges, report.bound = judgment.judges, judgment.bound
        self._agreement = Agreement(
            table.least_rows, table.window_rows, table.bits_share, judgment.bound
        )
        logger.info(
            "%s: version %d passed the gate (%s), %d bytes, int8 within %.4g of float",
            report.name, report.version, judgment.judges, judgment.content_bytes, judgment.largest,
        )  # fmt: skip

    def _deployed(self, deployment: Deployment) -> None:
        self.report.stage = deployment.stage
        if deployment.stage == "confirmed":
            logger.info("%s: version %s is confirmed", self.report.name, self.report.version)
            if self.kept is not None and (self._good is None or self._good.key != self.kept.key):
                self._good = self.kept
                self._good_file.keep(self.kept)
        elif deployment.stage in ("rolled back", "failed"):
            ended = f"{deployment.stage}: {deployment.reason}"
            if self._leaving:
                ended = self._leaving + (f"; {ended}" if deployment.stage == "failed" else "")
            self._reject(ended)

    def _scored(self, said: Scores) -> list[ToBridge]:
        report, agreement = self.report, self._agreement
        if agreement is None or not said.expected or said.model != self._sha256[:8]:
            report.other += 1
            return []
        beside = self._beside(said)
        if beside is not None:
            report.score, report.gateway_score = beside.score, beside.gateway
        report.clipped += said.is_clipped
        is_float = beside is not None and not said.is_clipped
        difference = beside.difference if beside is not None and is_float else None
        agreement.take(Compared(said.outputs == said.expected, difference))
        known = agreement.differences
        report.compared += 1
        report.rows, report.bits_equal = agreement.rows, agreement.bits_equal
        report.largest = max(known, default=0.0)
        report.mean = sum(known) / len(known) if known else 0.0
        return self._decide(agreement)

    def _decide(self, agreement: Agreement) -> list[ToBridge]:
        verdict, stage = agreement.verdict, self.report.stage
        if self._leaving or verdict == "open" or stage not in ("on trial", "confirmed"):
            return []
        if verdict == "disagrees":
            self._leaving = f"taken back: {agreement.reason}"
            logger.warning("%s: %s", self.report.name, self._leaving)
            return [Rollback(self._table.device, self._sha256)]
        if stage == "on trial" and not self._is_confirming:
            self._is_confirming = True
            logger.info("%s: %d scores agree", self.report.name, agreement.rows)
            return [Confirm(self._table.device, self._sha256)]
        return []

    def _reject(self, reason: str) -> None:
        if self.kept is None:
            return
        reason = one_line(reason)[:1000]
        text = "%s: model %s of version %s is not offered again: %s"
        logger.warning(
            text, self.report.name, self._sha256.hex()[:_SHOWN], self.report.version, reason
        )
        self.report.reason = reason
        self.report.rejections += 1
        good = self._good
        if good is not None and good.key != self.kept.key:
            # The device runs that one again: it is offered as it was, which sends nothing, and
            # its agreement is watched.
            replaced = {"refused": self.kept.key, "refused_reason": reason}
            self.kept = msgspec.structs.replace(good, **replaced)
            self.report.version = good.version
            self.forget_bridge()
        else:
            self.kept = msgspec.structs.replace(self.kept, rejected=reason)
            self._agreement, self._leaving = None, ""
        self._last_file.keep(self.kept)
