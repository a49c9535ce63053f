"""The agents' rows and speeds: a task of ten classes, made from a seed.

Each class is three Gaussian clusters in 32 dimensions, so a linear model does not do.  Agents
differ as in Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification" (arXiv:1909.06335): each one's classes are a draw from a Dirichlet
distribution.  All rows are one array, an agent's are a range of it: 9 kB for an agent of 60 rows.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopfloor.simulate.scenario import Scenario

CLASSES = 10
DIMENSIONS = 32
_CLUSTERS = 3
_RADIUS = 3.0
_NOISE = 0.8
_ROW_RANGE = (20, 300)
_ROWS_SPREAD = 0.5
_TEST_ROWS = 1500


@dataclass(frozen=True)
class Fleet:
    """What N agents have.

    Attributes:
      features: float32 (R, 32), rows of all agents.
      labels: int64 (R,), 0 to 9.
      starts: int64 (N + 1,), agent i has the rows from starts[i] up to starts[i + 1].
      test_features, test_labels: balanced rows that no agent has.
      compute_s: float64 (N,), an agent's usual seconds for a training.
      agents, sites: names; sorted, so that an agent's place is its number.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    starts: NDArray[np.int64]
    test_features: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    compute_s: NDArray[np.float64]
    agents: tuple[str, ...]
    sites: tuple[str, ...]

    @property
    def rows(self) -> NDArray[np.int64]:
        """Training rows of each agent, int64 (N,)."""
        return np.diff(self.starts)


def make_fleet(scenario: Scenario) -> Fleet:
    """Agents by the scenario's seed."""
    rng = np.random.default_rng([scenario.seed, 1])
    count = scenario.agents
    centers = rng.normal(size=(CLASSES * _CLUSTERS, DIMENSIONS))
    centers *= _RADIUS / np.sqrt(np.square(centers).sum(axis=1, keepdims=True))
    rows = np.exp(rng.normal(math.log(scenario.rows), _ROWS_SPREAD, count))
    rows = np.clip(rows, *_ROW_RANGE).astype(np.int64)
    mixture = rng.dirichlet(np.full(CLASSES, scenario.skew), count)
    owner = np.repeat(np.arange(count), rows)
    # The last bound is 1 but for rounding, and a label of 10 must not be.
    bounds = np.cumsum(mixture, axis=1)[:, :-1]
    labels = (rng.random(len(owner))[:, np.newaxis] > bounds[owner]).sum(axis=1)
    test_labels = np.repeat(np.arange(CLASSES), _TEST_ROWS // CLASSES)
    return Fleet(
        features=_features(centers, labels, rng),
        labels=labels,
        starts=np.concatenate([[0], np.cumsum(rows)]),
        test_features=_features(centers, test_labels, rng),
        test_labels=test_labels,
        compute_s=_compute_s(scenario, mixture @ np.arange(CLASSES), rng),
        agents=tuple(f"agent-{number:06d}" for number in range(count)),
        sites=tuple(f"site-{n // scenario.agents_per_site:06d}" for n in range(count)),
    )


def _features(
    centers: NDArray[np.float64], labels: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float32]:
    clusters = labels * _CLUSTERS + rng.integers(0, _CLUSTERS, len(labels))
    features = rng.standard_normal((len(labels), DIMENSIONS), np.float32)
    features *= np.float32(_NOISE)
    features += centers.astype(np.float32)[clusters]
    return features


def _compute_s(
    scenario: Scenario, classes: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Lognormal; `classes` is the mean number of each agent's classes, (N,)."""
    own = rng.standard_normal(scenario.agents)
    of_data = (classes - classes.mean()) / max(float(classes.std()), 1e-12)
    shared = scenario.correlation
    logarithm = shared * of_data + math.sqrt(1.0 - shared**2) * own
    seconds: NDArray[np.float64] = scenario.compute_s * np.exp(scenario.compute_spread * logarithm)
    return seconds
