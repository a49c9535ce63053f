"""From rows of a file to what a model learns from: inputs, labels, and what is held out.

Pure.  Invariant: an example's inputs come from rows of one group alone, and no row takes part both
in an example to train on and in one to judge by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.bundle.tables import Table, TableError
from agent.learning.split import split_by_group, split_by_time
from agent.signals.features import Moments, measure, standardise
from agent.signals.windows import example_inputs, window_starts
from wire.manifest import REGRESSION, Label, Manifest


@dataclass(frozen=True)
class Examples:
    """Examples in the order of their rows.

    Attributes:
      x: inputs of the graph, float32 (N, ...).
      y: labels as the loss needs them (`agent.learning.losses.Loss`).
      groups: names of the groups, (N,).
      first, last: time of an example's first and last row, float64 (N,).
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    groups: NDArray[np.str_]
    first: NDArray[np.float64]
    last: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)

    def where(self, chosen: NDArray[np.bool_]) -> Examples:
        """The examples for which `chosen`, bool (N,), is true."""
        return Examples(
            self.x[chosen],
            self.y[chosen],
            self.groups[chosen],
            self.first[chosen],
            self.last[chosen],
        )


def make_examples(manifest: Manifest, table: Table) -> Examples:
    """Cut windows, compute features and read labels.

    Raises:
      TableError: no group is as long as a window, or a label is none of the bundle's.
    """
    window = manifest.window
    length = 1 if window is None else window.length
    starts = np.arange(len(table), dtype=np.int64)
    if window is not None:
        starts = window_starts(table.groups, window)
    if not len(starts):
        raise TableError(f"{table.source}: no group of rows is as long as a window, {length} rows")
    ends = starts + length - 1
    return Examples(
        x=example_inputs(manifest, table.channels, starts),
        y=_labels(manifest, table, ends),
        groups=np.array(table.group_names)[table.groups[ends]],
        first=table.times[starts],
        last=table.times[ends],
    )


def _labels(manifest: Manifest, table: Table, rows: NDArray[np.int64]) -> NDArray[Any]:
    label = manifest.label
    if label is None or table.labels is None:
        return np.zeros((len(rows), 1), np.float32)  # reconstruction looks at no labels
    values = table.labels[rows]
    if manifest.loss in REGRESSION:
        clipped = np.clip(values, label.lowest, label.highest) if _is_clipped(label) else values
        return ((clipped - label.mean) / label.std).astype(np.float32).reshape(-1, 1)
    classes = len(label.classes) or 2
    wrong = values[(values != np.floor(values)) | (values < 0) | (values >= classes)]
    if wrong.size:
        raise TableError(
            f"{table.source}: column {label.channel!r} holds {wrong[0]:g}, expected the number of "
            f"a class, 0 to {classes - 1}"
        )
    if manifest.loss == "cross_entropy":
        return values.astype(np.int64)
    return values.astype(np.float32).reshape(-1, 1)


def _is_clipped(label: Label) -> bool:
    return label.lowest is not None or label.highest is not None


@dataclass(frozen=True)
class Site:
    """One file's examples, as one site of a federation would have them.

    Attributes:
      name: of the file.
      train: what it may train on.
      held_out: what its models are judged by.
      purged: examples on neither side, because they reach across the border in time.
    """

    name: str
    train: Examples
    held_out: Examples
    purged: int


def make_site(manifest: Manifest, name: str, examples: Examples, seed: int) -> Site:
    """Hold examples out by the bundle's rule.

    Raises:
      TableError: too few groups or too short a time for two sides.
    """
    train, held_out = _sides(manifest, name, examples, seed)
    purged = len(examples) - int(train.sum()) - int(held_out.sum())
    return Site(name, examples.where(train), examples.where(held_out), purged)


def _sides(
    manifest: Manifest, name: str, examples: Examples, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    share = manifest.split.share
    try:
        if manifest.split.by == "group":
            held_out = split_by_group(examples.groups, share, seed)
            return ~held_out, held_out
        split = split_by_time(examples.first, examples.last, share, seed=seed)
    except ValueError as error:
        raise TableError(
            f"{name}: can not hold out {share:.0%} by {manifest.split.by}: {error}"
        ) from None
    return split.train, split.held_out


def standardised(manifest: Manifest, sites: list[Site]) -> list[Site]:
    """Scale every site's inputs as the bundle's `standardise` says, by training rows only."""
    if manifest.standardise == "given":
        return sites
    moments = [measure(manifest.features, site.train.x) for site in sites]
    if manifest.standardise == "federated":
        together = sum(moments[1:], start=moments[0])
        moments = [together] * len(sites)
    return [_scaled(manifest, *pair) for pair in zip(sites, moments, strict=True)]


def _scaled(manifest: Manifest, site: Site, moments: Moments) -> Site:
    sides = [
        Examples(
            standardise(manifest.features, side.x, moments),
            side.y,
            side.groups,
            side.first,
            side.last,
        )
        for side in (site.train, site.held_out)
    ]
    return Site(site.name, sides[0], sides[1], site.purged)
