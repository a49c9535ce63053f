"""FedAsync: each update is a version of its own, mixed in by its staleness.

Xie, Koyejo and Gupta, "Asynchronous Federated Optimization", arXiv:1903.03934, algorithm 1 and
section 5.2:  x <- (1 - a) x + a x_client, with a = mixing x s(staleness).  The client's model is
its base version plus its delta, so the bases within the staleness cap are kept (on disk, one is
read at a time); an older one counts as the newest, which leaves the delta and drops the pull
towards a model that nobody has any more.  s is `constant` 1, `polynomial`
(1 + staleness)**-exponent, or `hinge`: 1 up to `bend`, then 1 / (slope (staleness - bend) + 1).

The server optimizer gets a x (x_client - x) as its pseudo-gradient; SGD at learning rate 1 is the
paper's rule.  One update is one site's: the charter's k_min must be 1.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Buffer
from coordinator.strategies.strategy import Offer, Rejected, Step, Strategy, Vector
from wire.messages import Policy
from wire.settings import Settings


class FedAsyncSettings(Settings, frozen=True, kw_only=True):
    """The `[strategy.fedasync]` table; defaults are those of the paper's experiments.

    Attributes:
      mixing: share of a fresh update's model in the new one.
      staleness: how that falls: `constant`, `polynomial` ((1 + staleness)**-exponent) or `hinge`.
      exponent: of `polynomial`.
      slope: of `hinge`, beyond `bend`.
      bend: staleness up to which `hinge` is 1.
    """

    mixing: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.6
    staleness: Literal["constant", "polynomial", "hinge"] = "polynomial"
    exponent: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.5
    slope: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 10.0
    bend: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 4


def staleness_function(settings: FedAsyncSettings) -> Callable[[int], float]:
    """s(staleness), 1 for a fresh update."""

    def polynomial(staleness: int) -> float:
        return float((1 + staleness) ** -settings.exponent)

    def hinge(staleness: int) -> float:
        return 1.0 / (settings.slope * max(staleness - settings.bend, 0) + 1.0)

    return {"constant": lambda _: 1.0, "polynomial": polynomial, "hinge": hinge}[settings.staleness]


def fedasync(settings: FedAsyncSettings, policy: Policy) -> Strategy:
    """Asynchronous, a version for each update."""
    s = staleness_function(settings)

    def admit(offer: Offer, _buffer: Buffer, _current: int) -> int | Rejected:
        return offer.weight

    def blend(step: Step) -> tuple[Vector, NDArray[np.float64]]:
        staleness = step.version - min(member.base_version for member in step.members)
        behind = np.zeros_like(step.mean)
        if step.base is not None:
            behind = step.base.astype(np.float64) - step.params
        return settings.mixing * s(staleness) * (step.mean + behind), step.memory

    return Strategy(
        admit,
        lambda buffer, _age_s: len(buffer.members) >= 1,
        blend,
        kept_bases=policy.staleness_cap,
    )
