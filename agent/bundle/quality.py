"""How good a model's output is on held-out examples, in words a data scientist knows.

Pure.  A trivial predictor is judged by the same functions as the model, so that "better than
nothing" is a comparison of like with like.  A score that has no meaning on these examples, such as
PR-AUC without a positive one, is None and never a number.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.bundle.examples import Examples
from agent.learning.losses import Loss, example_losses
from agent.model import probabilities
from wire.evaluation import pr_auc, roc_auc
from wire.manifest import REGRESSION, Manifest

Score = float | None


@dataclass(frozen=True)
class Quality:
    """Scores by name; the first is the one to compare models by.

    Attributes:
      scores: for all held-out examples.
      recalls: share of each class's examples that is found; empty but for `cross_entropy`.
    """

    scores: dict[str, Score]
    recalls: dict[str, Score]

    @property
    def headline(self) -> tuple[str, Score]:
        """Name and value of the first score."""
        return next(iter(self.scores.items()))


def judge(manifest: Manifest, output: NDArray[np.float32], examples: Examples) -> Quality:
    """Judge a model's output.

    Args:
      manifest: of the bundle: loss, label and threshold.
      output: of the model for `examples`, float32 (N, ...).
      examples: with the answers.
    """
    if manifest.loss == "binary_cross_entropy":
        return Quality(_alarms(probabilities(output), examples.y, manifest.threshold), {})
    if manifest.loss == "cross_entropy" and manifest.label is not None:
        return _classes(output, examples.y, manifest.label.classes)
    if manifest.loss in REGRESSION and manifest.label is not None:
        unit = manifest.label.std
        error = (output.astype(np.float64) - examples.y).reshape(-1) * unit
        rmse, mae = float(np.sqrt(np.mean(error**2))), float(np.abs(error).mean())
        return Quality({"RMSE": rmse, "MAE": mae}, {})
    errors = example_losses(Loss.RECONSTRUCTION, output, examples.x)
    return Quality({"MSE": float(errors.mean())}, {})


def trivial_output(manifest: Manifest, train: Examples, rows: Examples) -> NDArray[np.float32]:
    """What a predictor says that has seen the training labels and looks at no input.

    Returns:
      An output as the model's, float32 (N, ...): the share of each class as a logit, the mean
      label, or for reconstruction the mean input.
    """
    if manifest.loss == "cross_entropy" and manifest.label is not None:
        counts = np.bincount(train.y, minlength=len(manifest.label.classes))
        constant = np.log(np.maximum(counts, 1e-6))
    elif manifest.loss == "binary_cross_entropy":
        share = np.clip(train.y.mean(), 1e-6, 1 - 1e-6)
        constant = np.log(share / (1 - share)).reshape(1)
    elif manifest.loss in REGRESSION:
        constant = train.y.mean(axis=0, dtype=np.float64)
    else:
        constant = train.x.mean(axis=0, dtype=np.float64)
    return np.broadcast_to(constant.astype(np.float32), (len(rows), *constant.shape))


def _alarms(
    probability: NDArray[np.float64], y: NDArray[np.float32], threshold: float
) -> dict[str, Score]:
    truth = y.reshape(-1) >= 0.5
    alarm = probability >= threshold
    hits = int((alarm & truth).sum())
    mistakes = int((alarm != truth).sum())
    # Each distinct score is a bin of its own, so that the sums over bins are exact.
    levels, place = np.unique(probability, return_inverse=True)
    positives, negatives = (
        np.bincount(place.reshape(-1)[side], minlength=len(levels)) for side in (truth, ~truth)
    )
    return {
        "PR-AUC": pr_auc(positives, negatives),
        "ROC-AUC": roc_auc(positives, negatives),
        "F1": 2 * hits / (2 * hits + mistakes) if hits + mistakes else None,
        "accuracy": float((alarm == truth).mean()),
    }


def _classes(output: NDArray[np.float32], y: NDArray[np.int64], names: tuple[str, ...]) -> Quality:
    right = output.argmax(axis=1) == y
    recalls: dict[str, Score] = {
        name: float(right[y == index].mean()) if (y == index).any() else None
        for index, name in enumerate(names)
    }
    known = [value for value in recalls.values() if value is not None]
    return Quality({"accuracy": float(right.mean()), "mean recall": float(np.mean(known))}, recalls)
