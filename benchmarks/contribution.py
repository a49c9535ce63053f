"""Sites with wrong labels told from the others by what their updates did, without looking at any.

Forty simulated sites, uneven in size, speed and mix of classes (Dirichlet .5); twelve of them have
60 to 100 % of their labels replaced by wrong ones, in the training rows and in the held-out rows
alike, as it is in a plant.  They train a small network asynchronously; updates of eight bits go
through the coordinator's own fold into versions of ten.  After each version a random half of the
sites reports its loss, and `coordinator/contribution.py` gives each site a value.  Two settings:
some 100 rows a site, and 60 rows of classes that overlap more.

The last line is JSON; `value` is the AUC by which the values tell noisy from clean sites after 300
versions in the first setting, mean over the seeds.  Beside it: data size alone, the mean
improvement of the versions that a site was in, and what both are worth when all
reporters judge instead of the half with the lower loss.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy reads it
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import heapq
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregation import Model, Rules, advance, begin, is_ready, take
from coordinator.contribution import (
    Accounting,
    ContributionSettings,
    Observation,
    SiteContribution,
    estimate,
    from_bytes,
    improvement,
    membership,
)
from coordinator.robust import RobustSettings
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from coordinator.strategies.choice import StrategySettings, make_strategy
from coordinator.strategies.strategy import Offer, Rejected
from wire.messages import Policy
from wire.tensors import round_to_steps

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Losses = dict[str, tuple[float, int]]

TARGET = 0.9
FEATURES, HIDDEN, CLASSES = 20, 24, 6
PARAMETERS = FEATURES * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
POLICY = Policy(scale=4e-3, clip_norm=10.0, weight_cap=1000)
LEARNING_RATE, EPOCHS, BATCH = 0.05, 2, 16
SETTINGS = ContributionSettings(least_versions=3)
"""Values early on too; what they are worth then is what the table shows."""
CLUSTERS = 3
"""Clouds of points that make a class: a linear model could not tell them apart."""


@dataclass(frozen=True)
class Plant:
    """What is simulated.

    Attributes:
      sites, noisy: how many, and how many of them with wrong labels.
      rows: median training rows of a site; a third as many are held out.
      mix: concentration of the Dirichlet distribution of a site's classes; small is uneven.
      overlap: deviation of a cloud of points; clouds are 3 from the origin.
      goal: updates that make a version.
      versions: how many are made.
    """

    sites: int = 40
    noisy: int = 12
    rows: int = 100
    mix: float = 0.5
    overlap: float = 0.8
    goal: int = 10
    versions: int = 300


@dataclass(frozen=True)
class Site:
    """Rows of one site: features (N, F) and labels (N,), to train with and held out."""

    name: str
    x: Array
    y: Labels
    held_x: Array
    held_y: Labels
    slowness: float
    is_noisy: bool


@dataclass(frozen=True)
class Run:
    """A simulated plant and what became of it."""

    sites: list[Site]
    history: list["Version"]


@dataclass(frozen=True)
class Version:
    """One version: shares of its buffer, and the reporters' losses before and after it."""

    shares: Mapping[str, float]
    before: Losses
    after: Losses


def main() -> int:
    """Run; 0 when the target holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contribution", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="simulated plants, with seeds from 0")
    parser.add_argument("--reduced", action="store_true", help="one seed, 150 versions: no verdict")
    options = parser.parse_args()
    versions = 150 if options.reduced else 300
    seeds = range(1 if options.reduced else options.seeds)
    value, beside = _setting("100 rows a site", Plant(versions=versions), seeds)
    hard = Plant(versions=versions, rows=60, overlap=1.0)
    value_hard, _ = _setting("60 rows a site, classes overlap", hard, seeds)
    if options.reduced:
        print("\nreduced: figures are only printed")
    result = {
        "name": "contribution",
        "value": round(value, 4),
        "unit": "AUC of noisy against clean sites",
        "target": TARGET,
        "holds": value >= TARGET,
        "harder_setting": round(value_hard, 4),
        "beside": {name: round(auc, 4) for name, auc in beside.items()},
    }
    print(json.dumps(result))
    return 0 if result["holds"] or options.reduced else 1


def _setting(title: str, plant: Plant, seeds: range) -> tuple[float, dict[str, float]]:
    """Simulate, print a table, return the last value and those of the other ways."""
    runs = [simulate(plant, seed) for seed in seeds]
    points = [number for number in (60, 100, 150, 200, 300) if number <= plant.versions]
    print(f"\n{title}; AUC after versions".ljust(52), *(f"{number:6d}" for number in points))
    last: dict[str, float] = {}
    for way, scores in WAYS.items():
        row = [float(np.mean([auc(run, scores(run, number)) for run in runs])) for number in points]
        print(way.ljust(51), *(f"{value:6.3f}" for value in row), flush=True)
        last[way] = row[-1]
    _check_that_reading_back_changes_nothing(runs[0])
    noisy, clean = np.mean([_flagged(run) for run in runs], axis=0)
    print(f"below zero by two errors: {noisy:.0%} of the noisy sites, {clean:.1%} of the clean")
    return last.pop(OURS), last


def simulate(plant: Plant, seed: int) -> Run:
    """Train asynchronously; links are as slow as the sites, and half of the sites are busy."""
    rng = np.random.default_rng(seed)
    sites = _sites(plant, rng)
    rules = _rules(plant)
    model = begin(rules, _initial(rng))
    arrivals: list[tuple[float, int, int, NDArray[np.float32]]] = []
    idle = set(range(plant.sites))
    history: list[Version] = []
    now = 0.0
    while len(history) < plant.versions:
        while len(idle) > plant.sites // 2:
            at = int(rng.choice(sorted(idle)))
            idle.remove(at)
            done = now + sites[at].slowness * float(rng.lognormal(0.0, 0.25))
            heapq.heappush(arrivals, (done, at, model.version, model.params))
        now, at, base_version, base = heapq.heappop(arrivals)
        idle.add(at)
        model = _delivered(rules, model, sites[at], base_version, base, rng)
        if is_ready(rules, model, 0.0):
            shares = membership(model.buffer.members)
            newer = advance(rules, model, POLICY.scale)
            asked = [sites[index] for index in rng.permutation(plant.sites)[: plant.sites // 2]]
            history.append(
                Version(shares, _losses(model.params, asked), _losses(newer.params, asked))
            )
            model = newer
    return Run(sites, history)


def auc(run: Run, scores: Mapping[str, float]) -> float:
    """Probability that a clean site scores above a noisy one, ties half; 0 without a score."""
    given = np.array([scores.get(site.name, 0.0) for site in run.sites])
    is_noisy = np.array([site.is_noisy for site in run.sites])
    clean, noisy = given[~is_noisy, None], given[None, is_noisy]
    return float(np.mean((clean > noisy) + 0.5 * (clean == noisy)))


def contributions(
    history: list[Version], judges: float = SETTINGS.judges
) -> list[SiteContribution]:
    """What the product says after these versions."""
    return estimate(_observations(history, judges), SETTINGS)


def _observations(history: list[Version], judges: float) -> list[Observation]:
    measured = [improvement(version.before, version.after, judges) for version in history]
    return [
        Observation(number, version.shares, *drop_and_rows)
        for number, (version, drop_and_rows) in enumerate(
            zip(history, measured, strict=True), start=1
        )
        if drop_and_rows is not None
    ]


def _check_that_reading_back_changes_nothing(run: Run) -> None:
    """A coordinator writes its sums after each version, and goes on from them when restarted."""
    sums = Accounting(SETTINGS)
    for observation in _observations(run.history, SETTINGS.judges):
        sums = from_bytes(sums.add(observation).to_bytes(), SETTINGS)
    if sums.estimate() != contributions(run.history):
        raise SystemExit("sums that were written and read after each version estimate otherwise")


def _regression(judges: float) -> Callable[[Run, int], dict[str, float]]:
    def scores(run: Run, number: int) -> dict[str, float]:
        given = contributions(run.history[:number], judges)
        return {each.site: each.value for each in given if each.value is not None}

    return scores


def _mean_improvement(judges: float) -> Callable[[Run, int], dict[str, float]]:
    """Of the versions that a site was in."""

    def scores(run: Run, number: int) -> dict[str, float]:
        seen: dict[str, list[float]] = {}
        for version in run.history[:number]:
            measured = improvement(version.before, version.after, judges)
            for site in version.shares if measured else ():
                seen.setdefault(site, []).append(measured[0] if measured else 0.0)
        return {site: float(np.mean(drops)) for site, drops in seen.items()}

    return scores


def _data_size(run: Run, _number: int) -> dict[str, float]:
    return {site.name: float(len(site.y)) for site in run.sites}


OURS = "contribution"
WAYS: dict[str, Callable[[Run, int], dict[str, float]]] = {
    OURS: _regression(0.5),
    "contribution, all judge": _regression(1.0),
    "mean improvement": _mean_improvement(0.5),
    "mean improvement, all judge": _mean_improvement(1.0),
    "data size": _data_size,
}


def _flagged(run: Run) -> tuple[float, float]:
    """Shares of the noisy and of the clean sites whose value is below zero beyond doubt."""
    noisy = {site.name for site in run.sites if site.is_noisy}
    doubtless = {
        each.site
        for each in contributions(run.history)
        if each.value is not None and each.error is not None and each.value + 2 * each.error < 0
    }
    clean = len(run.sites) - len(noisy)
    return len(doubtless & noisy) / len(noisy), len(doubtless - noisy) / clean


def _sites(plant: Plant, rng: np.random.Generator) -> list[Site]:
    clouds = rng.normal(size=(CLASSES * CLUSTERS, FEATURES))
    clouds *= 3.0 / np.linalg.norm(clouds, axis=1, keepdims=True)
    noisy = set(rng.permutation(plant.sites)[: plant.noisy].tolist())
    sites = []
    for at in range(plant.sites):
        trained = int(np.clip(rng.lognormal(np.log(plant.rows), 0.5), 20, 5 * plant.rows))
        rows = trained + max(trained // 3, 10)
        y = rng.choice(CLASSES, rows, p=rng.dirichlet([plant.mix] * CLASSES))
        cloud = clouds[y * CLUSTERS + rng.integers(0, CLUSTERS, rows)]
        x = cloud + rng.normal(0.0, plant.overlap, (rows, FEATURES))
        wrong = rng.random(rows) < (rng.uniform(0.6, 1.0) if at in noisy else 0.0)
        y = np.where(wrong, (y + rng.integers(1, CLASSES, rows)) % CLASSES, y)
        slowness = float(rng.lognormal(0.0, 1.0))
        sites.append(
            Site(
                name=f"site-{at:02d}",
                x=x[:trained],
                y=y[:trained],
                held_x=x[trained:],
                held_y=y[trained:],
                slowness=slowness,
                is_noisy=at in noisy,
            )
        )
    return sites


def _rules(plant: Plant) -> Rules:
    return Rules(
        strategy=make_strategy(StrategySettings(goal=plant.goal), POLICY),
        robust=RobustSettings(),
        optimizer=make_server_optimizer(ServerOptimizerSettings(learning_rate=0.5)),
        clip_norm=POLICY.clip_norm,
    )


def _delivered(
    rules: Rules,
    model: Model,
    site: Site,
    base_version: int,
    base: NDArray[np.float32],
    rng: np.random.Generator,
) -> Model:
    """The model with the site's update in its buffer, by the product's own lines."""
    delta, _ = round_to_steps(_trained(base, site, rng) - base, POLICY.scale, POLICY.bits, rng)
    offer = Offer(site.name, site.name, len(site.y), base_version)
    taken = take(rules, model, offer, delta, POLICY.scale)
    if isinstance(taken, Rejected):
        raise SystemExit(f"the coordinator refused an update: {taken.reason}")
    return taken


def _initial(rng: np.random.Generator) -> NDArray[np.float32]:
    params = np.zeros(PARAMETERS)
    first, _, second, _ = _layers(params)
    first[:] = rng.normal(0.0, FEATURES**-0.5, first.shape)
    second[:] = rng.normal(0.0, HIDDEN**-0.5, second.shape)
    return params.astype(np.float32)


def _layers(params: Array) -> tuple[Array, Array, Array, Array]:
    """Views of the weights and biases of both layers."""
    ends = np.cumsum([FEATURES * HIDDEN, HIDDEN, HIDDEN * CLASSES])
    first, bias, second, last = np.split(params, ends)
    return first.reshape(FEATURES, HIDDEN), bias, second.reshape(HIDDEN, CLASSES), last


def _outputs(params: Array, x: Array) -> tuple[Array, Array]:
    """Hidden activations (N, H) and probabilities (N, C)."""
    first, bias, second, last = _layers(params)
    hidden = np.maximum(x @ first + bias, 0.0)
    logits = hidden @ second + last
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return hidden, grown / grown.sum(axis=1, keepdims=True)


def _trained(base: NDArray[np.float32], site: Site, rng: np.random.Generator) -> Array:
    """Weights after the site's epochs of plain gradient descent on the cross entropy."""
    params = base.astype(np.float64)
    first, bias, second, last = _layers(params)
    for _ in range(EPOCHS):
        order = rng.permutation(len(site.y))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            x = site.x[rows]
            hidden, error = _outputs(params, x)
            error[np.arange(len(rows)), site.y[rows]] -= 1.0
            error *= LEARNING_RATE / len(rows)
            back = (error @ second.T) * (hidden > 0)
            second -= hidden.T @ error
            last -= error.sum(axis=0)
            first -= x.T @ back
            bias -= back.sum(axis=0)
    return params


def _losses(params: NDArray[np.float32], asked: list[Site]) -> Losses:
    """Mean loss on the held-out rows, and how many there are, by site."""
    wide = params.astype(np.float64)
    found: Losses = {}
    for site in asked:
        _, likely = _outputs(wide, site.held_x)
        rows = len(site.held_y)
        losses = -np.log(np.maximum(likely[np.arange(rows), site.held_y], 1e-12))
        found[site.name] = (float(losses.mean()), rows)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
