"""Training without a federation: each site alone, and all rows in one place.

`python -m shopfloor.jobs.baselines RUN --job NAME` trains both by the bundle's own recipe, with the
product's runtime, beside the run and at the lowest priority, and writes to `baselines.npz`, for the
model of all rows under the name `pooled` and for each site's under the site's name:

    NAME                        answers for all sites' test rows, sites in order
    NAME.weights                all its parameters in one vector, float32
    NAME.mean, NAME.deviation   what its inputs are standardised by; absent where nothing is
"""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.bundle.examples import Examples, Site, make_examples
from agent.bundle.trial import learn_alone
from agent.learning.params import flatten, unflatten
from agent.learning.train import Training
from agent.model import Model, prepare
from agent.signals.features import Moments, measure
from shopfloor.jobs.choice import NAMES, rows_of, task_named
from shopfloor.jobs.judging import Floats, Judged, answers, judged_rows, standardised, table_of
from shopfloor.jobs.task import Task
from wire.bundle import Bundle, read_draft
from wire.standards import Standard
from wire.tensors import Params

Arrays = dict[str, NDArray[Any]]
RESULT = "baselines.npz"
POOLED = "pooled"


def main() -> int:
    """Train the baselines of a run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m shopfloor.jobs.baselines", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's directory, with bundle.jm")
    parser.add_argument("--job", choices=NAMES, required=True)
    parser.add_argument("--data", type=Path, help="what to read; else it is generated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--newcomer", default="", help="a site that is no member")
    options = parser.parse_args()
    os.nice(19)
    task = task_named(options.job)
    bundle = read_draft((options.run / "bundle.jm").read_bytes())[0]
    found = baselines(task, bundle, options.data, options.seed, options.newcomer)
    temporary = options.run / f".{RESULT}"
    with temporary.open("wb") as file:
        np.savez(file, **found)  # type: ignore[arg-type]
    temporary.rename(options.run / RESULT)
    return 0


def baselines(task: Task, bundle: Bundle, data: Path | None, seed: int, newcomer: str) -> Arrays:
    """The pooled model and each site's own, as the file has them."""
    model, rows = prepare(bundle), rows_of(task, data, seed)
    train = {
        site.name: make_examples(
            model.manifest, table_of(model.manifest, site.train, task.group, site.name)
        )
        for site in rows
    }
    test = [judged_rows(model.manifest, site.test, task.group, site.name) for site in rows]
    members = [train[site.name] for site in rows if site.name != newcomer]
    trained_on = {POOLED: _joined(members)} | train
    found: Arrays = {}
    for name, examples in trained_on.items():
        params, standard = _learned(model, bundle, examples, seed)
        found[name] = _answers(model, params, standard, test)
        found[f"{name}.weights"] = flatten(params)
        if standard is not None:
            found[f"{name}.mean"] = standard.mean
            found[f"{name}.deviation"] = standard.deviation
    return found


def model_in(
    found: Mapping[str, NDArray[Any]], name: str, like: Params
) -> tuple[Params, Standard | None]:
    """A model of the file, and what its inputs are standardised by.

    Args:
      found: the file's arrays.
      name: `pooled` or a site's.
      like: any weights of the bundle's, for names and shapes.
    """
    standard = None
    if f"{name}.mean" in found:
        standard = Standard(found[f"{name}.mean"], found[f"{name}.deviation"])
    return unflatten(found[f"{name}.weights"], like), standard


def _learned(
    model: Model, bundle: Bundle, rows: Examples, seed: int
) -> tuple[Params, Standard | None]:
    """Train on rows, scaled by themselves where the bundle leaves that to rows."""
    standard = _standard(model, rows)
    scaled = replace(rows, x=standardised(model.manifest, rows.x, standard))
    site = Site("", scaled, scaled, 0)
    learned = learn_alone(model, bundle.weights, site, seed=seed, epochs=None, on_step=_ignore)
    return learned.params, standard


def _answers(model: Model, params: Params, standard: Standard | None, test: list[Judged]) -> Floats:
    return np.concatenate(
        [
            answers(model, params, standardised(model.manifest, each.examples.x, standard))
            for each in test
        ]
    )


def _ignore(_training: Training) -> None:
    """Nobody waits for this training's progress."""


def _standard(model: Model, rows: Examples) -> Standard | None:
    manifest = model.manifest
    if manifest.standardise == "given":
        return None
    moments: Moments = measure(manifest.features, rows.x)
    return moments.standard


def _joined(sites: list[Examples]) -> Examples:
    return Examples(
        *(
            np.concatenate([getattr(site, name) for site in sites])
            for name in ("x", "y", "groups", "first", "last")
        )
    )


if __name__ == "__main__":
    sys.exit(main())
