"""A trial of a bundle on recorded rows: what each site would learn alone, and all together.

Responsible for the same training that a gateway does (`agent.learning.train`), in this process and
by the bundle's own recipe.  Pure but for the clock that times it.  Federated averaging (McMahan et
al., arXiv:1602.05629, algorithm 1) stands for the consortium: the product's own strategies are the
coordinator's, clip and round, and are benchmarked elsewhere.

Invariant: held-out examples are never trained on, nor is early stopping decided by them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from agent.bundle.examples import Examples, Site, make_site
from agent.bundle.quality import Quality, judge, trivial_output
from agent.learning.params import flatten, unflatten
from agent.learning.plan import TrainingPlan
from agent.learning.train import Training, train
from agent.model import Model
from wire.manifest import Manifest, Recipe
from wire.tensors import Params

Progress = Callable[[Training], None]


@dataclass(frozen=True)
class Learned:
    """What one site learned alone.

    Attributes:
      params: its weights.
      epochs: passes made.
      samples: rows trained on, counted again in every epoch.
      seconds: time it took.
    """

    params: Params
    epochs: int
    samples: int
    seconds: float


def plan_of(manifest: Manifest, examples: Examples, seed: int, epochs: int | None) -> TrainingPlan:
    """The bundle's recipe as a training plan for these examples.

    Raises:
      ValueError: a number of the recipe has no meaning; names it.
    """
    recipe = manifest.recipe
    return TrainingPlan(
        epochs=epochs or recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        last_learning_rate=recipe.last_learning_rate,
        class_weights=_class_weights(manifest, recipe, examples),
        patience=recipe.patience,
        proximal=recipe.proximal,
        average_tail=recipe.average_tail,
        seed=seed,
        symmetry=manifest.symmetry,
    )


def _class_weights(manifest: Manifest, recipe: Recipe, examples: Examples) -> tuple[float, ...]:
    """Balanced: N / (classes * N_class), and 1 for a class without examples here."""
    if recipe.class_weights != "balanced":
        return recipe.class_weights
    classes = (len(manifest.label.classes) if manifest.label is not None else 0) or 2
    counts = np.bincount(examples.y.reshape(-1).astype(np.int64), minlength=classes)
    weights = len(examples) / (classes * np.maximum(counts, 1))
    return tuple(float(weight) for weight in np.where(counts > 0, weights, 1.0))


def learn_alone(
    model: Model,
    start: Params,
    site: Site,
    *,
    seed: int,
    epochs: int | None,
    on_step: Progress,
) -> Learned:
    """Train at one site by the bundle's recipe.

    Early stopping (`patience`) needs rows to decide by: they are held out of the training rows by
    the bundle's own rule, so that the site's held-out rows stay unseen.

    Raises:
      TableError: too few training rows to hold some out for `patience`.
      TrainingDiverged: the loss is no longer finite.
      ValueError: a number of the recipe has no meaning.
    """
    rows, judges = site.train, None
    if model.manifest.recipe.patience:
        inner = make_site(model.manifest, f"{site.name}: training rows", rows, seed + 1)
        rows, judges = inner.train, (inner.held_out.x, inner.held_out.y)
    plan = plan_of(model.manifest, rows, seed, epochs)
    begin = time.perf_counter()
    result = train(model.backend, start, rows.x, rows.y, plan, held_out=judges, on_step=on_step)
    seconds = time.perf_counter() - begin
    return Learned(result.params, result.epochs, result.examples, seconds)


def learn_together(
    model: Model,
    start: Params,
    sites: list[Site],
    *,
    seed: int,
    epochs: int | None,
    rounds: int,
) -> Params:
    """Average the sites' models over some rounds, weighted by their training rows.

    Each site makes epochs / rounds passes in a round (at least 1), so that all in all it computes
    as much as alone.

    Raises:
      TrainingDiverged: the loss is no longer finite at a site.
      ValueError: a number of the recipe has no meaning.
    """
    total = sum(len(site.train) for site in sites)
    params = start
    for number in range(rounds):
        mean = np.zeros(flatten(start).shape, np.float64)
        for site in sites:
            plan = plan_of(model.manifest, site.train, seed + number, epochs)
            plan = replace(plan, epochs=max(1, plan.epochs // rounds), patience=0)
            local = train(model.backend, params, site.train.x, site.train.y, plan)
            mean += flatten(local.params) * (len(site.train) / total)
        params = unflatten(mean.astype(np.float32), start)
    return params


def judged(model: Model, params: Params, examples: Examples) -> Quality:
    """Judge weights on examples."""
    return judge(model.manifest, model.backend.infer(params, examples.x), examples)


def trivial(model: Model, site: Site) -> Quality:
    """Judge the predictor that looks at no input, on a site's held-out examples."""
    output = trivial_output(model.manifest, site.train, site.held_out)
    return judge(model.manifest, output, site.held_out)
