"""What the sites' reports say: quality, drift, statistics, contributions.

    report ─► checked against the bundle ─► evaluations ─► figures, drift alarms
                                        ├─► choice
                                        └─► statistics ─► means and deviations for the head

Everything here follows from sums that sites report, and none of it changes weights.  The caller
holds the transaction.
"""

import logging
import time
from dataclasses import dataclass

from coordinator.config import CoordinatorSettings, Identity
from coordinator.contribution import Accounting, Observation, from_bytes, improvement, shares
from coordinator.drift import find_drift
from coordinator.gate import metric_of, site_quality
from coordinator.publication import keep
from coordinator.record import Figure, Judged
from coordinator.site_statistics import combine, missing_sites, problem_of
from coordinator.store import Saved, Store
from wire.errors import MalformedError, WireError
from wire.figures import figure
from wire.manifest import columns
from wire.messages import Choice, Evaluation, Report, Statistics
from wire.standards import write_standard
from wire.tally import check_evaluation, tally_of

logger = logging.getLogger(__name__)

_LATE_VERSIONS = 5
"""A version's contribution is accounted for this many versions later: reports take their time."""
_SITES_A_VERSION = 100
"""The sums are a square of the sites; with more of them only some versions are accounted for."""


@dataclass(frozen=True)
class _Reporter:
    """Whose report it is."""

    agent: str
    site: str

    @property
    def name(self) -> str:
        """As evaluations are kept by: two agents of a site are one site."""
        return f"{self.site}/{self.agent}"


class Observing:
    """Takes reports into the store."""

    def __init__(self, store: Store, settings: CoordinatorSettings, identity: Identity) -> None:
        self._store, self._settings, self._identity = store, settings, identity
        self._manifest = identity.bundle.manifest
        self._columns = sum(columns(feature) for feature in self._manifest.features)

    def check(self, report: Report, saved: Saved) -> None:
        """Check everything that a report says against the bundle.

        Raises:
          MalformedError: names what can not be true.
        """
        for evaluation in report.evaluations:
            check_evaluation(evaluation, self._manifest)
        if report.choice is not None:
            check_evaluation(report.choice.evaluation, self._manifest)
        if report.statistics is not None:
            problem = problem_of(report.statistics, saved.bundle.digest, self._columns)
            if problem:
                raise MalformedError(problem)

    def take(
        self, agent: str, site: str, report: Report, saved: Saved, chunk_bytes: int
    ) -> dict[str, object]:
        """Take a checked report; return what it changes in the saved state.

        Args:
          agent: who reports.
          site: where it stands.
          report: what.
          saved: the state whose head names the versions that are judged.
          chunk_bytes: of what is published.
        """
        reporter = _Reporter(agent, site)
        named = saved.judged_refs
        digests = {ref.content.digest for _, ref in named}
        fitting = [item for item in report.evaluations if item.digest in digests]
        for evaluation in fitting:
            for model, ref in named:
                if ref.content.digest == evaluation.digest:
                    self._note(reporter, ref.version, model, evaluation)
            if evaluation.digest == saved.serve.content.digest:
                self._look_for_drift(reporter, evaluation)
        # Only now: the newest may become what the next ones are compared with.
        self._store.keep_evaluations(reporter.name, fitting)
        if report.choice is not None:
            self._note_choice(reporter, report.choice, saved.serve.version)
        if report.statistics is not None and saved.statistics is None:
            return self._take_statistics(reporter, report.statistics, saved, chunk_bytes)
        return {}

    def _note(
        self, reporter: _Reporter, version: int, model: Judged, evaluation: Evaluation
    ) -> None:
        tally = tally_of(evaluation)
        metric = metric_of(tally, self._settings.gate)
        if metric is None:
            return
        noted = Figure(
            version=version,
            model=model,
            agent=reporter.agent,
            site=reporter.site,
            metric=metric,
            value=site_quality(tally, self._settings.gate),
            loss=figure("loss", tally) if tally.is_finite else None,
            rows=tally.rows,
        )
        self._store.record.note_figure(noted, time.time())

    def _look_for_drift(self, reporter: _Reporter, newest: Evaluation) -> None:
        first = self._store.first_evaluation(newest.digest, reporter.name)
        found = find_drift(first, newest, self._settings.drift) if first is not None else None
        if found is not None and self._store.alarm(reporter.agent, "drift") != found:
            logger.error("ALARM %s: %s", reporter.agent, found)
            self._store.raise_alarm(reporter.agent, "drift", found)

    def _note_choice(self, reporter: _Reporter, choice: Choice, version: int) -> None:
        self._store.record.note_choice(reporter.agent, choice, time.time())
        self._note(reporter, version, "chosen", choice.evaluation)

    def _take_statistics(
        self, reporter: _Reporter, statistics: Statistics, saved: Saved, chunk_bytes: int
    ) -> dict[str, object]:
        """Keep a site's sums; once enough sites reported, what the head will say for good.

        Weights are learned on inputs that were standardised by them, so they never change.
        """
        if self._manifest.standardise != "federated":
            return {}
        record, bundle = self._store.record, saved.bundle.digest
        record.keep_statistics(reporter.agent, reporter.site, statistics)
        known = record.statistics(bundle)
        quorum, k_min = self._settings.gate.quorum, self._identity.trust.charter.k_min
        missing = missing_sites((site for _, site in known), quorum, k_min)
        if missing:
            logger.info("statistics of %s; of %d more sites wanted", reporter.name, missing)
            return {}
        standard = combine(
            {agent: each for (agent, _), each in known.items()}, bundle, self._columns
        )
        logger.info("inputs are standardised by %d agents' rows", len(known))
        return {"statistics": keep(self._store, write_standard(standard), chunk_bytes)}

    def account_for(self, newest: int) -> None:
        """Account for the contributions to the version that is old enough now."""
        version = newest - _LATE_VERSIONS
        settings, record = self._settings.contribution, self._store.record
        accounted, body = record.accounting()
        if version <= max(accounted, 1):
            return
        sums = self._sums(body)
        if version % (1 + len(sums.sites) // _SITES_A_VERSION):
            return
        members = shares(record.memberships_of(version))
        found = improvement(record.losses(version - 1), record.losses(version), settings.judges)
        if found is None or not members:
            return
        drop, rows = found
        sums = sums.add(Observation(version, members, drop, rows))
        values = {
            each.site: (each.value, each.error, each.versions)
            for each in sums.estimate()
            if each.value is not None and each.error is not None
        }
        record.keep_accounting(version, sums.to_bytes(), values)
        self._store.audit.note_contributions(version, values)

    def _sums(self, body: bytes) -> Accounting:
        """What was accounted for so far; anew where another version of this program wrote it."""
        settings = self._settings.contribution
        try:
            return from_bytes(body, settings) if body else Accounting(settings)
        except WireError as error:
            logger.warning("contributions are accounted for anew: %s", error)
            return Accounting(settings)
