"""Twenty factories whose data differ in three ways, made from nothing but a seed.

Each class is a mixture of three clusters in 32 measured values.  What differs between factories:
how often each class occurs (`label`, Dirichlet), how each sensor is scaled and offset (`feature`),
and where the clusters lie (`concept`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learning.families import mlp
from agent.learning.losses import Loss
from agent.learning.personalise import Candidate, Kind, PersonalTable, standard_of_rows
from agent.learning.plan import TrainingPlan
from benchmarks.personal.learning import (
    Job,
    Recipe,
    Site,
    federate,
    open_job,
    outputs,
    personalised,
    train_alone,
)

VALUES, CLASSES, CLUSTERS = 32, 6, 3
TRAIN_ROWS, CHOOSE_ROWS, TEST_ROWS = 80, 40, 400
ALONE_EPOCHS = 80
PLAN = TrainingPlan(epochs=2, batch_size=20, optimizer="sgd", learning_rate=0.05)
TABLE = PersonalTable(min_rows=TRAIN_ROWS)


@dataclass(frozen=True)
class Shift:
    """How factories differ, besides how often classes occur.

    Attributes:
      feature: of the sensors' scales and offsets, in units of an ordinary difference.
      concept: deviation by which each factory's clusters are moved.
    """

    name: str
    feature: float
    concept: float


SHIFTS = (
    Shift("feature + label", feature=1.0, concept=0.2),
    Shift("label", feature=0.0, concept=0.2),
    Shift("label + concept", feature=0.0, concept=0.9),
)


def make_factories(shift: Shift, number: int, seed: int) -> list[Site]:
    """Make the factories' rows."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(CLASSES, CLUSTERS, VALUES))
    centres *= 3.2 / np.linalg.norm(centres, axis=-1, keepdims=True)
    return [_factory(f"factory {at}", shift, centres, random) for at in range(number)]


def _factory(
    name: str, shift: Shift, centres: NDArray[np.float64], random: np.random.Generator
) -> Site:
    often = 0.85 * random.dirichlet([0.5] * CLASSES) + 0.15 / CLASSES
    scale = np.exp(random.normal(0, 0.5, VALUES) * shift.feature)
    offset = random.normal(0, 1, VALUES) * shift.feature
    own = centres + shift.concept * random.normal(size=centres.shape)

    def draw(rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        y = random.choice(CLASSES, rows, p=often)
        near = own[y, random.integers(0, CLUSTERS, rows)]
        x = near + random.normal(0, 0.9, near.shape)
        return (x * scale + offset).astype(np.float32), y.astype(np.int64)

    return Site(name, draw(TRAIN_ROWS), draw(CHOOSE_ROWS), draw(TEST_ROWS))


Accuracies = dict[str, list[float]]
"""Of each way of having a model: its accuracy at each factory."""


def measure(shift: Shift, number: int, versions: int, seed: int) -> tuple[Accuracies, list[Kind]]:
    """Learn together and alone, let every factory choose; return accuracies and choices.

    Alone is measured in four ways, with and without local normalisation: as the product's `local`
    candidate, and with a fixed number of epochs, which suits accuracy better than it does the loss.
    """
    sites = make_factories(shift, number, seed)
    job = open_job(mlp(VALUES, (64,), CLASSES, seed), Loss.CROSS_ENTROPY)
    served = federate(job, sites, Recipe(PLAN, versions), seed)
    found: Accuracies = {}
    choices = []
    for site in sites:
        outcome = personalised(job, served, site, PLAN, TABLE)
        choices.append(outcome.chosen.kind)
        ways = {"personalised": outcome.chosen}
        ways |= {str(each.kind): each for each in outcome.candidates}
        ways |= _long_alone(job, site)
        for way, candidate in ways.items():
            found.setdefault(way, []).append(_accuracy(job, candidate, site))
    return found, choices


def _long_alone(job: Job, site: Site) -> dict[str, Candidate]:
    own = standard_of_rows(site.train[0])
    ways = {}
    for standard in (None, own):
        kind = Kind("local", "shared" if standard is None else "local")
        start = Candidate(kind, job.initial, standard)
        ways[f"{kind}, {ALONE_EPOCHS} epochs"] = train_alone(job, start, site, PLAN, ALONE_EPOCHS)
    return ways


def _accuracy(job: Job, candidate: Candidate, site: Site) -> float:
    x, y = site.test
    return float(np.mean(outputs(job, candidate, x).argmax(axis=1) == y))
