"""What a job's record answers: better than alone, near pooled, nobody worse off.  Pure.

Responsible for what is compared with what, and for the margins.  Refuses to guess: what can not be
told is None.  Invariant: a gain is positive where the first model is better, whatever the metric.
"""

from typing import Any

from agent.egress.categories import UNKNOWN
from shopfloor.jobs.record import JobRecord, Qualities, SiteResult
from shopfloor.jobs.task import Metric

POINT = 0.01
"""One point of PR-AUC, ROC-AUC or accuracy; of an RMSE, one per cent of what it is held against."""
NEAR_POOLED, NEAR_POOLED_RMSE = 0.02, 0.05
"""So far behind pooled training may be: two points, or this share of the pooled RMSE (issue 10)."""
NO_LOSS = 0.5 * POINT
WAYS = ("local", "federated", "personal", "pooled")

DEFINITIONS = {
    "own": "mean over the sites that can tell, each judged on its own test rows",
    "overall": "on all sites' test rows together; local: the mean of the sites' own models",
    "..._over_...": "how much better the first is than the second, positive being better; for RMSE "
    "in the label's unit",
    "..._beats_local": "better by any amount",
    "..._near_pooled": "at most 0.02 behind pooled training; for RMSE at most 5 % of its RMSE",
    "sites_judged": "sites with enough test rows to tell",
    "sites_worse_off": "of these, whose personal model is worse than the site's own by more than "
    "0.01; for RMSE by more than 1 %",
    "updates_add_up": "every update produced has one outcome, or is counted as lost",
    "newcomer_near_members": "the newcomer's quality is at most 0.01 behind the members' mean, "
    "each on its own test rows; for RMSE 1 %",
    "newcomer_as_good_as_members_there": "the same against what the members serve, on the "
    "newcomer's rows",
    "unseen_learned": "the federated model finds more of the unseen class than the site's own",
    "drift_noticed": "the coordinator raised an alarm",
    "proposals_beat_every_site": "less regret with the federated model than with any site's own",
    "nothing_unexplained_left": "every byte that left a gateway has a category",
}


def gain(metric: Metric, one: float | None, other: float | None) -> float | None:
    """How much better `one` is than `other`; None where either is not known."""
    if one is None or other is None:
        return None
    return other - one if metric == "rmse" else one - other


def is_behind(metric: Metric, one: float | None, other: float | None, margin: float) -> bool | None:
    """Whether `one` is worse than `other` by more than a margin.

    Args:
      metric: by what both were judged.
      one: a quality.
      other: what it is held against.
      margin: absolute; for RMSE a share of `other`.
    """
    more = gain(metric, one, other)
    if more is None or other is None:
        return None
    return more < -(margin * other if metric == "rmse" else margin)


def is_far_from_pooled(metric: Metric, one: float | None, pooled: float | None) -> bool | None:
    """Whether a model is further behind pooled training than is asked for."""
    return is_behind(metric, one, pooled, NEAR_POOLED_RMSE if metric == "rmse" else NEAR_POOLED)


def judged_sites(record: JobRecord) -> list[SiteResult]:
    """Sites whose rows can tell whether they are better off than alone."""
    return [site for site in record.sites if site.over_local is not None]


def worse_off(record: JobRecord) -> list[SiteResult]:
    """Sites that are worse off with what they serve than alone, by more than a point."""
    found = []
    for site in judged_sites(record):
        local, more = site.quality.local, site.over_local
        margin = POINT * local if record.metric == "rmse" and local is not None else POINT
        if more is not None and more.value < -margin:
            found.append(site)
    return found


def best_ways(metric: Metric, quality: Qualities) -> list[str]:
    """Which of the three ways that are allowed is best; several where they are equal."""
    known = {way: getattr(quality, way) for way in WAYS[:3] if getattr(quality, way) is not None}
    if not known:
        return []
    best = min(known.values()) if metric == "rmse" else max(known.values())
    return [way for way, value in known.items() if value == best]


def verdict_figures(record: JobRecord) -> dict[str, Any]:
    """The record's answers as plain figures, booleans and names; what it has not is left out."""
    worse = [site.name for site in worse_off(record)]
    figures: dict[str, Any] = {
        "metric": record.metric,
        "better": "smaller" if record.metric == "rmse" else "larger",
        "own": _against(record.metric, record.own),
        "overall": _against(record.metric, record.overall),
        "sites_judged": len(judged_sites(record)),
        "sites_worse_off": worse,
        "no_site_worse_off": not worse,
        "updates_add_up": record.updates.on_the_way == 0,
        "no_update_lost": record.updates.lost == 0,
        "nothing_unexplained_left": not any(site.sent_bytes.get(UNKNOWN) for site in record.sites),
        **_shown(record),
    }
    return {**figures, "definitions": DEFINITIONS}


def _against(metric: Metric, quality: Qualities) -> dict[str, float | bool | None]:
    found: dict[str, float | bool | None] = {}
    for way in ("federated", "personal"):
        one = getattr(quality, way)
        over_local = gain(metric, one, quality.local)
        is_far = is_far_from_pooled(metric, one, quality.pooled)
        found[f"{way}_over_local"] = over_local
        found[f"{way}_over_pooled"] = gain(metric, one, quality.pooled)
        found[f"{way}_beats_local"] = None if over_local is None else over_local > 0
        found[f"{way}_near_pooled"] = None if is_far is None else not is_far
    return found


def _shown(record: JobRecord) -> dict[str, bool | None]:
    """Answers to what only some runs show."""
    found: dict[str, bool | None] = {}
    if record.unseen is not None:
        found["unseen_learned"] = record.unseen.federated > record.unseen.local
    if record.newcomer is not None:
        new = record.newcomer
        for name, other in (
            ("newcomer_near_members", new.members),
            ("newcomer_as_good_as_members_there", new.members_there),
        ):
            is_less = is_behind(record.metric, new.quality, other, POINT)
            found[name] = None if is_less is None else not is_less
    if record.drift is not None:
        found["drift_noticed"] = bool(record.drift.alarm)
    if record.proposals is not None:
        found["proposals_beat_every_site"] = (
            record.proposals.federated < record.proposals.best_local
        )
    return found
