"""What a fifth of hostile sites can do to each rule, with the coordinator's own aggregation.

Sixty sites, uneven in size and mix of classes (Dirichlet .5), train a small network; updates are up
to five versions stale, go through the agent's clip and 8 bits, and through `take` and `advance` of
`coordinator.aggregation` into versions of twenty.  Twelve sites are hostile:

`flip`        minus five times what they trained;
`x100`        minus a hundred times;
`ALIE`        the honest mean minus 1.5 deviations in every coordinate (Baruch, Baruch and Goldberg,
              "A Little Is Enough", arXiv:1902.06156);
`IPM`         minus twice the honest mean (Xie, Koyejo and Gupta, "Fall of Empires",
              arXiv:1903.03936);
`label flip`  honest training on labels 9 - y.

They know the updates of the honest sites of their version, claim the largest weight that the policy
allows, and scale themselves down to its norm bound: who does not is refused, which is shown first.

The last line is JSON; `value` is what the robust default loses at most under `flip` and `x100`, in
points of accuracy below the plain mean without attackers, mean over the seeds.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy reads it
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import math
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from benchmarks.update_bytes.task import Network, Rows
from coordinator.aggregation import Model, Rules, advance, begin, is_ready, take
from coordinator.robust import RobustSettings
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.strategies.choice import StrategySettings, make_strategy
from coordinator.strategies.strategy import Offer, Rejected
from wire.messages import Policy
from wire.tensors import clip, quantize, read_integers

Vector = NDArray[np.float64]

SITES, HOSTILE, GOAL, STALEST = 60, 12, 20, 5
CLASSES, CLUSTERS, DIMENSIONS = 10, 3, 32
MIX, RADIUS, SPREAD, TEST_ROWS = 0.5, 3.0, 0.8, 1500
POLICY = Policy(clip_norm=10.0, scale=4e-3, weight_cap=100)
"""The bound is some five times what an honest update measures: loose, as it has to be set before
anybody knows."""
NETWORK = Network((DIMENSIONS, 64, CLASSES))
ATTACKS = ("none", "flip", "x100", "ALIE", "IPM", "label flip")
MOST_LOST, MOST_LOST_CLEAN, COLLAPSED = 8.0, 1.0, 30.0
PLAIN, DEFAULT = "mean", "centred, geometric median"
RULES = {
    PLAIN: RobustSettings(),
    "norm clipping": RobustSettings(clip="norm"),
    "centred clipping": RobustSettings(clip="centred"),
    "trimmed mean": RobustSettings(combine="trimmed_mean", buckets=10),
    "median": RobustSettings(combine="median", buckets=10),
    "geometric median": RobustSettings(combine="geometric_median", buckets=10),
    DEFAULT: RobustSettings(clip="centred", combine="geometric_median", buckets=10),
}


@dataclass(frozen=True)
class Plant:
    """Rows of each site, and rows of all classes alike to judge by."""

    sites: tuple[Rows, ...]
    test: Rows


@dataclass(frozen=True)
class Case:
    """One run."""

    rule: str
    attack: str
    seed: int
    versions: int
    is_careful: bool = True


@dataclass(frozen=True)
class Outcome:
    """Accuracy, mean of the last ten versions; the hostile sites' updates, and how many of them
    were refused."""

    accuracy: float
    sent: int
    refused: int


def make_plant(seed: int) -> Plant:
    """Draw clouds of points, sites and test rows."""
    rng = np.random.default_rng([seed, 1])
    centers = rng.normal(size=(CLASSES, CLUSTERS, DIMENSIONS))
    centers *= RADIUS / np.linalg.norm(centers, axis=2, keepdims=True)

    def rows(y: NDArray[np.int64]) -> Rows:
        middle = centers[y, rng.integers(CLUSTERS, size=len(y))]
        return Rows((middle + rng.normal(0.0, SPREAD, middle.shape)).astype(np.float32), y)

    def site() -> Rows:
        number = int(np.clip(np.exp(rng.normal(math.log(60), 0.5)), 20, 300))
        return rows(rng.choice(CLASSES, number, p=rng.dirichlet(np.full(CLASSES, MIX))))

    sites = tuple(site() for _ in range(SITES))
    return Plant(sites, rows(np.arange(TEST_ROWS) % CLASSES))


def run(case: Case) -> Outcome:
    """Train for so many versions."""
    plant, rng = make_plant(case.seed), np.random.default_rng([case.seed, 2])
    hostile = set(rng.permutation(SITES)[:HOSTILE].tolist()) if case.attack != "none" else set()
    rules = _rules(RULES[case.rule])
    model = begin(rules, NETWORK.initial(case.seed))
    history, accuracy, sent, refused = [model.params], [], 0, 0
    while model.version < case.versions:
        for site, delta, stale in _updates(case, plant, hostile, history, rng):
            taken = _offered(rules, model, case, plant, site, delta, stale, rng, site in hostile)
            sent += site in hostile
            if isinstance(taken, Rejected):
                refused += site in hostile
                continue
            model = taken
        model = advance(rules, model, POLICY.scale)
        history = [*history[-STALEST:], model.params]
        accuracy.append(NETWORK.accuracy(model.params, plant.test))
    return Outcome(100 * float(np.mean(accuracy[-10:])), sent, refused)
