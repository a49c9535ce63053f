"""Masked figures: evaluations and statistics that are known in sums over sites only.

    sealed figures ─► checked ─► row ─► (helpers) ─► sum ─► one evaluation of a cohort of sites
                                                       └─► statistics of all of them

What was one entry for each site is one for each opened sum, named `cohort`: gate, log and page go
on as they are, and show cohorts.  Inside the caller's transactions.
"""

import logging
import time
from collections.abc import Mapping

from coordinator.current import Current
from coordinator.gate import cohort_of, metric_of, site_quality
from coordinator.publication import keep
from coordinator.record import Figure
from coordinator.secure.rows import Sealed
from coordinator.secure.rules import largest_weight
from coordinator.secure.sums import Opened, Sums, Terms
from coordinator.site_statistics import combine
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body
from wire.errors import MalformedError
from wire.figures import figure
from wire.figures_vector import (
    BITS,
    RING,
    decode_evaluations,
    decode_statistics,
    evaluation_length,
    subject_of,
)
from wire.manifest import columns
from wire.messages import Evaluation, FiguresHeader, Purpose, SealedFigures
from wire.signing import PublicKey
from wire.standards import write_standard
from wire.tally import check_evaluation, kind_of, tally_of

logger = logging.getLogger(__name__)

_LINGER_S = 2.0
"""After enough sites have come, so long is waited for more: each counts once."""


class MaskedFigures:
    """Takes masked figures, and what their sums say."""

    def __init__(self, current: Current, sums: Sums) -> None:
        self._current, self._sums, self._rows = current, sums, current.store.secure
        manifest = current.identity.bundle.manifest
        self._kind = kind_of(manifest)
        self._counts_errors = manifest.counts_errors
        self._classes = len(manifest.label.classes) if manifest.label is not None else 0
        self._columns = sum(columns(feature) for feature in manifest.features)
        self._enough_s: dict[bytes, float] = {}

    @property
    def _wanted(self) -> dict[bytes, tuple[str, int]]:
        """Purpose and length of what may be told now, by subject."""
        saved = self._current.saved
        found: dict[bytes, tuple[str, int]] = {}
        if self._judged:
            each = evaluation_length(self._kind, self._classes, counts_errors=self._counts_errors)
            found[subject_of(self._judged)] = ("evaluation", len(self._judged) * each)
        is_federated = self._current.identity.bundle.manifest.standardise == "federated"
        if is_federated and saved.statistics is None:
            found[saved.bundle.digest] = ("statistics", 1 + 4 * self._columns)
        return found

    @property
    def _judged(self) -> list[bytes]:
        """Digests that evaluations are about: what is served and a candidate, if there is one."""
        saved = self._current.saved
        candidate, serve = saved.candidate, saved.serve.content.digest
        if candidate is None or candidate.content.digest == serve:
            return []
        return [serve, candidate.content.digest]

    def take(self, agent: str, site: str, sealed: SealedFigures) -> None:
        """Keep masked figures that are wanted and new.

        Raises:
          WireError: they are not signed by this agent, or do not fit the bundle.
        """
        header = self._verified(agent, sealed)
        wanted = self._wanted.get(header.subject)
        if wanted is None:
            return  # about a head that is gone
        if (header.agent, header.purpose, header.count) != (agent, *wanted):
            raise MalformedError(f"figures of {agent} do not fit what they are about")
        if not self._rows.take_figures(agent, header.purpose, header.subject):
            return
        row = Sealed(
            report=sha256(sealed.header),
            purpose=header.purpose,
            subject=header.subject,
            agent=agent,
            site=site,
            incarnation="",
            sequence=0,
            weight=1,
            base_version=0,
            base_digest=bytes(32),
            lineage=0,
            count=header.count,
            ring=RING,
            scale=1.0,
            bits=BITS,
        )
        self._rows.add(row, sealed.header, sealed.vector)

    def _verified(self, agent: str, sealed: SealedFigures) -> FiguresHeader:
        known = self._current.store.agent(agent)
        opened = open_envelope(sealed.header, "figures")
        if known is None or opened.signer != agent:
            raise MalformedError(f"figures of {opened.signer} in a report of {agent}")
        opened.verify(self._current.identity.trust.federation, PublicKey(known.public_key))
        header = parse_body(opened, FiguresHeader)
        fits = len(sealed.vector) == header.count * RING // 8 and header.masked.ring == RING
        if not fits or sha256(sealed.vector) != header.digest:
            raise MalformedError(f"the vector of {agent}'s figures is not the one it signed")
        return header

    def propose(self, now_s: float) -> bool:
        """Decide on a sum of figures of enough sites; forget those that nobody wants any more."""
        wanted = self._wanted
        purposes: tuple[Purpose, ...] = ("evaluation", "statistics")
        for purpose in purposes:
            free = self._rows.free(purpose)
            self._rows.forget([each.report for each in free if each.subject not in wanted])
        self._enough_s = {at: s for at, s in self._enough_s.items() if at in wanted}
        most = largest_weight(RING, BITS)
        terms = Terms(version=self._current.model.version, most=most)

        def is_ready(chosen: list[Sealed]) -> bool:
            return self._is_ready(chosen, now_s)

        proposed = [self._sums.propose(purpose, terms, is_ready) for purpose in purposes]
        return any(proposed)

    def _is_ready(self, chosen: list[Sealed], now_s: float) -> bool:
        current = self._current
        enough = max(current.settings.gate.quorum, current.identity.trust.charter.k_min)
        if len({each.site for each in chosen}) < enough:
            return False
        since_s = self._enough_s.setdefault(chosen[0].subject, now_s)
        return now_s - since_s >= _LINGER_S

    def opened(self, opened: Opened) -> Mapping[str, object]:
        """Take an opened sum; return what it changes in the saved state.

        Raises:
          MalformedError: no figures can have this sum.
        """
        manifest = opened.manifest
        if manifest.subject not in self._wanted:
            return {}
        if manifest.purpose == "statistics":
            return self._statistics(opened)
        sites = len({each.site for each in opened.members})
        evaluations = decode_evaluations(
            opened.sums[0],
            self._judged,
            self._kind,
            self._classes,
            sites,
            counts_errors=self._counts_errors,
        )
        store = self._current.store
        cohort = cohort_of(manifest.subject, manifest.number, sites)
        for evaluation in evaluations:
            check_evaluation(evaluation, self._current.identity.bundle.manifest)
            store.forget_cohorts(evaluation.digest, but=cohort.rpartition(".")[0])
            self._note(evaluation, sites)
        store.keep_evaluations(cohort, evaluations)
        return {}

    def _note(self, evaluation: Evaluation, sites: int) -> None:
        """Note the figure of a cohort as that of a site."""
        tally, gate = tally_of(evaluation), self._current.settings.gate
        metric = metric_of(tally, gate)
        if metric is None:
            return
        for model, ref in self._current.saved.judged_refs:
            if ref.content.digest == evaluation.digest:
                noted = Figure(
                    version=ref.version,
                    model=model,
                    agent="cohort",
                    site=f"{sites} sites",
                    metric=metric,
                    value=site_quality(tally, gate),
                    loss=figure("loss", tally) if tally.is_finite else None,
                    rows=tally.rows,
                )
                self._current.store.record.note_figure(noted, time.time())

    def _statistics(self, opened: Opened) -> Mapping[str, object]:
        current, bundle = self._current, opened.manifest.subject
        statistics = decode_statistics(opened.sums[0], bundle, self._columns)
        standard = combine({"all": statistics}, bundle, self._columns)
        logger.info("inputs are standardised by the rows of %d reports", len(opened.members))
        content = keep(current.store, write_standard(standard), current.chunk_bytes)
        return {"statistics": content}
