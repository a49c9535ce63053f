"""A supply-chain job on histories of sites, split at one day, ready for the product's training."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.authoring import BundleSettings, build_draft, read_bundle_settings
from agent.declared import family_graph
from agent.learning.losses import Loss
from agent.learning.personalise import Candidate, Kind
from agent.learning.plan import TrainingPlan
from agent.signals.windows import example_inputs
from benchmarks.central import ROOT
from benchmarks.personal.learning import Job, Recipe, Site, federate, open_job
from shopfloor.order_history import History
from shopfloor.orders import LABEL, SCHEDULED, Columns
from wire.bundle import read_draft
from wire.evaluation import pr_auc, roc_auc
from wire.manifest import Manifest

Floats = NDArray[np.float64]
JOBS = ROOT / "configs" / "jobs"
TEST_SHARE, CALIBRATION_SHARE = 0.25, 0.15


class Task:
    """One job of the project, and the sites' orders as its model takes them."""

    def __init__(self, name: str, histories: Sequence[History]) -> None:
        path = JOBS / f"{name}.toml"
        self.settings: BundleSettings = read_bundle_settings(path)
        self.manifest: Manifest = read_draft(build_draft(path, self.settings))[0].manifest
        everything = np.concatenate([each.columns[SCHEDULED] for each in histories])
        test, calibration = np.quantile(
            everything, [1 - TEST_SHARE, (1 - TEST_SHARE) * (1 - CALIBRATION_SHARE)]
        )
        self.parts = [
            tuple(_between(each.columns, low, high) for low, high in _spans(calibration, test))
            for each in histories
        ]
        """Of each site: orders to train on, to calibrate by, to judge by."""
        self.names = [each.site for each in histories]

    def job(self, seed: int) -> Job:
        """The model with weights of this seed."""
        family = self.settings.family
        if family is None:
            raise ValueError("the description names no family")
        graph = family_graph(msgspec.structs.replace(family, seed=seed), self.manifest)
        return open_job(graph, Loss(self.manifest.loss))

    def inputs(self, columns: Columns) -> NDArray[np.float32]:
        """Orders as the model takes them, float32 (N, F)."""
        rows = np.arange(len(columns[SCHEDULED]), dtype=np.int64)
        return example_inputs(self.manifest, columns, rows)

    def sites(self, *, calibrated: bool) -> list[Site]:
        """The sites; uncalibrated ones train on the calibration orders too."""
        made = []
        for name, (train, calibration, test) in zip(self.names, self.parts, strict=True):
            learned = train if calibrated else _joined(train, calibration)
            sides = [(self.inputs(each), _label(each)) for each in (learned, calibration, test)]
            made.append(Site(name, *sides))
        return made

    def plan(self, seed: int) -> TrainingPlan:
        """The description's recipe."""
        recipe = self.settings.recipe
        return TrainingPlan(
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            optimizer=recipe.optimizer,
            learning_rate=recipe.learning_rate,
            last_learning_rate=recipe.last_learning_rate,
            average_tail=recipe.average_tail,
            seed=seed,
        )

    def federated(self, job: Job, sites: Sequence[Site], versions: int, seed: int) -> Candidate:
        """Learn together, one pass over each site's orders a version."""
        plan = replace(self.plan(seed), epochs=1, last_learning_rate=0.0, average_tail=0.0)
        return Candidate(Kind(), federate(job, sites, Recipe(plan, versions), seed))


def areas(scores: Floats, answers: NDArray[np.bool_]) -> tuple[float, float]:
    """ROC-AUC and PR-AUC; every distinct score is a bin of its own."""
    levels, place = np.unique(scores, return_inverse=True)
    positives, negatives = (
        np.bincount(place[answers == side], minlength=len(levels)) for side in (True, False)
    )
    roc, precision = roc_auc(positives, negatives), pr_auc(positives, negatives)
    if roc is None or precision is None:
        raise ValueError("orders of one kind alone can not be judged")
    return roc, precision


def pooled(sites: Sequence[Site]) -> Site:
    """All orders in one place, which nobody may do."""

    def side(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows = [getattr(site, name) for site in sites]
        return np.concatenate([x for x, _ in rows]), np.concatenate([y for _, y in rows])

    return Site("pooled", side("train"), side("choose"), side("test"))


def _spans(calibration: float, test: float) -> tuple[tuple[float, float], ...]:
    return (-np.inf, calibration), (calibration, test), (test, np.inf)


def _between(columns: Columns, low: float, high: float) -> Columns:
    chosen = (columns[SCHEDULED] > low) & (columns[SCHEDULED] <= high)
    return {name: column[chosen] for name, column in columns.items()}


def _joined(one: Columns, other: Columns) -> Columns:
    return {name: np.concatenate([column, other[name]]) for name, column in one.items()}


def _label(columns: Columns) -> NDArray[np.float32]:
    return columns[LABEL].astype(np.float32).reshape(-1, 1)
