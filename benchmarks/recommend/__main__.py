"""Are proposals from a surrogate that was learned together closer to the best set-points?

Five simulated sites with a known optimum (`shopfloor/line.py`), each of which runs its line in its
own corner of the set-points.  Printed: mean regret of what each is told by its own surrogate, by
the federation's, and by one of all rows in one place; how often anything is proposed; and whether
intervals of 90 % hold.  Beside it, on a real plant's readings by month, the
prediction error of the three.

The last line is JSON; `value` is the federated surrogate's mean regret over that of the best of
alone, with and without a region, site by site, at the site where it does worst, mean over seeds.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.recommend import steel
from benchmarks.recommend.consortium import job
from benchmarks.recommend.regret import ARMS, Outcome, Sizes, mean_of, outcomes
from shopfloor.jobs.proposals import RECIPE
from shopfloor.line import SITES

TARGET = 1.0
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "steel_energy"
STEEL = DATA / "Steel_industry_data.csv.gz"
REDUCED = Sizes(rows=800, rounds=150, conditions=12, future=200)


def main() -> int:
    """Run; 0 when the target holds."""
    options = _arguments()
    sizes = REDUCED if options.reduced else Sizes()
    seeds = 1 if options.reduced else options.seeds
    built = job("process")
    by_seed = []
    for seed in range(seeds):
        by_seed.append(outcomes(built, sizes, seed))
        print(f"seed {seed}: " + _line(by_seed[-1]), flush=True)
    found = [each for outcome in by_seed for each in outcome]
    if min(regret for each in found for regret in each.regret.values()) < 0:
        raise SystemExit("a proposal is better than the best set-points: the optimum is none")
    _table(by_seed)
    _intervals(found)
    worst = max(_ratio([outcome[site] for outcome in by_seed]) for site in range(SITES))
    verdict = {
        "name": "recommend",
        "value": round(worst, 3),
        "unit": "regret federated / best alone, worst site",
        "target": TARGET,
        "holds": worst < TARGET,
        "regret": {arm: round(mean_of(found, arm), 2) for arm in ARMS},
        "coverage": round(float(np.mean([each.covered for each in found])), 3),
        "steel": _steel(options, reduced=options.reduced),
    }
    print(json.dumps(verdict))
    return 0 if verdict["holds"] or options.reduced else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recommend", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reduced", action="store_true", help="one small seed: no verdict")
    parser.add_argument("--data", type=Path, default=STEEL, help="the published steel readings")
    return parser.parse_args()


def _ratio(found: list[Outcome]) -> float:
    """Federated over the better way of being alone, of one site."""
    alone = min(mean_of(found, "alone"), mean_of(found, "alone, no region"))
    return mean_of(found, "federated") / alone


def _line(found: list[Outcome]) -> str:
    return ", ".join(f"{arm} {mean_of(found, arm):.1f}" for arm in ARMS)


def _table(by_seed: list[list[Outcome]]) -> None:
    print("\nmean regret against the best set-points, kWh/t (share of conditions with a proposal)")
    print(f"{'':8}" + "".join(f"{arm:>20}" for arm in ARMS))
    for site in range(SITES):
        found = [outcome[site] for outcome in by_seed]
        cells = [
            f"{mean_of(found, arm):.1f} ({np.mean([each.proposed[arm] for each in found]):.0%})"
            for arm in ARMS
        ]
        print(f"site {site + 1}  " + "".join(f"{cell:>20}" for cell in cells))


def _intervals(found: list[Outcome]) -> None:
    at = [each.at_proposals for each in found if each.at_proposals is not None]
    print(f"\nintervals of {RECIPE.coverage:.0%}, federated: they held")
    for what, values in (
        ("values of rows of the same time", [each.covered for each in found]),
        ("changes between rows of the same time", [each.changes for each in found]),
        ("values of later rows (not promised)", [each.later for each in found]),
        ("what a meter reads at proposals (not promised)", at),
    ):
        print(f"  {what:48} {np.mean(values):.1%}, worst {min(values):.1%}")


def _steel(options: argparse.Namespace, *, reduced: bool) -> dict[str, float]:
    if not options.data.exists():
        print(f"steel plant: skipped, {options.data} is not there; name a copy with --data")
        return {}
    passes, seeds = (20, 1) if reduced else (60, options.seeds)
    runs = [steel.errors(options.data, passes, seed) for seed in range(seeds)]
    means = {arm: round(float(np.mean([run[arm] for run in runs])), 4) for arm in runs[0]}
    print("\nreal steel plant, twelve months as sites: error over the deviation of energy")
    for arm, value in means.items():
        print(f"  {arm:16} {value:.4f}")
    return means


if __name__ == "__main__":
    raise SystemExit(main())
