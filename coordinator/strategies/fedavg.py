"""FedAvg: synchronous rounds.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
arXiv:1602.05629 (AISTATS 2017), algorithm 1, with over-selection and a reporting deadline as in
Bonawitz et al., "Towards Federated Learning at Scale: System Design", arXiv:1902.01046 (MLSys
2019), section 2.2.

A round takes one update of each agent, trained from the current version, and ends with `clients`
of them, or at its deadline with at least one.  With `admission = "granted"` a round is offered to
clients x (1 + over_selection) agents (`coordinator/admissions.py`).  A late update is refused.
"""

from coordinator.aggregate import Buffer
from coordinator.strategies.strategy import Offer, Rejected, Strategy


def fedavg(clients: int, deadline_s: float) -> Strategy:
    """Synchronous rounds."""

    def admit(offer: Offer, buffer: Buffer, current: int) -> int | Rejected:
        if offer.base_version != current:
            return Rejected(f"late: round {offer.base_version} is closed, now in round {current}")
        if offer.agent in buffer.agents:
            return Rejected(f"second update of {offer.agent} in round {current}")
        return offer.weight

    def is_ready(buffer: Buffer, age_s: float) -> bool:
        return len(buffer.members) >= clients or age_s >= deadline_s

    return Strategy(admit, is_ready)
