"""One run of `journeyman bundle test`: files in, lines said, weights out.

Responsible for the order of things: read every file before training on any, so that a mistake in
the last file costs no time; then each file alone; then all of them across each other and together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.bundle.examples import Site, make_examples, make_site, standardised
from agent.bundle.quality import Quality
from agent.bundle.report import crossing_lines, learned_line, quality_lines, site_lines
from agent.bundle.tables import TableError, read_table
from agent.bundle.trial import Progress, judged, learn_alone, learn_together, trivial
from agent.learning.choice import BackendName
from agent.model import prepare
from wire.bundle import Bundle, nothing
from wire.manifest import Manifest
from wire.tensors import Params

Say = Callable[[str], None]


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a file that are no channels; empty where there are none."""

    group: str = ""
    time: str = ""


@dataclass(frozen=True)
class Trial:
    """What to try out.

    Attributes:
      files: CSV or npz, a site each.
      columns: which group and order their rows.
      epochs: instead of the recipe's; None for the recipe's.
      rounds: of federated averaging, when there are several files.
      seed: of split and order.
      backend: which runtime.
    """

    files: Sequence[Path]
    columns: Columns = Columns()
    epochs: int | None = None
    rounds: int = 5
    seed: int = 0
    backend: BackendName = "auto"


def run_trial(bundle: Bundle, trial: Trial, say: Say, progress: Progress) -> Params:
    """Train a bundle on files and say what comes of it.

    Args:
      bundle: whose parts agree.
      trial: what to do.
      say: takes the lines, as they become known.
      progress: called after every step of a training.

    Returns:
      The weights learned: of the one file, or the average over all of them.

    Raises:
      TableError: a file can not be used.
      WireError: the bundle is refused.
      TrainingDiverged: a loss is no longer finite.
      ValueError: the recipe has a number that has no meaning.
    """
    sites = _read_sites(bundle.manifest, trial, say)
    model = prepare(bundle, trial.backend)
    start = bundle.weights
    judged_by: dict[str, list[Quality]] = {
        "looks at no input": [trivial(model, site) for site in sites],
        "as built": [judged(model, start, site.held_out) for site in sites],
    }
    alone = []
    for index, site in enumerate(sites):
        say("")
        say(f"{site.name}, learning alone")
        learned = learn_alone(
            model, start, site, seed=trial.seed, epochs=trial.epochs, on_step=progress
        )
        say(learned_line(learned))
        here = {who: qualities[index] for who, qualities in judged_by.items()}
        here["after"] = judged(model, learned.params, site.held_out)
        for line in quality_lines(bundle.manifest, here):
            say(line)
        alone.append(learned.params)
    if len(sites) == 1:
        return alone[0]
    say("")
    say(f"all {len(sites)} files, {trial.rounds} rounds of federated averaging")
    together = learn_together(
        model, start, sites, seed=trial.seed, epochs=trial.epochs, rounds=trial.rounds
    )
    for site, params in zip(sites, alone, strict=True):
        judged_by[f"{site.name} alone"] = [judged(model, params, each.held_out) for each in sites]
    judged_by["together"] = [judged(model, together, site.held_out) for site in sites]
    for line in crossing_lines([site.name for site in sites], judged_by):
        say(line)
    return together


def representative_inputs(
    manifest: Manifest, files: Sequence[Path], columns: Columns
) -> NDArray[np.float32]:
    """Inputs of the graph from all rows of files, for calibrating an export; float32 (N, ...).

    Raises:
      TableError: a file can not be used.
    """
    trial = Trial(files, columns)
    sites = _read_sites(manifest, trial, nothing)
    return np.concatenate([side.x for site in sites for side in (site.train, site.held_out)])


def _read_sites(manifest: Manifest, trial: Trial, say: Say) -> list[Site]:
    columns = trial.columns
    if manifest.split.by == "group" and not columns.group:
        raise TableError(
            f'bundle {manifest.name}: its [split] is by = "group": give --group COLUMN'
        )
    sites = []
    for path, name in zip(trial.files, _names(trial.files), strict=True):
        table = read_table(path, manifest, columns.group, columns.time)
        site = make_site(manifest, name, make_examples(manifest, table), trial.seed)
        for line in site_lines(manifest, len(table), site):
            say(line)
        sites.append(site)
    return standardised(manifest, sites)


def _names(files: Sequence[Path]) -> list[str]:
    """What to call each file: its name, or its path where names repeat."""
    names = [path.name for path in files]
    return names if len(set(names)) == len(names) else [str(path) for path in files]
