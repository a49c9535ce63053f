"""Energy of a real steel plant by month: how well is it predicted alone, together, pooled?"""

from pathlib import Path

import numpy as np

from agent.bundle.examples import Site
from benchmarks.recommend.consortium import Job, alone, job, pooled, site_of, together
from shopfloor.steel import read_months
from wire.tensors import Params


def errors(path: Path, passes: int, seed: int) -> dict[str, float]:
    """Root mean squared errors on every month's held-out days, over their deviation.

    Args:
      path: the published file.
      passes: over the rows, and rounds of averaging.
      seed: of split, order and weights.

    Returns:
      By arm; alone: mean over the months' models, each on its own month and on all of them.
    """
    built = job("steel_energy")
    months = read_months(path)
    sites = [site_of(built, f"month {at + 1}", each, seed) for at, each in enumerate(months)]
    federated = together(built, sites, passes, 1, seed)[0]
    everything = alone(built, pooled(sites), passes, seed)
    local = [alone(built, site, passes, seed) for site in sites]
    return {
        "alone, at home": float(
            np.mean(
                [_error(built, params, [site]) for params, site in zip(local, sites, strict=True)]
            )
        ),
        "alone, anywhere": float(np.mean([_error(built, params, sites) for params in local])),
        "federated": _error(built, federated, sites),
        "pooled": _error(built, everything, sites),
    }


def _error(built: Job, params: Params, sites: list[Site]) -> float:
    """Over the deviation of all the labels that it is judged by."""
    rows = pooled(sites).held_out
    output = built.model.backend.infer(params, rows.x)
    return float(np.sqrt(np.mean((output - rows.y) ** 2)) / rows.y.std())
