"""From a model's outputs to scores: number, decision and confidence of each row.  Pure.

Confidence is (K p - 1) / (K - 1) for K classes, the likeliest of which has probability p: 0 when
all are equally likely, 1 when one is certain; for two classes that is |2p - 1|.  It says how
decided the model is, not how often it is right.  Predicted numbers and reconstructions have none:
nothing in them says how sure the model is.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.model import probabilities, scores
from agent.serve.score import NO_RANGE, PROBABILITY, Origin, Score
from wire.manifest import REGRESSION, Manifest

NORMAL, ALARM = "normal", "alarm"
_INFINITE: Final = NO_RANGE[1]


def origin_of(
    manifest: Manifest,
    bundle: bytes,
    version: int,
    serving: str,
    threshold: float,
    unit: str = "",
) -> Origin:
    """What is the same for all scores of one version.

    Args:
      manifest: of the bundle.
      bundle: its SHA-256.
      version: of the served weights.
      serving: which model scores, in words.
      threshold: in use, from which on a score is an alarm.
      unit: of the label's channel, from the agent's own configuration; counts for a regression.
    """
    limits = PROBABILITY
    if manifest.loss not in REGRESSION:
        unit = ""
    if manifest.loss == "reconstruction":
        limits = (0.0, _INFINITE)
    elif manifest.loss in REGRESSION and manifest.label is not None:
        label, threshold = manifest.label, np.nan
        limits = (
            -_INFINITE if label.lowest is None else label.lowest,
            _INFINITE if label.highest is None else label.highest,
        )
    return Origin(manifest.name, bundle.hex(), version, serving, unit, threshold, limits)


def decide(
    origin: Origin,
    manifest: Manifest,
    outputs: NDArray[np.float32],
    inputs: NDArray[np.float32],
    source_timestamp_us: Sequence[int] | NDArray[np.int64],
    status: Sequence[int] | NDArray[np.uint32],
) -> list[Score]:
    """Make the scores of N rows.

    Args:
      origin: of the model, see `origin_of`; its threshold decides what is an alarm.
      manifest: of its bundle.
      outputs: the model's, float32 (N, ...): logits, scaled numbers or inputs again.
      inputs: that they are for, float32 (N, ...).
      source_timestamp_us: of each row, (N,).
      status: StatusCode of each row's inputs, (N,): 0 when all were Good, one that is Uncertain
        when some were held or stale.

    Returns:
      N scores, in order.
    """
    values = scores(manifest, outputs, inputs)
    codes, words, confidence, alarms = _decisions(manifest, outputs, values, origin.threshold)
    return [
        Score(
            origin,
            int(source_timestamp_us[at]),
            float(values[at]),
            words[at],
            int(codes[at]),
            bool(alarms[at]),
            float(confidence[at]),
            int(status[at]),
        )
        for at in range(len(values))
    ]


def _decisions(
    manifest: Manifest,
    outputs: NDArray[np.float32],
    values: NDArray[np.float64],
    threshold: float,
) -> tuple[NDArray[np.int64], list[str], NDArray[np.float64], NDArray[np.bool_]]:
    """Codes, words, confidence and alarms of N rows."""
    none = np.full(len(values), np.nan)
    if manifest.loss in REGRESSION:
        words = [f"{value:.6g}" for value in values]
        return np.zeros(len(values), np.int64), words, none, np.zeros(len(values), np.bool_)
    alarms = values >= threshold
    if manifest.loss == "cross_entropy":
        # Invalid where a logit is not finite: the score is NaN there too, and with it all else.
        with np.errstate(invalid="ignore"):
            shares = _shares(outputs)
        codes = shares.argmax(axis=1)
        classes = manifest.label.classes if manifest.label is not None else ()
        words = [classes[code] if code < len(classes) else str(code) for code in codes]
        return codes, words, confidence_of(shares.max(axis=1), shares.shape[1]), alarms
    if manifest.loss == "binary_cross_entropy":
        likelier = np.maximum(probabilities(outputs), 1.0 - probabilities(outputs))
        none = confidence_of(likelier, 2)
    words = [ALARM if is_alarm else NORMAL for is_alarm in alarms]
    return alarms.astype(np.int64), words, none, alarms


def confidence_of(likeliest: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """How decided: 0 to 1, from the probability of the likeliest of so many classes, (N,)."""
    if classes < 2:
        return np.full(likeliest.shape, np.nan)
    return np.clip((classes * likeliest - 1.0) / (classes - 1.0), 0.0, 1.0)


def _shares(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The softmax of logits (N, K): (N, K)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
