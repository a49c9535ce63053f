"""The gate: a candidate is served only when the sites do not find it worse.

Sites judge candidate and served weights on the same held-out rows of their own, so the comparison
is paired; counts of all reporting sites are added before a figure is computed (a site with few
failures only adds to the pooled figure).  Refuses to decide from fewer sites than the quorum, and
from pairs whose rows are not the same.

Invariant: a model that gives a site no numbers where the served one gives some is not promoted.

Four outcomes.  `promote`: not worse than served by more than the tolerance.  Else it is kept back,
and training goes on, because versions in a row differ by chance and the next may be better.
`unclear`: chance explains it, as with two failures among the rows; no lineage ends by it.  `worse`:
beyond one standard error; after `patience` of these in a row the lineage is given up.  `far worse`:
by `abandon_below` and beyond three standard errors; the lineage is given up at once, as after a
poisoned or diverged update, of which nothing good can be learned any more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np

from coordinator.falls import evidence
from wire.evaluation import add
from wire.figures import (
    METRICS_OF,
    WORDS,
    Metric,
    figure,
    is_better,
    main_metric,
    number,
    worsening,
)
from wire.manifest import Manifest
from wire.messages import Evaluation
from wire.settings import Settings
from wire.tally import Tally, kind_of, tally_of

__all__ = [
    "GateSettings",
    "Metric",
    "Verdict",
    "cohort_of",
    "decide",
    "figure",
    "is_better",
    "is_given_up",
    "metric_of",
    "pooled_figure",
    "site_quality",
    "sites_of",
    "unfit_metric",
]

LEAST_ROWS = 30
"""Held-out rows, or positive ones of two classes, below which a site has no figure of its own."""


class GateSettings(Settings, frozen=True, kw_only=True):
    """The `[gate]` table.

    Attributes:
      every: versions between two candidates.
      quorum: sites that have to report before a candidate is judged.
      metric: what models are compared by; `auto`: PR-AUC for two classes, mean F1 for more, RMSE
        for numbers, loss for reconstruction.
      tolerance: how much worse the figure may be and still count as not worse; of a share (PR-AUC,
        F1, ...) the difference, of RMSE, MAE and loss the part of the served model's.
      patience: candidates in a row that were found worse, after which the lineage is given up.
      abandon_below: a candidate this much worse, measured as `tolerance`, gives it up at once.
      deadline_s: a candidate without quorum for this long is given up.
    """

    every: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 5
    quorum: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2
    metric: Literal["auto"] | Metric = "auto"
    tolerance: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    patience: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    abandon_below: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.1
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)] = 600.0


_COHORT = "*"
Outcome = Literal["promote", "unclear", "worse", "far worse"]
_LEAST_FAILURES = 10
"""Pooled failures, and rows without, below which errors of a ranking are not known well enough."""
_EVIDENT, _BEYOND_DOUBT = 1.0, 3.0
"""Standard errors by which a candidate is worse, and far worse.  Both models are judged on the same
rows, so the error of their difference is smaller than the one assumed (`coordinator/falls.py`)."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a candidate, and why.

    Attributes:
      outcome: see the module.
      reason: in words, with both figures.
      figure, served_figure: pooled, of the candidate and of what is served; None where the
        candidate gave no numbers.
    """

    outcome: Outcome
    reason: str
    figure: float | None
    served_figure: float | None

    @property
    def promote(self) -> bool:
        """Whether the candidate is served from now on."""
        return self.outcome == "promote"


def decide(
    candidate: Mapping[str, Evaluation], served: Mapping[str, Evaluation], settings: GateSettings
) -> Verdict | None:
    """Judge a candidate by the sites that reported on both; None while there are too few.

    Args:
      candidate: evaluation of the candidate by `site/agent`.
      served: evaluation of the served weights by `site/agent`.
      settings: quorum, metric and tolerance.

    Raises:
      MalformedError: evaluations of different tasks, which `check_evaluation` keeps away.
    """
    named = sorted(candidate.keys() & served.keys())
    if len(sites_of(named)) < settings.quorum:
        return None  # at once: this is asked with every report
    both = [name for name in named if _has_same_rows(candidate[name], served[name])]
    sites = sites_of(both)
    if len(sites) < settings.quorum:
        return None
    lost = sites_of(
        reporter
        for reporter in both
        if not tally_of(candidate[reporter]).is_finite and tally_of(served[reporter]).is_finite
    )
    new, old = (add(by_site[reporter] for reporter in both) for by_site in (candidate, served))
    metric = metric_of(new, settings)
    new_figure, old_figure = (figure(metric, tally) if metric else None for tally in (new, old))
    if lost:
        # One site alone may have inputs of its own that overflow; most sites do not.
        outcome: Outcome = "far worse" if 2 * len(lost) > len(sites) else "worse"
        reason = f"gives no finite numbers at {len(lost)} of {len(sites)} sites"
        return Verdict(outcome, reason, None, old_figure)
    if metric is None or new_figure is None or old_figure is None:
        return None
    reason = f"{WORDS[metric]} {number(metric, new_figure)} against {number(metric, old_figure)}"
    reason += f" on {new.rows} held-out rows of {len(sites)} sites"
    sigmas = evidence(old, new) if _is_telling(new) else 0.0
    outcome = _outcome(worsening(metric, new_figure, old_figure), sigmas, settings)
    return Verdict(outcome, reason, new_figure, old_figure)


def _is_telling(tally: Tally) -> bool:
    if tally.kind == "binary":
        return min(tally.failures, tally.rows - tally.failures) >= _LEAST_FAILURES
    return tally.rows >= LEAST_ROWS


def _outcome(worse: float, sigmas: float, settings: GateSettings) -> Outcome:
    if worse <= settings.tolerance:
        return "promote"
    if worse >= settings.abandon_below and sigmas >= _BEYOND_DOUBT:
        return "far worse"
    return "worse" if sigmas >= _EVIDENT else "unclear"


def is_given_up(verdict: Verdict, worse_before: int, settings: GateSettings) -> bool:
    """Whether a verdict ends the lineage of its candidate.

    Args:
      verdict: on the newest candidate.
      worse_before: this lineage's candidates that were found worse since the last promotion; one
        without a quorum, or about which chance decides, is not among them.
      settings: patience.
    """
    if verdict.outcome == "worse":
        return worse_before + 1 >= settings.patience
    return verdict.outcome == "far worse"


def metric_of(evaluation: Evaluation | Tally, settings: GateSettings) -> Metric | None:
    """What evaluations of this kind are compared by; None without a row."""
    if settings.metric != "auto":
        return settings.metric
    return main_metric(_as_tally(evaluation))


def unfit_metric(settings: GateSettings, manifest: Manifest) -> str:
    """Why a bundle's models are never judged by the configured metric; empty when they are."""
    fitting = METRICS_OF[kind_of(manifest)]
    if settings.metric == "auto" or settings.metric in fitting:
        return ""
    return (
        f"loss {manifest.loss} of bundle {manifest.name} gives no {settings.metric}; choose "
        f"auto, {', '.join(fitting)}"
    )


def site_quality(evaluation: Evaluation | Tally, settings: GateSettings) -> float | None:
    """One site's own figure; None for a site with too few rows, which only adds to pooled ones."""
    tally = _as_tally(evaluation)
    metric = metric_of(tally, settings)
    counted = tally.failures if tally.kind == "binary" else tally.rows
    return figure(metric, tally) if metric is not None and counted >= LEAST_ROWS else None


def pooled_figure(
    reports: Mapping[str, Evaluation], settings: GateSettings, k_min: int = 1
) -> float | None:
    """Figure of one model over all sites that reported; None where that may not be shown.

    Args:
      reports: evaluation by `site/agent`.
      settings: metric.
      k_min: of the charter: a sum of fewer distinct sites is not shown.
    """
    if len(sites_of(reports)) < max(k_min, 1):
        return None
    tally = add(reports[reporter] for reporter in sorted(reports))
    metric = metric_of(tally, settings)
    return figure(metric, tally) if metric is not None else None


def sites_of(reporters: Iterable[str]) -> set[str]:
    """The distinct sites among reporters (`site/agent`): two agents of a site are one site.

    A cohort (`cohort_of`) counts for as many sites as its sum is of.
    """
    found: set[str] = set()
    for reporter in reporters:
        name, _, rest = reporter.partition("/")
        if name.startswith(_COHORT):
            found.update(f"{name}.{number}" for number in range(int(rest)))
        else:
            found.add(name)
    return found


def cohort_of(subject: bytes, number: int, sites: int) -> str:
    """Name of the reporter that an opened sum over sites stands for; no site is called so."""
    return f"{_COHORT}{subject.hex()[:16]}.{number}/{sites}"


def _as_tally(evaluation: Evaluation | Tally) -> Tally:
    return tally_of(evaluation) if isinstance(evaluation, Evaluation) else evaluation


def _has_same_rows(one: Evaluation, other: Evaluation) -> bool:
    """Whether two models were judged on rows with the same labels, as far as counts can tell."""
    if one.errors is not None and other.errors is not None:
        rows = (one.errors.rows, one.errors.label, one.errors.label_squared)
        return rows == (other.errors.rows, other.errors.label, other.errors.label_squared)
    here, there = tally_of(one), tally_of(other)
    return np.array_equal(_labels(here), _labels(there))


def _labels(tally: Tally) -> list[int]:
    """Rows of each class, the negative one first where there are two."""
    if tally.confusion.size:
        return [int(count) for count in tally.confusion.sum(axis=1)]
    return [int(tally.negatives.sum()), int(tally.positives.sum())]
