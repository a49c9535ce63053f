"""Three ways to train one model, side by side: own data only, federated, all data pooled.

Responsible for which qualities of a `RunRecord` are compared with which, and for when a difference
counts.  Refuses to compare across different held-out rows.  Invariant: a site that cannot be
judged has no gain; it is never counted as helped, equal or worse.
"""

from dataclasses import dataclass
from typing import Literal

from shopfloor.record import (
    ModelQuality,
    QualityPoint,
    RunRecord,
    SiteQuality,
    final_baseline,
    served_quality,
)

Metric = Literal["pr_auc", "roc_auc"]

EQUAL_BELOW = 0.005
"""Half of the last digit shown: two qualities closer than this are called equal."""


@dataclass(frozen=True)
class Comparison:
    """Qualities (0..1) on the same held-out rows; None where those hold only one class.

    Attributes:
      site: whose rows `own` was trained on.
      own: the model trained on that site's rows only.
      federated: the version that the sites served at the end.
      pooled: the model trained on all sites' rows in one place.
    """

    site: str
    own: float | None
    federated: float | None
    pooled: float | None

    @property
    def gain(self) -> float | None:
        """Federated minus own data only; positive where learning together helped."""
        if self.own is None or self.federated is None:
            return None
        return self.federated - self.own


def compare_sites(record: RunRecord, metric: Metric = "pr_auc") -> list[Comparison]:
    """Each site's three models on that site's own held-out rows, at the end of the run.

    Raises:
      ValueError: the record has no baseline or its served version was never judged.
    """
    served, last = served_quality(record), final_baseline(record)
    unknown = SiteQuality(None, None)
    return [
        Comparison(
            site.site,
            quality_by(metric, last.local[site.site].per_site.get(site.site, unknown)),
            quality_by(metric, served.per_site.get(site.site, unknown)),
            quality_by(metric, last.pooled.per_site.get(site.site, unknown)),
        )
        for site in record.sites
    ]


def compare_on_all_rows(record: RunRecord, metric: Metric = "pr_auc") -> Comparison:
    """Federated and pooled against the best site alone, on all sites' held-out rows.

    Raises:
      ValueError: the record has no baseline or its served version was never judged.
    """
    last = final_baseline(record)
    alone = {site: quality_by(metric, model) or 0.0 for site, model in last.local.items()}
    best = max(alone, key=lambda site: alone[site])
    return Comparison(
        best,
        alone[best],
        quality_by(metric, served_quality(record)),
        quality_by(metric, last.pooled),
    )


def quality_by(metric: Metric, quality: SiteQuality | ModelQuality | QualityPoint) -> float | None:
    """One of the two numbers; None only where a single site's rows hold one class."""
    return quality.pr_auc if metric == "pr_auc" else quality.roc_auc


def direction(difference: float | None) -> int:
    """1 if better, -1 if worse, 0 if equal at the digits shown or not judgeable."""
    if difference is None or abs(difference) < EQUAL_BELOW:
        return 0
    return 1 if difference > 0 else -1
