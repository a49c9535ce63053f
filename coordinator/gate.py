"""The gate: a candidate is served only when the sites do not find it worse.

Sites judge candidate and served weights on the same held-out rows of their own, so the comparison
is paired; counts of all reporting sites are added before a figure is computed (a site with few
failures only adds to the pooled figure).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from wire.evaluation import add, pr_auc, roc_auc
from wire.messages import Evaluation
from wire.settings import Settings


class GateSettings(Settings, frozen=True, kw_only=True):
    """The `[gate]` table.

    Attributes:
      every: versions between two candidates.
      quorum: sites that have to report before a candidate is judged.
      tolerance: how much lower the PR-AUC may be and still count as not worse.
      deadline_s: a candidate without quorum for this long is given up.
    """

    every: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 5
    quorum: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2
    tolerance: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)] = 600.0


@dataclass(frozen=True)
class Quality:
    """Pooled quality over the reporting sites; None where a class is missing."""

    pr_auc: float | None
    roc_auc: float | None
    rows: int
    positives: int


def pooled(evaluations: list[Evaluation]) -> Quality:
    """Quality of one model over the added counts of several sites."""
    positives, negatives = add(evaluations)
    return Quality(
        pr_auc(positives, negatives),
        roc_auc(positives, negatives),
        int(positives.sum() + negatives.sum()),
        int(positives.sum()),
    )


def sites_of(reporters: Iterable[str]) -> set[str]:
    """The distinct sites among reporters (`site/agent`): two agents of a site are one site."""
    return {reporter.partition("/")[0] for reporter in reporters}


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate is promoted, and why."""

    promote: bool
    reason: str


def decide(
    candidate: dict[str, Evaluation], served: dict[str, Evaluation], settings: GateSettings
) -> Verdict | None:
    """Judge a candidate by the sites that reported on both; None while there are too few.

    Args:
      candidate: evaluation of the candidate by `site/agent`.
      served: evaluation of the served weights by `site/agent`.
      settings: quorum and tolerance.
    """
    both = sorted(candidate.keys() & served.keys())
    sites = sites_of(both)
    if len(sites) < settings.quorum:
        return None
    new = pooled([candidate[site] for site in both])
    old = pooled([served[site] for site in both])
    if new.pr_auc is None or old.pr_auc is None:
        return None
    reason = f"PR-AUC {new.pr_auc:.3f} against {old.pr_auc:.3f} on {new.rows} held-out rows"
    reason += f" of {len(sites)} sites"
    return Verdict(new.pr_auc >= old.pr_auc - settings.tolerance, reason)
