"""Visual inspection: seven board designs as sites, each of which has never seen one defect.

Every site trains alone, all of them together, and all rows in one place; the model, the passes and
the rows are the same.  Together means the product's own parts (`benchmarks/personal/learning.py`):
its training, its clipping and rounding of updates, its aggregation, and the average that is served.
Then each design is left out of a federation of the other six and judged by what they serve.

    python -m benchmarks.inspection                     patches that the shop floor generates
    python -m benchmarks.inspection --data DIR          DeepPCB, `deeppcb_patches.npz` in DIR

Of real images 20 % of each design's, whole images at a time, are the test.  The last line is JSON;
`value` is points of accuracy, mean over sites, that the federation is ahead of the sites alone.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.authoring import build_draft, read_bundle_settings
from agent.learning.graph import read_graph
from agent.learning.plan import TrainingPlan
from agent.learning.rows import Labelled
from agent.learning.split import split_by_group
from agent.learning.train import train
from agent.model import prepare
from benchmarks.personal.learning import Job, Recipe, Site, federate
from shopfloor.boards import DESIGNS, SIZE, generate, shares_without
from wire.bundle import MODEL, read_draft

JOB = Path(__file__).resolve().parents[1] / "configs" / "jobs" / "board.toml"
FILE = "deeppcb_patches.npz"
MOST_BEHIND = 2.0
MOST_LOST = 1.0
LEAST_SHARE = 0.75
"""Of the pooled model's recall of classes that a site never saw: so much comes by the others."""

_CLASSES = ("ok", "open", "short", "mousebite", "spur", "copper", "pin-hole")
Classes = NDArray[np.int64]
Way = Literal["alone", "together", "pooled", "left out"]


@dataclass(frozen=True)
class Source:
    """Where patches come from, and how much is learned from them.

    Attributes:
      file: of DeepPCB's patches; None to generate them.
      rows: to train on at a site: at most, or generated.
      sites: how many designs.
      passes: over the rows.
      batch: rows in a step; few rows need small ones, or there are few steps.
      seed: of everything.
    """

    file: Path | None
    rows: int
    sites: int
    passes: int
    batch: int
    seed: int


@dataclass(frozen=True)
class Part:
    """One training.

    Attributes:
      source: of the rows.
      way: who trains.
      site: who is alone, or left out.
    """

    source: Source
    way: Way
    site: int = 0


def unseen(site: int) -> int:
    """The class that a site has never seen."""
    return 1 + site % 6


def main() -> int:
    """Run; 0 when the targets hold."""
    options = _arguments()
    file = options.data / FILE if options.data is not None else None
    if file is not None and not file.exists():
        raise SystemExit(f"{file} is not here")
    source = Source(file, options.rows, len(DESIGNS), options.passes, options.batch, options.seed)
    if options.reduced:
        source = Source(file, 300, 2, 5, options.batch, options.seed)
    sites = read_sites(source)
    numbers = range(len(sites))
    left_out = numbers if options.left_out is None else range(min(options.left_out, len(sites)))
    parts = [Part(source, "together"), Part(source, "pooled")]
    parts += [Part(source, "alone", site) for site in numbers]
    parts += [Part(source, "left out", site) for site in left_out]
    with ProcessPoolExecutor(options.workers) as executor:
        guesses = dict(zip(parts, executor.map(guessed, parts), strict=True))
    result = _tell_sites(source, sites, guesses) | _tell_unseen(source, sites, guesses)
    result |= _tell_left_out(source, sites, guesses)
    return _conclude(result, source, reduced=options.reduced)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inspection", description=__doc__)
    parser.add_argument("--data", metavar="DIR", type=Path, help=f"a folder with {FILE}")
    parser.add_argument("--rows", type=int, default=400, help="to train on at a site, at most")
    parser.add_argument("--passes", type=int, default=10, help="over the rows")
    parser.add_argument("--batch", type=int, default=16, help="rows in a step")
    parser.add_argument("--left-out", metavar="N", type=int, help="only the first N designs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--reduced", action="store_true", help="two designs, few rows: correctness, no verdict"
    )
    return parser.parse_args()


@lru_cache(maxsize=1)
def read_sites(source: Source) -> tuple[Site, ...]:
    """Every site's rows: those to train on lack one class, those to judge by have all."""
    sites = _generated(source) if source.file is None else _real(source, source.file)
    for number, site in enumerate(sites):
        if unseen(number) in site.train[1] or unseen(number) not in site.test[1]:
            raise RuntimeError(f"{site.name} trains on a class that it never saw, or lacks it")
    return tuple(sites)


def _generated(source: Source) -> list[Site]:
    sites = []
    for number, design in enumerate(DESIGNS[: source.sites]):
        seed = 100 * source.seed + 2 * number
        seen = generate(design, source.rows, seed, shares_without(unseen(number)))
        test = generate(design, 300, seed + 1)
        sites.append(_site(design.name, (seen.patch, seen.defect), (test.patch, test.defect)))
    return sites


def _real(source: Source, file: Path) -> list[Site]:
    with np.load(file) as arrays:
        bits, labels, design, image = (arrays[key] for key in ("bits", "y", "group", "image"))
        names = arrays["group_names"]
    patches = np.unpackbits(bits.reshape(len(bits), -1), axis=1).reshape(-1, 2, SIZE, SIZE)
    y = labels.astype(np.int64)
    sites = []
    for number, one in enumerate(np.unique(design)[: source.sites].tolist()):
        held_out = np.zeros(len(y), np.bool_)
        held_out[design == one] = split_by_group(image[design == one], 0.2, source.seed)
        seen = (design == one) & ~held_out & (y != unseen(number))
        chosen = np.random.default_rng(source.seed).permutation(np.flatnonzero(seen))[: source.rows]
        sites.append(
            _site(
                str(names[one]),
                (patches[chosen], y[chosen]),
                (patches[held_out], y[held_out]),
            )
        )
    return sites


def _site(
    name: str, seen: tuple[NDArray[np.uint8], Classes], test: tuple[NDArray[np.uint8], Classes]
) -> Site:
    """A site whose inputs are scaled as the job's feature does."""
    train_rows = (_inputs(seen[0]), seen[1])
    return Site(name, train_rows, train_rows, (_inputs(test[0]), test[1]))


def _inputs(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    return 2.0 * patches.astype(np.float32) - 1.0


def guessed(part: Part) -> list[Classes]:
    """Train, and name the class of every site's test rows."""
    source, sites = part.source, read_sites(part.source)
    job, plan = _job(source)
    if part.way in ("together", "left out"):
        is_left_out = part.way == "left out"
        members = [s for at, s in enumerate(sites) if not is_left_out or at != part.site]
        # The average of the versions does what a falling rate does for the others.
        one_pass = replace(plan, epochs=1, last_learning_rate=0.0)
        params = federate(job, members, Recipe(one_pass, source.passes), source.seed)
    else:
        rows = _pooled(sites) if part.way == "pooled" else sites[part.site].train
        params = train(job.backend, job.initial, *rows, plan).params
    print(f"trained: {part.way} {sites[part.site].name}", flush=True)
    return [job.backend.infer(params, site.test[0]).argmax(axis=1) for site in sites]


def _job(source: Source) -> tuple[Job, TrainingPlan]:
    """The model and the recipe of the shipped description."""
    bundle = read_draft(build_draft(JOB, read_bundle_settings(JOB)))[0]
    model, recipe = prepare(bundle), bundle.manifest.recipe
    plan = TrainingPlan(
        epochs=source.passes,
        batch_size=source.batch,
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        last_learning_rate=recipe.last_learning_rate,
        seed=source.seed,
    )
    return Job(read_graph(bundle.files[MODEL]), model.loss, model.backend), plan


def _pooled(sites: Sequence[Site]) -> Labelled:
    """All rows in one place, which nobody may do."""
    return (
        np.concatenate([site.train[0] for site in sites]),
        np.concatenate([site.train[1] for site in sites]),
    )


def _points(guess: Classes, truth: Classes) -> float:
    """Accuracy in percent."""
    return 100.0 * float(np.mean(guess == truth))


def _tell_sites(
    source: Source, sites: Sequence[Site], guesses: dict[Part, list[Classes]]
) -> dict[str, Any]:
    def of(way: Way, site: int) -> float:
        part = Part(source, way, site if way == "alone" else 0)
        return _points(guesses[part][site], sites[site].test[1])

    print(f"\naccuracy in percent after {source.passes} passes")
    print(f"{'site':12} {'rows':>5} {'test':>5} {'alone':>7} {'together':>9} {'pooled':>7}")
    ways: tuple[Way, ...] = ("alone", "together", "pooled")
    table = np.array([[of(way, at) for way in ways] for at in range(len(sites))])
    for site, (alone, together, pooled) in zip(sites, table.tolist(), strict=True):
        rows, tested = len(site.train[1]), len(site.test[1])
        print(f"{site.name:12} {rows:5} {tested:5} {alone:7.1f} {together:9.1f} {pooled:7.1f}")
    alone, together, pooled = table.mean(axis=0).tolist()
    print(f"{'mean':24} {alone:7.1f} {together:9.1f} {pooled:7.1f}")
    return {
        "value": round(together - alone, 2),
        "alone": round(alone, 2),
        "together": round(together, 2),
        "pooled": round(pooled, 2),
        "behind_pooled": round(pooled - together, 2),
    }


def _tell_unseen(
    source: Source, sites: Sequence[Site], guesses: dict[Part, list[Classes]]
) -> dict[str, Any]:
    """Recall of the class that each site has never seen, before and after."""
    print("\nthe class that a site has never seen: how many it finds in its test rows")
    found = {"alone": 0, "together": 0, "pooled": 0}
    total = 0
    for at, site in enumerate(sites):
        truth = site.test[1] == unseen(at)
        here = {
            "alone": guesses[Part(source, "alone", at)][at],
            "together": guesses[Part(source, "together")][at],
            "pooled": guesses[Part(source, "pooled")][at],
        }
        right = {way: int(np.sum(truth & (guess == unseen(at)))) for way, guess in here.items()}
        found = {way: found[way] + right[way] for way in found}
        total += int(truth.sum())
        words = "  ".join(f"{way} {number}" for way, number in right.items())
        print(f"{site.name:12} {_CLASSES[unseen(at)]:10} of {int(truth.sum()):3}:  {words}")
    recall = {f"unseen_recall_{way}": round(number / total, 3) for way, number in found.items()}
    print("together:   ", recall)
    return recall


def _tell_left_out(
    source: Source, sites: Sequence[Site], guesses: dict[Part, list[Classes]]
) -> dict[str, Any]:
    """A new design is served what the others learned, without a training of its own."""
    print("\na new design, served without training: accuracy there, there as a member, at members")
    apart, gained = [], []
    for at, site in enumerate(sites):
        guess = guesses.get(Part(source, "left out", at))
        if guess is None:
            continue
        points = [_points(each, other.test[1]) for each, other in zip(guess, sites, strict=True)]
        new = points.pop(at)
        as_member = _points(guesses[Part(source, "together")][at], site.test[1])
        members = float(np.mean(points))
        apart.append(round(new - members, 2))
        gained.append(round(as_member - new, 2))
        print(
            f"{site.name:12} new {new:5.1f}  as a member {as_member:5.1f}  members {members:5.1f}  "
            f"{apart[-1]:+5.1f}"
        )
    if len(apart) < len(sites):
        print(f"{len(sites) - len(apart)} designs were not left out: no verdict on new ones")
        return {"newcomer_points_of_sites": apart, "newcomer_worst": None}
    return {
        "newcomer_points": round(float(np.mean(apart)), 2),
        "newcomer_worst": min(apart),
        "newcomer_points_of_sites": apart,
        "newcomer_gains_by_joining": gained,
    }


def _conclude(result: dict[str, Any], source: Source, *, reduced: bool) -> int:
    is_ahead = result["value"] > 0 and result["behind_pooled"] <= MOST_BEHIND
    least = LEAST_SHARE * result["unseen_recall_pooled"]
    is_taught = result["unseen_recall_together"] >= least > result["unseen_recall_alone"]
    worst = result["newcomer_worst"]
    is_served = worst is not None and worst >= -MOST_LOST
    verdict: dict[str, Any] = {
        "name": "inspection",
        "value": result.pop("value"),
        "unit": "points of accuracy over alone",
        "target": 0.0,
        "holds": is_ahead and is_taught and is_served,
        "data": "generated" if source.file is None else "DeepPCB",
        **result,
        "ahead_holds": is_ahead,
        "unseen_holds": is_taught,
        "newcomer_holds": is_served,
    }
    if reduced:
        print("\nreduced: what sites have seen is asserted; figures are only printed")
    print(json.dumps(verdict))
    return 0 if verdict["holds"] or reduced else 1


if __name__ == "__main__":
    raise SystemExit(main())
