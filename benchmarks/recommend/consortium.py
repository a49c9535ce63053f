"""Sites that learn one surrogate: together, each alone, and all rows in one place.

The same training loop, model, split and number of passes for all three.  Together means federated
averaging (McMahan et al., arXiv:1602.05629, algorithm 1) with one pass in a round, and the
coordinator's own server optimizer with momentum; the product clips, rounds and need not wait
besides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.authoring import build_draft, read_bundle_settings
from agent.bundle.examples import Examples, Site, make_examples, make_site
from agent.bundle.tables import Table
from agent.bundle.trial import learn_alone, learn_together
from agent.learning.params import flatten, unflatten
from agent.learning.train import nothing
from agent.model import Model, prepare
from agent.signals.features import Moments, apply_standard, measure
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from wire.bundle import Bundle, read_draft
from wire.standards import Standard
from wire.tensors import Params

Values = NDArray[np.float64]
SERVER = ServerOptimizerSettings(name="momentum", momentum=0.8)
JOBS = Path(__file__).resolve().parents[2] / "configs" / "jobs"


@dataclass(frozen=True)
class Job:
    """A bundle of the project's own, ready to run."""

    bundle: Bundle
    model: Model


def job(name: str) -> Job:
    """Build `configs/jobs/NAME.toml`."""
    path = JOBS / f"{name}.toml"
    bundle = read_draft(build_draft(path, read_bundle_settings(path)))[0]
    return Job(bundle, prepare(bundle))


def site_of(job: Job, name: str, columns: Mapping[str, Values], seed: int) -> Site:
    """A site from its columns; inputs as the features' constants scale them."""
    manifest = job.bundle.manifest
    label = manifest.label.channel if manifest.label is not None else ""
    rows = len(columns[label])
    table = Table(
        source=name,
        channels={each.name: columns[each.name] for each in manifest.channels},
        labels=columns[label],
        groups=np.zeros(rows, np.int64),
        group_names=("",),
        times=np.arange(rows, dtype=np.float64),
    )
    return make_site(manifest, name, make_examples(manifest, table), seed)


def moments_of(job: Job, site: Site) -> Moments:
    """What a site would report of its training rows."""
    return measure(job.bundle.manifest.features, site.train.x)


def scaled(job: Job, site: Site, standard: Standard | None) -> Site:
    """The site with inputs standardized."""
    if standard is None:
        return site
    features = job.bundle.manifest.features

    def side(rows: Examples) -> Examples:
        x = apply_standard(features, rows.x, standard)
        return Examples(x, rows.y, rows.groups, rows.first, rows.last)

    return Site(site.name, side(site.train), side(site.held_out), site.purged)


def together(job: Job, sites: Sequence[Site], rounds: int, kept: int, seed: int) -> list[Params]:
    """The last `kept` versions, the newest first."""
    params, versions = job.bundle.weights, []
    optimizer = make_server_optimizer(SERVER)
    state = optimizer.init(flatten(params).size)
    for number in range(rounds):
        model = _with_step_of(job, number, rounds)
        trained = learn_together(
            model, params, list(sites), seed=1000 * seed + number, epochs=1, rounds=1
        )
        delta = flatten(trained).astype(np.float64) - flatten(params)
        state, vector = optimizer.apply(delta, state, flatten(params))
        params = unflatten(vector, params)
        versions.append(params)
    return versions[: -kept - 1 : -1]


def _with_step_of(job: Job, number: int, rounds: int) -> Model:
    """The model with the recipe's step size of a round: it falls as it does over passes."""
    recipe = job.bundle.manifest.recipe
    last = recipe.last_learning_rate or recipe.learning_rate
    rate = recipe.learning_rate + (last - recipe.learning_rate) * number / max(1, rounds - 1)
    now = msgspec.structs.replace(recipe, learning_rate=rate, last_learning_rate=0.0)
    return replace(job.model, manifest=msgspec.structs.replace(job.model.manifest, recipe=now))


def alone(job: Job, site: Site, passes: int, seed: int) -> Params:
    """What a site learns from its own rows."""
    start = job.bundle.weights
    return learn_alone(job.model, start, site, seed=seed, epochs=passes, on_step=nothing).params


def pooled(sites: Sequence[Site]) -> Site:
    """All rows in one place, which nobody may do."""

    def side(parts: list[Examples]) -> Examples:
        return Examples(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("x", "y", "groups", "first", "last")
            )
        )

    train = side([site.train for site in sites])
    return Site("pooled", train, side([site.held_out for site in sites]), 0)
