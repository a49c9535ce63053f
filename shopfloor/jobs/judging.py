"""How good models are on test rows, in one form for every kind of job.  Pure.

Every model's outputs become one number a row, an *answer*: the logit of a failure, the number of
the most likely class, the value in the label's unit, or the error of the rebuilt row.  So one
function judges all jobs.  Invariant: two models are compared on the same rows, paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.bundle.examples import Examples, make_examples
from agent.bundle.tables import Table
from agent.learning.losses import Loss, example_losses
from agent.model import Model
from agent.signals.features import apply_standard
from agent.signals.labels import in_unit
from shopfloor.jobs.record import Difference
from shopfloor.jobs.task import TIME, Columns, Metric
from shopfloor.quality import average_precision, roc_auc
from wire.manifest import REGRESSION, Label, Manifest
from wire.standards import Standard
from wire.tensors import Params

Floats = NDArray[np.float64]
TRUTH = "odd"
"""Column that says what is odd, for a bundle that has no label."""
_WORST = 1e30
_RESAMPLES = 400
LEAST_POSITIVES = 10
"""Test rows of either class with which a site's own figure is looked at at all."""
_LEAST_ROWS = 30


@dataclass(frozen=True, eq=False)
class Judged:
    """Rows that judge.

    Attributes:
      examples: of the bundle's features, not yet standardised.
      truth: (N,): 1 for a failure; the class; the value in the label's unit; 1 for an odd row.
    """

    examples: Examples
    truth: Floats


def table_of(manifest: Manifest, columns: Columns, group: str, source: str) -> Table:
    """Rows as `journeyman bundle test` has them: group by group, in the order of time."""
    rows = len(columns[TIME])
    groups = columns[group] if group else np.zeros(rows)
    names, numbers = np.unique(groups, return_inverse=True)
    numbers = numbers.reshape(-1).astype(np.int64)
    order = np.lexsort((columns[TIME], numbers))
    label = manifest.label
    return Table(
        source=source,
        channels={each.name: columns[each.name][order] for each in manifest.channels},
        labels=None if label is None else columns[label.channel][order].astype(np.float64),
        groups=numbers[order],
        group_names=tuple(f"{name:g}" for name in names),
        times=columns[TIME][order].astype(np.float64),
    )


def judged_rows(manifest: Manifest, columns: Columns, group: str, source: str) -> Judged:
    """Cut windows out of test rows, with what is true of each."""
    examples = make_examples(manifest, table_of(manifest, columns, group, source))
    label = manifest.label
    if label is None:
        return Judged(examples, columns[TRUTH].astype(np.float64))
    if manifest.loss in REGRESSION:
        return Judged(examples, in_unit(label, examples.y).reshape(-1))
    return Judged(examples, examples.y.reshape(-1).astype(np.float64))


def standardised(
    manifest: Manifest, x: NDArray[np.float32], standard: Standard | None
) -> NDArray[np.float32]:
    """Inputs as the federation's model takes them."""
    return x if standard is None else apply_standard(manifest.features, x, standard)


def answers(model: Model, params: Params, inputs: NDArray[np.float32]) -> Floats:
    """One number a row, see above: (N,)."""
    outputs = model.backend.infer(params, inputs)
    manifest = model.manifest
    if manifest.loss == "cross_entropy":
        return np.asarray(np.argmax(outputs, axis=1), np.float64)
    if manifest.loss == "binary_cross_entropy":
        return outputs.reshape(-1).astype(np.float64)
    if manifest.loss in REGRESSION and manifest.label is not None:
        return _in_range(manifest.label, in_unit(manifest.label, outputs).reshape(-1))
    return np.asarray(example_losses(Loss.RECONSTRUCTION, outputs, inputs), np.float64).reshape(-1)


def _in_range(label: Label, values: Floats) -> Floats:
    if label.lowest is None and label.highest is None:
        return values
    return np.clip(values, label.lowest, label.highest)


def quality(metric: Metric, truth: Floats, answer: Floats) -> float | None:
    """Judge answers; None where the rows can not tell.

    Args:
      metric: by what.
      truth: (N,).
      answer: (N,); one that is not finite counts as the worst there is.
    """
    if not len(truth):
        return None
    answer = np.nan_to_num(answer, nan=_WORST, posinf=_WORST, neginf=-_WORST)
    if metric == "accuracy":
        return float(np.mean(truth == answer))
    if metric == "rmse":
        return float(np.sqrt(np.mean((truth - answer) ** 2)))
    if truth.all() or not truth.any():
        return None
    judge = average_precision if metric == "pr_auc" else roc_auc
    return judge(truth, answer)


def can_tell(metric: Metric, truth: Floats) -> bool:
    """Whether a site has enough test rows for a figure of its own."""
    if metric in ("pr_auc", "roc_auc"):
        positives = int(truth.sum())
        return min(positives, len(truth) - positives) >= LEAST_POSITIVES
    return len(truth) >= _LEAST_ROWS


def difference(
    metric: Metric, truth: Floats, one: Floats, others: Sequence[Floats], seed: int
) -> Difference | None:
    """How much better `one` is than the mean of others on the same rows; None: can not be told.

    The interval is the percentile bootstrap's over rows (Efron and Tibshirani 1993, section 13.3),
    the rows of all models drawn together.

    Args:
      metric: by what.
      truth: (N,).
      one: answers, (N,).
      others: answers of one or more, each (N,); their qualities are averaged.
      seed: of the draws.
    """
    if not can_tell(metric, truth):
        return None
    rng = np.random.default_rng(seed)
    picks = [np.arange(len(truth))]
    picks += [rng.integers(0, len(truth), len(truth)) for _ in range(_RESAMPLES)]
    sign = -1.0 if metric == "rmse" else 1.0
    found = []
    for pick in picks:
        first, *rest = (quality(metric, truth[pick], answer[pick]) for answer in (one, *others))
        other = mean(rest)
        if first is not None and other is not None:
            found.append(sign * (first - other))
    low, high = np.percentile(found[1:], (2.5, 97.5))
    return Difference(found[0], float(low), float(high))


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
