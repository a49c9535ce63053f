"""Judging: how every model that a head names does on this site's own held-out rows.

Counts and sums leave the site, never a row or a score.  A report is sent once for each head and
connection; it is idempotent, so it needs no outbox: a lost one is sent again with the next
connection or replaced by the next head's.

A model that gives no numbers is judged all the same: its rows count as wrong as can be, so that the
coordinator hears of it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.adopted import Adopted
from agent.learning.losses import Loss, example_losses
from agent.model import probabilities
from agent.signals.labels import in_unit
from agent.signals.rows import Rows
from wire.evaluation import (
    evaluate,
    evaluate_classes,
    evaluate_numbers,
    evaluate_reconstruction,
)
from wire.manifest import REGRESSION, Manifest
from wire.messages import Evaluation, Report


def judge(adopted: Adopted, held_out: Rows) -> Report | None:
    """Evaluate train, candidate and served weights on the same rows.

    Args:
      adopted: the head in use.
      held_out: rows of this agent's channels, never trained on.

    Returns:
      The report, or None without held-out rows that have a label, and before it is known what the
      inputs are standardised by.
    """
    if adopted.unready:
        return None
    examples = adopted.examples(held_out)
    if not len(examples):
        return None
    manifest, head = adopted.model.manifest, adopted.head
    weights = {
        head.train.content.digest: adopted.train,
        head.serve.content.digest: adopted.serve,
    }
    if head.candidate is not None and adopted.candidate is not None:
        weights[head.candidate.content.digest] = adopted.candidate
    answers = examples.inputs if manifest.loss == "reconstruction" else examples.labels
    evaluations = tuple(
        evaluation_of(
            manifest,
            digest,
            adopted.outputs(params, examples.inputs),
            answers,
            adopted.threshold,
        )
        for digest, params in weights.items()
    )
    return Report(head=head.sequence, evaluations=evaluations)


def evaluation_of(
    manifest: Manifest,
    digest: bytes,
    outputs: NDArray[np.float32],
    answers: NDArray[Any],
    threshold: float,
) -> Evaluation:
    """Count what a model gave for held-out rows against what would have been right.

    Args:
      manifest: of the bundle: loss and label.
      digest: SHA-256 of the weights.
      outputs: of the graph, float32 (N, ...): logits, or numbers in standardised units.
      answers: as training takes them: float32 (N, 1) of 0 and 1; int64 (N,) numbers of classes;
        float32 (N, 1) in standardised units; for reconstruction the inputs themselves.
      threshold: in use, from which on a score of two classes is an alarm.
    """
    if manifest.loss == "binary_cross_entropy":
        scores = np.where(np.isfinite(outputs).reshape(-1), probabilities(outputs), np.nan)
        return evaluate(digest, answers.reshape(-1) >= 0.5, scores, threshold)
    # What has no loss has no number either, and is counted as such.
    with np.errstate(over="ignore", invalid="ignore"):
        losses = example_losses(Loss(manifest.loss), outputs, answers)
    if manifest.loss == "cross_entropy":
        return evaluate_classes(digest, answers, outputs, losses)
    label = manifest.label
    if manifest.loss not in REGRESSION or label is None:
        return evaluate_reconstruction(digest, losses, counts_errors=manifest.counts_errors)
    return evaluate_numbers(digest, in_unit(label, answers), in_unit(label, outputs), losses)
