"""The task: 500 clients, each with a few of ten classes.

A class is three Gaussian clusters in 32 dimensions; a client's classes are drawn from a Dirichlet
distribution with concentration 0.1 (Hsu, Qi and Brown, arXiv:1909.06335, section 3), so that most
clients have one or two. Rows for a client: log-normal with median 60. Trainers and data are the
benchmark's; what happens to a delta afterwards is the product's.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_network import Rows

CLIENTS = 500
CLASSES = 10
DIMENSIONS = 32
CLUSTERS = 3
CONCENTRATION = 0.1
RADIUS = 3.0
SPREAD = 0.8
TEST_ROWS_PER_CLASS = 300


@dataclass(frozen=True)
class Task:
    """Who has which rows, how long each takes to train, and what everybody is judged on.

    Attributes:
      clients: rows of each.
      seconds: mean time that each needs for an update, log-normal with median 60.
      test: rows of all classes alike, which nobody has.
    """

    clients: tuple[Rows, ...]
    seconds: NDArray[np.float64]
    test: Rows


def make_task(seed: int) -> Task:
    """Draw clusters, clients and test rows."""
    rng = np.random.default_rng([seed, 1])
    centers = rng.normal(size=(CLASSES, CLUSTERS, DIMENSIONS))
    centers *= RADIUS / np.linalg.norm(centers, axis=2, keepdims=True)

    def rows(y: NDArray[np.int64]) -> Rows:
        middle = centers[y, rng.integers(CLUSTERS, size=len(y))]
        noise = rng.normal(0.0, SPREAD, middle.shape)
        return Rows((middle + noise).astype(np.float32), y)

    clients = []
    for _ in range(CLIENTS):
        number = int(np.clip(np.exp(rng.normal(math.log(60), 0.5)), 20, 300))
        shares = rng.dirichlet(np.full(CLASSES, CONCENTRATION))
        clients.append(rows(rng.choice(CLASSES, number, p=shares)))
    seconds = 60.0 * np.exp(rng.normal(size=CLIENTS))
    test = rows(np.repeat(np.arange(CLASSES), TEST_ROWS_PER_CLASS))
    return Task(tuple(clients), seconds, test)
