"""Training without a federation, and judging models on held-out rows.

`python -m shopfloor.baselines RUN` trains, with the product's own runtime and the same model, each
site on its own rows and one model on all rows pooled, on what had arrived at some moments of the
run; it writes `baselines.json`.  It runs beside the demo at the lowest priority.

The recipe is the one that did best for pooled training of this model in a search over epochs,
rates and averaging (benchmarks/README.md), so that federated training is not compared with a
straw man.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.learning.train import TrainingPlan, train
from agent.model import Model, prepare
from shopfloor.milling import Table, read_ai4i
from shopfloor.plant import HELD_OUT, NAMES
from shopfloor.quality import average_precision, roc_auc
from shopfloor.record import BaselinePoint, ModelQuality, SiteQuality
from wire.bundle import read_bundle
from wire.keys import CHARTER, ROOT_KEY
from wire.signing import read_private_key
from wire.tensors import Params
from wire.trust import read_charter

RESULT = "baselines.json"
SCORES = "scores.npz"
RECIPE = TrainingPlan(
    epochs=100,
    batch_size=32,
    optimizer="adam",
    learning_rate=3e-3,
    last_learning_rate=0.9e-3,
    average_tail=0.25,
)


def judge(model: Model, params: Params, held_out: dict[str, Table]) -> ModelQuality:
    """Judge weights on every site's held-out rows, and on all of them together."""
    scores = {site: model.score(params, table.inputs()) for site, table in held_out.items()}
    labels = {site: table.machine_failure for site, table in held_out.items()}
    all_labels = np.concatenate(list(labels.values()))
    all_scores = np.concatenate(list(scores.values()))
    per_site = {site: _site_quality(labels[site], scores[site]) for site in held_out}
    return ModelQuality(
        average_precision(all_labels, all_scores), roc_auc(all_labels, all_scores), per_site
    )


def _site_quality(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> SiteQuality:
    if labels.all() or not labels.any():
        return SiteQuality(None, None)
    return SiteQuality(average_precision(labels, scores), roc_auc(labels, scores))


def train_alone(model: Model, start: Params, tables: Sequence[Table], seed: int) -> Params:
    """Train on the rows of one or more sites, all in one place."""
    values = np.concatenate([table.inputs() for table in tables])
    labels = np.concatenate([table.machine_failure for table in tables])
    y = labels.astype(np.float32).reshape(-1, 1)
    plan = replace(RECIPE, seed=seed)
    return train(model.backend, start, model.inputs(values), y, plan).params


@dataclass(frozen=True)
class Baseline:
    """Weights learned without a federation from the rows that had arrived by `t_s`."""

    t_s: float
    pooled: Params
    local: dict[str, Params]


def baseline_at(
    model: Model, start: Params, arrived: dict[str, Table], t_s: float, seed: int
) -> Baseline:
    """Train own-data-only and pooled models on the rows that had arrived."""
    local = {site: train_alone(model, start, [table], seed) for site, table in arrived.items()}
    return Baseline(t_s, train_alone(model, start, list(arrived.values()), seed), local)


def judged(model: Model, baseline: Baseline, held_out: dict[str, Table]) -> BaselinePoint:
    """The baseline's quality on rows that nobody trained on."""
    local = {site: judge(model, params, held_out) for site, params in baseline.local.items()}
    return BaselinePoint(baseline.t_s, judge(model, baseline.pooled, held_out), local)


def write_scores(
    path: Path, model: Model, weights: dict[str, Params], held_out: dict[str, Table]
) -> None:
    """Write every model's scores of the held-out rows: `label`, `site`, and one array a model."""
    inputs = np.concatenate([table.inputs() for table in held_out.values()])
    arrays: dict[str, NDArray[np.generic]] = {
        "label": np.concatenate([table.machine_failure for table in held_out.values()]),
        "site": np.concatenate([np.full(len(each), site) for site, each in held_out.items()]),
    }
    for name, params in weights.items():
        arrays[name] = model.score(params, inputs)
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_model(run: Path) -> tuple[Model, Params]:
    """The run's model and its initial weights, verified as an agent would."""
    root = read_private_key(run / "keys" / ROOT_KEY).public
    trust = read_charter((run / "keys" / CHARTER).read_bytes(), root)
    bundle = read_bundle((run / "bundle.jm").read_bytes(), trust)
    return prepare(bundle), bundle.weights


def read_held_out(run: Path) -> dict[str, Table]:
    """The rows that no agent saw, by site."""
    return {site: read_ai4i(run / HELD_OUT / f"{site}.csv") for site in site_names(run)}


def site_names(run: Path) -> list[str]:
    """Names of the run's sites, in order."""
    return msgspec.json.decode((run / NAMES).read_bytes(), type=list[str])


def main() -> int:
    """Train the baselines of a run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m shopfloor.baselines", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's directory")
    parser.add_argument("--seed", type=int, default=0, help="order of rows in training")
    parser.add_argument("--stream-s", type=float, required=True, help="seconds of production")
    parser.add_argument("--moments", required=True, help="seconds at which to train, by comma")
    options = parser.parse_args()
    os.nice(19)
    model, start = load_model(options.run)
    held_out = read_held_out(options.run)
    sites = {site: read_ai4i(options.run / "sites" / f"{site}.csv") for site in held_out}
    points = []
    for moment in (float(text) for text in options.moments.split(",")):
        share = min(1.0, moment / options.stream_s)
        arrived = {
            site: table.take(np.arange(int(share * len(table)))) for site, table in sites.items()
        }
        baseline = baseline_at(model, start, arrived, moment, options.seed)
        points.append(judged(model, baseline, held_out))
    weights = {f"local_{site}": params for site, params in baseline.local.items()}
    write_scores(options.run / SCORES, model, {"pooled": baseline.pooled, **weights}, held_out)
    temporary = options.run / f".{RESULT}.new"
    temporary.write_bytes(msgspec.json.encode(points))
    temporary.rename(options.run / RESULT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
