"""AI4I 2020: three sites of milling machines, and how likely each finds a failure (log loss).

Matzka 2020, UCI data set 601.  A site is a product quality, L, M or H, with 60, 30 and 10 % of the
rows; features and their constants are those of the demo's bundle.  Of each split a fifth judges, a
fifth of the rest chooses, and what is left trains: everybody the same rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.declared import Mlp
from agent.learning.families import mlp
from agent.learning.losses import Loss, example_losses
from agent.learning.personalise import GLOBAL, Candidate, Kind, PersonalTable
from agent.learning.plan import TrainingPlan
from benchmarks.central import DATA
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
from shopfloor.baselines import RECIPE
from shopfloor.milling import Table, read_ai4i, split_held_out
from shopfloor.plant import SITES, bundle_settings
from wire.manifest import Level

FILE = DATA / "ai4i2020" / "ai4i2020.csv"
SHARE = 0.2
PLAN = TrainingPlan(epochs=5, batch_size=32, optimizer="adam", learning_rate=0.003, proximal=0.003)
STUDENT_T = 2.093
"""97.5 % of Student's t with 19 degrees of freedom: the lower end of a 95 % interval."""


@dataclass(frozen=True)
class Split:
    """Log loss on untouched rows of one split, by way of having a model and by site.

    Attributes:
      losses: way to the mean loss over all sites' rows, and over each site's: `(4,)`.
      choices: what each site serves.
    """

    losses: dict[str, NDArray[np.float64]]
    choices: tuple[Kind, ...]


def measure(table: Table, versions: int, split: int) -> Split:
    """Learn together and alone, let every site choose, judge on the untouched rows."""
    sites = _sites(table, split)
    family = bundle_settings(split).family
    hidden = family.hidden if isinstance(family, Mlp) else ()
    job = open_job(mlp(5, hidden, 1, split), Loss.BINARY_CROSS_ENTROPY)
    recipe = Recipe(PLAN, versions, clip_norm=3.0, server_rate=0.5)
    served = federate(job, sites, recipe, split)
    rows: dict[str, list[NDArray[np.float64]]] = {}
    choices = []
    for site in sites:
        outcome = personalised(job, served, site, PLAN, PersonalTable())
        choices.append(outcome.chosen.kind)
        ways = {"personalised": outcome.chosen}
        ways |= {str(each.kind): each for each in outcome.candidates}
        alone = Candidate(Kind("local"), job.initial)
        plan = replace(RECIPE, seed=split)
        ways["local, the demo's recipe"] = train_alone(job, alone, site, plan, RECIPE.epochs)
        for way, candidate in ways.items():
            rows.setdefault(way, []).append(_losses(job, candidate, site))
    return Split(
        {way: _means(each) for way, each in rows.items()},
        tuple(choices),
    )


def relative_gains(splits: Sequence[Split], way: str) -> NDArray[np.float64]:
    """By how much less a way loses than the better of global and local, (splits, 1 + sites).

    Of local the better of two trainings counts, and all is compared within each split.
    """
    rivals = [str(GLOBAL), "local", "local, the demo's recipe"]
    best = np.array([np.min([split.losses[rival] for rival in rivals], axis=0) for split in splits])
    return np.asarray(1 - np.array([split.losses[way] for split in splits]) / best)


def lower_bound(gains: NDArray[np.float64]) -> float:
    """Lower end of the 95 % interval of the mean of 20 gains."""
    return float(gains.mean() - STUDENT_T * gains.std(ddof=1) / np.sqrt(len(gains)))


def read() -> Table:
    """The table."""
    return read_ai4i(FILE)


def _sites(table: Table, split: int) -> list[Site]:
    levels = [each for each in bundle_settings(split).feature if isinstance(each, Level)]
    mean = np.array([level.mean for level in levels])
    std = np.array([level.std for level in levels])
    rest, test = split_held_out(table, SHARE, split)
    train, choose = split_held_out(table.take(rest), SHARE, split + 1)

    def rows(index: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        part = table.take(index)
        y = part.machine_failure.astype(np.float32).reshape(-1, 1)
        return ((part.inputs() - mean) / std).astype(np.float32), y

    parts = (rest[train], rest[choose], test)
    return [
        Site(name, *(rows(part[table.quality[part] == name]) for part in parts)) for name in SITES
    ]


def _losses(job: Job, candidate: Candidate, site: Site) -> NDArray[np.float64]:
    x, y = site.test
    return example_losses(job.loss, outputs(job, candidate, x), y)


def _means(of_sites: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.array([np.concatenate(of_sites).mean(), *(each.mean() for each in of_sites)])
