"""C-MAPSS: remaining life of turbofan engines, at ten sites, and at two with other failures.

NASA's FD001 (one failure mode) and FD003 (two).  Model, windows and labels are those of
`benchmarks/cmapss.py`; inputs are standardised over all sites' training engines, as federated
statistics do.  Of each site's engines a few choose; the test engines judge.
"""

import gzip
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from agent.learning.losses import Loss
from agent.learning.personalise import Candidate, Kind, PersonalTable
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.train import train
from benchmarks.central import DATA
from benchmarks.cmapss import CYCLES, LONGEST, SENSORS, model
from benchmarks.cmapss import PLAN as CENTRAL
from benchmarks.personal.learning import (
    Job,
    Recipe,
    Site,
    federate,
    open_job,
    outputs,
    personalised,
)

FOLDER = DATA / "cmapss"
FILES = ("FD001", "FD003")
TEN_PLAN = TrainingPlan(epochs=1, batch_size=64, optimizer="adam", learning_rate=2e-3)
PAIR_PLAN = TrainingPlan(epochs=1, batch_size=128, optimizer="adam", learning_rate=1e-3)
TEN_CHOOSE, PAIR_CHOOSE = 1, 20
"""Engines of a site, of ten and of a hundred, that choose and are not trained on."""
TEN = PersonalTable(models=("global", "local"), local_normalisation=False)
PAIR = PersonalTable(local_epochs=20, local_patience=5)
_COLUMNS = [4 + sensor for sensor in SENSORS]


@dataclass(frozen=True)
class Engines:
    """One file's engines, and the standard that inputs are brought to.

    Attributes:
      training: rows of unit, cycle, 3 settings, 21 sensors, until each unit failed.
      test: the same, each unit cut short.
      life: cycles that each test unit had left, at most `LONGEST`.
    """

    training: NDArray[np.float64]
    test: NDArray[np.float64]
    life: NDArray[np.float64]

    @property
    def units(self) -> NDArray[np.float64]:
        """Numbers of the training units."""
        return np.unique(self.training[:, 0])


Standard = tuple[NDArray[np.float64], NDArray[np.float64]]


def read(name: str) -> Engines:
    """Read one of the data sets."""
    training, test, life = (
        _table(FOLDER / f"{kind}_{name}.txt.gz") for kind in ("train", "test", "RUL")
    )
    return Engines(training, test, np.minimum(life.reshape(-1), LONGEST))


def ten_sites(
    engines: Engines, versions: int, choosing: int, seed: int
) -> tuple[float, list[float], list[float]]:
    """RMSE of the federation of ten sites, and of what `choosing` of them have alone and serve."""
    standard = _standard_of(engines.training)
    order = np.random.default_rng(seed).permutation(engines.units)
    test = _last_windows(engines, standard)
    sites = [
        _site(f"site {at}", engines, units, TEN_CHOOSE, standard, test)
        for at, units in enumerate(np.array_split(order, 10))
    ]
    job = open_job(model(seed), Loss.MSE)
    served = federate(job, sites, Recipe(TEN_PLAN, versions), seed)
    together = Candidate(Kind(), served)
    alone, chosen = [], []
    for site in sites[:choosing]:
        outcome = personalised(job, served, site, TEN_PLAN, TEN)
        own = next(each for each in outcome.candidates if each.kind.model == "local")
        alone.append(_rmse(job, own, site))
        chosen.append(_rmse(job, outcome.chosen, site))
    return _rmse(job, together, sites[0]), alone, chosen


@dataclass(frozen=True)
class Pair:
    """RMSE of one of two sites, in cycles: trained alone, on all rows in one place, together."""

    site: str
    own: float
    pooled: float
    served: float
    personalised: float
    reason: str

    @property
    def behind(self) -> float:
        """How far what it serves is behind the better of its own and the pooled model."""
        return self.personalised - min(self.own, self.pooled)


def two_sites(both: dict[str, Engines], versions: int, units: int, seed: int) -> list[Pair]:
    """Let FD001 and FD003 learn together and choose.

    Own and pooled model are trained centrally by `benchmarks/cmapss.py`'s recipe on the same rows
    that the federation trains on.
    """
    standard = _standard_of(np.concatenate([engines.training for engines in both.values()]))
    random = np.random.default_rng(seed)
    sites = [
        _site(
            name,
            engines,
            random.permutation(engines.units)[:units],
            units * PAIR_CHOOSE // 100,
            standard,
            _last_windows(engines, standard),
        )
        for name, engines in both.items()
    ]
    job = open_job(model(seed), Loss.MSE)
    served = federate(job, sites, Recipe(PAIR_PLAN, versions), seed)
    rows = [site.train for site in sites]
    pooled = _central(
        job, (np.concatenate([x for x, _ in rows]), np.concatenate([y for _, y in rows])), seed
    )
    found = []
    for site in sites:
        outcome = personalised(job, served, site, PAIR_PLAN, PAIR)
        found.append(
            Pair(
                site=site.name,
                own=_rmse(job, _central(job, site.train, seed), site),
                pooled=_rmse(job, pooled, site),
                served=_rmse(job, Candidate(Kind(), served), site),
                personalised=_rmse(job, outcome.chosen, site),
                reason=outcome.reason,
            )
        )
    return found


def _central(job: Job, rows: Labelled, seed: int) -> Candidate:
    plan = replace(CENTRAL, seed=seed)
    return Candidate(Kind("local"), train(job.backend, job.initial, *rows, plan).params)


def _site(
    name: str,
    engines: Engines,
    units: NDArray[np.float64],
    chooses: int,
    standard: Standard,
    test: Labelled,
) -> Site:
    train, choose = units[chooses:], units[:chooses]
    return Site(name, _windows(engines, train, standard), _windows(engines, choose, standard), test)


def _windows(engines: Engines, units: NDArray[np.float64], standard: Standard) -> Labelled:
    mean, deviation = standard
    windows, labels = [], []
    for unit in units:
        rows = engines.training[engines.training[:, 0] == unit][:, _COLUMNS]
        windows.append(sliding_window_view((rows - mean) / deviation, CYCLES, axis=0))
        labels.append(len(rows) - np.arange(CYCLES, len(rows) + 1))
    y = np.minimum(np.concatenate(labels), LONGEST) / LONGEST
    return np.concatenate(windows).astype(np.float32), y.astype(np.float32).reshape(-1, 1)


def _last_windows(engines: Engines, standard: Standard) -> Labelled:
    mean, deviation = standard
    units = [engines.test[engines.test[:, 0] == unit] for unit in np.unique(engines.test[:, 0])]
    last = [((rows[-CYCLES:, _COLUMNS] - mean) / deviation).T for rows in units]
    return np.stack(last).astype(np.float32), engines.life


def _standard_of(training: NDArray[np.float64]) -> Standard:
    values = training[:, _COLUMNS]
    return values.mean(axis=0), values.std(axis=0)


def _rmse(job: Job, candidate: Candidate, site: Site) -> float:
    x, life = site.test
    # The label's range is declared, so a prediction outside it is moved to its end.
    cycles = np.clip(outputs(job, candidate, x).reshape(-1).astype(np.float64), 0, 1) * LONGEST
    return float(np.sqrt(np.mean((cycles - life) ** 2)))


def _table(path: Path) -> NDArray[np.float64]:
    with gzip.open(path) as file:
        return np.loadtxt(file)
