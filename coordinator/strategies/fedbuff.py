"""FedBuff: asynchronous, buffered.

Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", arXiv:2106.06639
(AISTATS 2022), algorithm 1.  Any update enters, whatever its base version; a version comes after
`goal` of them, or after `deadline_s` with fewer.  The paper damps a stale update by
1/sqrt(1 + staleness); here it counts in full within the policy's staleness cap, because damping
shrinks the step and no more (measured in simulation: the same speed after the step is tuned again),
and decays beyond it.
"""

from coordinator.aggregate import Buffer
from coordinator.strategies.strategy import Offer, Rejected, Strategy, stale_weight
from wire.messages import Policy


def fedbuff(goal: int, deadline_s: float, policy: Policy) -> Strategy:
    """Asynchronous, buffered."""

    def admit(offer: Offer, _buffer: Buffer, current: int) -> int | Rejected:
        return stale_weight(offer.weight, current - offer.base_version, policy)

    def is_ready(buffer: Buffer, age_s: float) -> bool:
        return len(buffer.members) >= goal or age_s >= deadline_s

    return Strategy(admit, is_ready)
