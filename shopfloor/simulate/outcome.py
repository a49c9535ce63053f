"""What a simulated run came to: numbers, a curve, and a digest that names the run."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

_SMOOTHED = 3


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One evaluation.

    Attributes:
      at_s: simulated seconds.
      uplinks: updates that had come by then, refused ones too.
      version: that was judged.
      accuracy: of its weights, on rows that no agent has.
    """

    at_s: float
    uplinks: int
    version: int
    accuracy: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
      ended: why: `time`, `target`, `uplinks` or `diverged`.
      reached: first evaluation that, with the two before, is at the target in the mean; or None.
      final_accuracy: mean of the last ten evaluations.
      served_accuracy: at the end, of the average of the versions, which is what is served.
      made: updates that agents made; each is folded, refused, buffered, dropped or on its way.
      uplinks: updates that came to the coordinator; each is folded, refused or buffered.
      dropped: updates that agents gave up unsent because their round was over.
      refused: how many of the uplinks, by the first word of the reason.
      downlinks: models that agents fetched to train from.
      uplink_bytes, downlink_bytes: contents without envelopes; a model has 4 bytes a parameter.
      saturated: integers that did not fit their width.
      staleness_mean, staleness_p95: versions between base and fold.
      slow_share: share of the folded updates that the slowest quarter of the agents made.
      took_part: agents of which an update was folded.
      restarts: trainings that had to begin again.
      digest: SHA-256 of every content, outcome and version in order; the same seed gives the same.
    """

    seed: int
    ended: str
    hours: float
    versions: int
    reached: Point | None
    final_accuracy: float
    served_accuracy: float
    made: int
    uplinks: int
    folded: int
    buffered: int
    dropped: int
    in_flight: int
    refused: dict[str, int]
    downlinks: int
    uplink_bytes: int
    downlink_bytes: int
    saturated: int
    staleness_mean: float
    staleness_p95: float
    slow_share: float
    took_part: int
    restarts: int
    digest: str
    curve: tuple[Point, ...]

    @property
    def is_accounted(self) -> bool:
        """Whether every update is somewhere, and only there."""
        came = self.folded + sum(self.refused.values()) + self.buffered
        return self.uplinks == came and self.made == came + self.dropped + self.in_flight


def smoothed(curve: Sequence[Point], evaluations: int = _SMOOTHED) -> float:
    """Mean accuracy of the newest evaluations; 0 while there are fewer."""
    if len(curve) < evaluations:
        return 0.0
    return sum(point.accuracy for point in curve[-evaluations:]) / evaluations


def slow_share(by_agent: NDArray[np.int64], compute_s: NDArray[np.float64]) -> float:
    """Share of updates of the slowest quarter; 0.25 where speed does not matter."""
    slow = np.argsort(compute_s)[-max(len(compute_s) // 4, 1) :]
    total = int(by_agent.sum())
    return float(by_agent[slow].sum() / total) if total else 0.0
