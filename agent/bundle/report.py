"""The words of `journeyman bundle test`: what each file holds, and what was learned from it.

Pure: results in, lines out.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agent.bundle.examples import Site
from agent.bundle.quality import Quality, Score
from agent.bundle.trial import Learned
from wire.manifest import REGRESSION, Manifest

_INDENT = "  "
_WHO = 36
_CELL = 13


def site_lines(manifest: Manifest, rows: int, site: Site) -> Iterator[str]:
    """Describe a file and its two sides."""
    examples = len(site.train) + len(site.held_out) + site.purged
    what = "rows" if manifest.window is None else f"rows, {examples} windows"
    purged = f", {site.purged} on the border left out" if site.purged else ""
    yield (
        f"{site.name}: {rows} {what}: {len(site.train)} to train on, {len(site.held_out)} held "
        f"out by {manifest.split.by}{purged}"
    )
    if manifest.label is None or manifest.loss in REGRESSION:
        return
    names = manifest.label.classes or ("0", "1")
    for side, part in (("train", site.train), ("held out", site.held_out)):
        counts = np.bincount(part.y.reshape(-1).astype(np.int64), minlength=len(names))
        shown = ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True))
        yield f"{_INDENT}{side:9} {shown}"


def learned_line(learned: Learned) -> str:
    """Say how long a training took."""
    speed = learned.samples / learned.seconds if learned.seconds else 0.0
    return (
        f"{_INDENT}trained {learned.epochs} epochs in {learned.seconds:.1f} s, "
        f"{speed:,.0f} samples/s"
    )


def quality_lines(manifest: Manifest, qualities: Mapping[str, Quality]) -> Iterator[str]:
    """Compare models on one file's held-out rows, one line for each."""
    unit = ""
    if manifest.label is not None and manifest.loss in REGRESSION:
        unit = f", in units of {manifest.label.channel}"
    names = list(next(iter(qualities.values())).scores)
    yield f"{_INDENT}{'on held-out rows' + unit:{_WHO}}" + "".join(
        f"{name:>{_CELL}}" for name in names
    )
    for who, quality in qualities.items():
        cells = "".join(f"{shown(score):>{_CELL}}" for score in quality.scores.values())
        yield f"{_INDENT}{who:{_WHO}}{cells}"
    last = list(qualities.values())[-1]
    if last.recalls:
        recalls = ", ".join(f"{name} {shown(score)}" for name, score in last.recalls.items())
        yield f"{_INDENT}recall after: {recalls}"


def crossing_lines(sites: Sequence[str], judged: Mapping[str, Sequence[Quality]]) -> Iterator[str]:
    """Compare models across files: one line for each model, one column for each file."""
    metric, _ = next(iter(judged.values()))[0].headline
    width = max(12, *(len(name) + 2 for name in sites))
    yield f"{metric} of each model (line) on each file's held-out rows (column)"
    yield f"{_INDENT}{'':{_WHO}}" + "".join(f"{name:>{width}}" for name in [*sites, "mean"])
    for who, qualities in judged.items():
        scores = [quality.headline[1] for quality in qualities]
        known = [score for score in scores if score is not None]
        mean = sum(known) / len(known) if known else None
        cells = "".join(f"{shown(score):>{width}}" for score in [*scores, mean])
        yield f"{_INDENT}{who:{_WHO}}{cells}"


def shown(score: Score) -> str:
    """A score in four significant digits; a dash when it has no meaning here."""
    return "-" if score is None else f"{score:.4g}"
