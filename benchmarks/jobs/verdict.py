"""What the runs of the four jobs say together.  Pure but for what it prints."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from shopfloor.jobs.record import JobRecord, SiteResult

TARGETS = {
    "maintenance": "federated or personal PR-AUC within .02 of pooled, above the mean of alone",
    "life": "RMSE at most 14.5 cycles, below the mean of alone",
    "inspection": "accuracy within .02 of pooled, above the mean of alone",
    "process": "RMSE below the mean of alone; proposals nearer to the optimum than any site's own",
    "energy": "RMSE at most 5 % above pooled, below the mean of alone",
    "supply-chain": "ROC-AUC within .02 of pooled, above the mean of alone",
    "odd-orders": "ROC-AUC within .02 of pooled, above the mean of alone",
}
NEWCOMERS = ("maintenance", "inspection")
"""Jobs of which each site joins late once."""
_IN_TABLES = ("metric", "data", "seeds", "margin", "holds", "all_rows", "own_rows")
"""All but these is printed below the tables, where there is any."""
MOST_BEHIND = 0.02
MOST_OVER = 0.05
LONGEST_RMSE = 14.5
MOST_WORSE = 0.01
"""Of a site under personalisation against itself alone: a point; of RMSE one part in a hundred."""
MOST_APART = 0.01
"""Of each newcomer behind what the members serve, on the newcomer's rows."""


def conclude(runs: Sequence[tuple[str, JobRecord]], *, is_reduced: bool) -> int:
    """Print what was found and the JSON line; 0 when it holds."""
    jobs = dict.fromkeys(job for job, _ in runs)
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        records = [record for name, record in runs if name == job]
        members = [record for record in records if record.newcomer is None]
        found[job] = _of_job(job, members)
        newcomers = [record for record in records if record.newcomer is not None]
        if newcomers:
            found[job] |= _of_newcomers(newcomers, members)
    lost = sum(record.updates.lost for _, record in runs)
    _print(found)
    margins = [each["margin"] for each in found.values()]
    holds = lost == 0 and all(
        each["holds"] and each.get("newcomers_hold", True) for each in found.values()
    )
    verdict = {
        "name": "jobs",
        "value": round(min(margins), 3),
        "unit": "least margin to a target, in parts of what it allows",
        "target": 0.0,
        "holds": holds,
        "lost": lost,
        "down_share": round(float(np.mean([record.down_share for _, record in runs])), 3),
        "jobs": found,
        "reduced": is_reduced,
    }
    if is_reduced:
        print("reduced: every run ended and lost nothing; figures are only printed")
    print(json.dumps(verdict))
    return 0 if lost == 0 and (holds or is_reduced) else 1


def _of_job(job: str, records: Sequence[JobRecord]) -> dict[str, Any]:
    ways = ("local", "federated", "personal", "pooled")
    mean = {way: _mean([getattr(record.overall, way) for record in records]) for way in ways}
    own = {way: _mean([getattr(record.own, way) for record in records]) for way in ways}
    is_rmse = records[0].metric == "rmse"
    sign = -1.0 if is_rmse else 1.0
    best = max(mean["federated"], mean["personal"], key=lambda value: sign * value)
    margin = _margin(job, best, mean["pooled"])
    worse, unclear = _worse_off(records, is_rmse=is_rmse)
    is_ahead = sign * (best - mean["local"]) > 0
    is_near_the_optimum = all(
        record.proposals.federated < record.proposals.best_local
        for record in records
        if record.proposals is not None
    )
    return {
        "metric": records[0].metric,
        "data": records[0].data,
        "seeds": len(records),
        "margin": round(margin, 3),
        "holds": margin >= 0 and is_ahead and not worse and is_near_the_optimum,
        "all_rows": {way: round(value, 4) for way, value in mean.items()},
        "own_rows": {way: round(value, 4) for way, value in own.items()},
        "worse_off": worse,
        "can_not_tell": unclear,
        "regret": _regret(records),
        "unseen": _unseen(records),
        "drift": [record.drift.alarm_s for record in records if record.drift is not None],
    }


def _margin(job: str, value: float, pooled: float) -> float:
    """How far within its target, in parts of what the target allows; below 0 it is missed."""
    if job == "life":
        return (LONGEST_RMSE - value) / LONGEST_RMSE
    if job in ("energy", "process"):
        if job == "process":  # judged by its proposals; the surrogate's error is printed only
            return 0.0
        return (MOST_OVER - (value / pooled - 1)) / MOST_OVER
    return (MOST_BEHIND - (pooled - value)) / MOST_BEHIND


def _worse_off(
    records: Sequence[JobRecord], *, is_rmse: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Sites that are worse under personalisation than alone: surely, and too close to tell.

    Over the seeds differences and ends of their intervals are averaged; a site is surely worse when
    even the upper end is below the limit.
    """
    names = dict.fromkeys(site.name for record in records for site in record.sites)
    worse: dict[str, float] = {}
    unclear: dict[str, float] = {}
    for name in names:
        sites = [s for r in records for s in r.sites if s.name == name and s.over_local is not None]
        if not sites:
            continue
        found = [site.over_local for site in sites if site.over_local is not None]
        scale = _mean([site.quality.local for site in sites]) if is_rmse else 1.0
        value = float(np.mean([each.value for each in found])) / scale
        high = float(np.mean([each.high for each in found])) / scale
        if value < -MOST_WORSE:
            (worse if high < -MOST_WORSE else unclear)[name] = round(value, 4)
    return worse, unclear


def _of_newcomers(newcomers: Sequence[JobRecord], members: Sequence[JobRecord]) -> dict[str, Any]:
    """How sites fare that are served what others learned, by name: how much better they are.

    Than:
    - `newcomers`, which decides: the mean of what members serve, on the newcomer's rows;
    - `..._than_members_at_home`: the members' mean, each on its own rows, which may be easier;
    - `..._than_as_member`: the federation's model when this site is a member, on its test rows;
    - `..._than_pooled`: the members' rows in one place: all that anybody could know of it.
    """
    found: dict[str, dict[str, float]] = {
        "newcomers": {},
        "newcomers_than_members_at_home": {},
        "newcomers_than_as_member": {},
        "newcomers_than_pooled": {},
    }

    def put(name: str, site: str, one: float | None, other: float | None) -> None:
        if one is not None and other is not None:
            found[name][site] = round(one - other, 4)

    for record in newcomers:
        new = record.newcomer
        if new is None:
            continue
        site = _site(record, new.site)
        put("newcomers", new.site, new.quality, new.members_there)
        put("newcomers_than_members_at_home", new.site, new.quality, new.members)
        put("newcomers_than_pooled", new.site, site.quality.federated, site.quality.pooled)
        for twin in [each for each in members if each.seed == record.seed]:
            as_member = _site(twin, new.site).quality.federated
            put("newcomers_than_as_member", new.site, site.quality.federated, as_member)
    worst = min(found["newcomers"].values(), default=-1.0)
    return {**found, "newcomers_hold": worst >= -MOST_APART}


def _site(record: JobRecord, name: str) -> SiteResult:
    return next(site for site in record.sites if site.name == name)


def _regret(records: Sequence[JobRecord]) -> dict[str, float] | None:
    found = [record.proposals for record in records if record.proposals is not None]
    if not found:
        return None
    ways = ("people", "local", "best_local", "federated", "pooled")
    return {way: round(_mean([getattr(each, way) for each in found]), 2) for way in ways}


def _unseen(records: Sequence[JobRecord]) -> dict[str, float] | None:
    """Recall of the class that a site has never seen, all seeds together."""
    found = [record.unseen for record in records if record.unseen is not None]
    if not found:
        return None
    rows = sum(each.rows for each in found)
    ways = ("local", "federated", "personal", "pooled")
    return {way: round(sum(getattr(each, way) for each in found) / rows, 3) for way in ways}


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _print(found: dict[str, dict[str, Any]]) -> None:
    ways = ("local", "federated", "personal", "pooled")
    for title, key in (
        ("on all sites' test rows", "all_rows"),
        ("mean of the sites, each on its own test rows", "own_rows"),
    ):
        print(f"\n{title}")
        print(f"{'job':14}{'metric':>10}" + "".join(f"{way:>11}" for way in ways) + "   holds")
        for job, each in found.items():
            cells = "".join(f"{each[key][way]:11.4g}" for way in ways)
            print(f"{job:14}{each['metric']:>10}{cells}   {'yes' if each['holds'] else 'no'}")
    for job, each in found.items():
        for name, value in each.items():
            if value and name not in _IN_TABLES:
                print(f"{job}: {name.replace('_', ' ')}: {value}")
