"""Rows of a site whose data have moved: a sensor that is off, a camera that sees noise.  Pure."""

import numpy as np

from shopfloor.jobs.task import TIME, Columns, Task
from wire.manifest import Manifest

_DEVIATIONS = 2.0
_NOISE = 0.2
"""Of .15 a robust model made 7 points, which 230 held-out rows do not tell from chance."""


def moved_channel(task: Task, manifest: Manifest) -> str:
    """The channel that moves."""
    return task.moving or manifest.channels[0].name


def moved(task: Task, manifest: Manifest, columns: Columns) -> Columns:
    """The same rows with one channel moved by two standard deviations.

    Of an image some of the pixels are turned over.
    """
    name = moved_channel(task, manifest)
    values = columns[name]
    if values.ndim > 1:
        turned = np.random.default_rng(0).random(values.shape) < _NOISE
        changed = np.where(turned, values.max() - values, values).astype(values.dtype)
    else:
        changed = values + _DEVIATIONS * float(np.std(values))
    return columns | {name: changed}


def moved_rows(task: Task, manifest: Manifest, columns: Columns) -> Columns:
    """What the site's machines say next: its rows once more, moved and later."""
    span = float(columns[TIME][-1] - columns[TIME][0]) + 60.0
    later = moved(task, manifest, columns) | {TIME: columns[TIME] + span}
    if task.group:
        last = float(columns[task.group].max()) + 1.0
        later |= {task.group: columns[task.group] + last}
    return later


def in_words(task: Task, manifest: Manifest) -> str:
    """What was done to the data."""
    name = moved_channel(task, manifest)
    shape = next(each.shape for each in manifest.channels if each.name == name)
    if shape:
        return f"{_NOISE:.0%} of the pixels of {name} were turned over"
    return f"{name} was moved by {_DEVIATIONS:g} standard deviations"
