"""Odd orders told by an autoencoder, and the threshold that its sites set together.

A federated threshold, as a coordinator finds it (`coordinator/threshold.py`): each site counts the
errors of its own calibration orders, on which nothing was trained, in fixed bins; the sum of the
counts is all that it takes, and gives the error that a hundredth of all sites' orders reaches.
Beside it each site's threshold from its own counts, however few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learning.losses import Loss, example_losses
from agent.learning.personalise import Candidate, Kind
from benchmarks.personal.learning import Job, outputs, train_alone
from benchmarks.supply_chain_task import Floats, Task, areas, pooled
from coordinator.threshold import error_of_share
from shopfloor.order_history import History
from shopfloor.orders import ODD_KINDS, make_odd
from wire.bins import error_bins
from wire.messages import BINS

FALSE_ALARMS = 0.01
ODD_SHARE = 0.1


@dataclass(frozen=True)
class Alarms:
    """Share of orders that reach the threshold: ordinary, those of the worst site, odd."""

    ordinary: float
    worst_site: float
    odd: float


@dataclass(frozen=True)
class Told:
    """What the detectors tell.

    Attributes:
      auc: ROC-AUC of odd orders against ordinary ones, by way of learning; `all` and each kind.
      alarms: by way of learning and of setting the threshold.
      threshold: the federated one, an error.
    """

    auc: dict[str, dict[str, float]]
    alarms: dict[str, Alarms]
    threshold: float


def told(histories: Sequence[History], versions: int, seed: int) -> Told:
    """Learn alone, together and in one place; judge on the last quarter, a tenth made odd."""
    task = Task("order_anomaly", histories)
    job, sites = task.job(seed), task.sites(calibrated=True)
    start, plan = Candidate(Kind("local"), job.initial), task.plan(seed)
    everything = train_alone(job, start, pooled(sites), plan, plan.epochs)
    ways = {
        "alone": [train_alone(job, start, site, plan, plan.epochs) for site in sites],
        "federated": [task.federated(job, sites, versions, seed)] * len(sites),
        "pooled": [everything] * len(sites),
    }
    tests = [make_odd(parts[2], ODD_SHARE, seed) for parts in task.parts]
    kinds = [each for _, each in tests]
    errors = {
        way: [
            _errors(job, model, task.inputs(columns))
            for model, (columns, _) in zip(models, tests, strict=True)
        ]
        for way, models in ways.items()
    }
    counts = {
        way: [
            _counts(_errors(job, model, site.choose[0]))
            for model, site in zip(models, sites, strict=True)
        ]
        for way, models in ways.items()
    }
    summed = _threshold(np.sum(counts["federated"], axis=0))
    alarms = {
        f"{way}, own thresholds": _alarms(
            errors[way], kinds, [_threshold(each) for each in counts[way]]
        )
        for way in ("alone", "federated")
    }
    together = _alarms(errors["federated"], kinds, [summed] * len(sites))
    return Told(
        auc={
            way: _auc(np.concatenate(each), np.concatenate(kinds)) for way, each in errors.items()
        },
        alarms={**alarms, "federated, federated threshold": together},
        threshold=summed,
    )


def _counts(errors: Floats) -> NDArray[np.int64]:
    return np.bincount(error_bins(errors), minlength=BINS)


def _threshold(counts: NDArray[np.int64]) -> float:
    """The error that the share of false alarms reaches; infinite where no bin resolves it."""
    found = error_of_share(counts, FALSE_ALARMS)
    return float("inf") if found is None else found


def _errors(job: Job, model: Candidate, x: NDArray[np.float32]) -> Floats:
    return example_losses(Loss.RECONSTRUCTION, outputs(job, model, x), x)


def _auc(errors: Floats, kinds: NDArray[np.int64]) -> dict[str, float]:
    found = {"all": areas(errors, kinds >= 0)[0]}
    for kind, name in enumerate(ODD_KINDS):
        chosen = (kinds == kind) | (kinds < 0)
        found[name] = areas(errors[chosen], kinds[chosen] >= 0)[0]
    return found


def _alarms(
    errors: Sequence[Floats], kinds: Sequence[NDArray[np.int64]], limits: Sequence[float]
) -> Alarms:
    rings = [each >= limit for each, limit in zip(errors, limits, strict=True)]
    ordinary = [ring[kind < 0] for ring, kind in zip(rings, kinds, strict=True)]
    odd = [ring[kind >= 0] for ring, kind in zip(rings, kinds, strict=True)]
    return Alarms(
        ordinary=float(np.concatenate(ordinary).mean()),
        worst_site=max(float(each.mean()) for each in ordinary if len(each)),
        odd=float(np.concatenate(odd).mean()),
    )
