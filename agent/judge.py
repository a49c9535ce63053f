"""Judging: how every model that a head names does on this site's own held-out rows.

Counts per score bin leave the site, never a row or a score.  A report is sent once for each head
and connection; it is idempotent, so it needs no outbox: a lost one is sent again with the next
connection or replaced by the next head's.
"""

import numpy as np
from numpy.typing import NDArray

from agent.adoption import Adopted
from wire.evaluation import evaluate
from wire.messages import Report


def judge(adopted: Adopted, held_out: NDArray[np.float64]) -> Report | None:
    """Evaluate train, candidate and served weights on the same rows.

    Args:
      adopted: the head in use.
      held_out: rows of this agent's channels, float64 (N, C), never trained on.

    Returns:
      The report, or None without held-out rows.
    """
    if not len(held_out):
        return None
    labels = adopted.examples(held_out).labels
    head = adopted.head
    weights = {
        head.train.content.digest: adopted.train,
        head.serve.content.digest: adopted.serve,
    }
    if head.candidate is not None and adopted.candidate is not None:
        weights[head.candidate.content.digest] = adopted.candidate
    evaluations = tuple(
        evaluate(digest, labels, adopted.score(params, held_out))
        for digest, params in weights.items()
    )
    return Report(head=head.sequence, evaluations=evaluations)
