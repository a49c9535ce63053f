"""Calibrated buffered aggregation: absent agents count with what they sent before.

CA2FL (Wang et al., "Tackling the Data Heterogeneity in Asynchronous Federated Learning with Cached
Update Calibration", ICLR 2024, algorithm 1) at calibration beta = 1, FedBuff at 0.  Between them
what is remembered is a moving average, as the shifts of DIANA (Mishchenko et al.,
arXiv:1901.09269); FedStale (Rodio and Neglia, arXiv:2405.04171) has the same aim, a dose of what is
stale, but mixes by beta what a server remembers of each client in full.

CA2FL keeps one vector for each client at the server.  Here an agent remembers its own, h, and
sends d = delta - h; once told that d was folded it moves  w h <- w h + beta w d  (it stores w h, so
that a weight that grows changes nothing about the sum).  The server needs only H, the sum of all
w h, and N, the sum of all agents' weights:

    v = H / N + sum(w d) / sum(w)             the pseudo-gradient
    H <- H + beta sum(w d)

With beta = 1, h is the agent's last delta and v is CA2FL's.  One vector at the server, and d adds
like any update, so masks and integers work as before.  H is exact only if no update is in doubt,
so an agent makes the next one after the outcome of the last (`wire.messages.Policy.calibration`);
and weights are not damped by staleness, which is what the calibration is for.
"""

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Buffer
from coordinator.strategies.fedbuff import fedbuff
from coordinator.strategies.strategy import Offer, Rejected, Step, Strategy, Vector
from wire.messages import Policy


def calibrated(goal: int, deadline_s: float, policy: Policy) -> Strategy:
    """Asynchronous, buffered, with what absent agents sent before."""

    def admit(offer: Offer, _buffer: Buffer, _current: int) -> int | Rejected:
        return offer.weight

    def blend(step: Step) -> tuple[Vector, NDArray[np.float64]]:
        remembered = step.memory[0]
        weight = sum(member.weight for member in step.members)
        gradient = remembered / max(step.population, weight) + step.mean
        moved = remembered + policy.calibration * weight * step.mean
        return gradient, moved[np.newaxis]

    return Strategy(admit, fedbuff(goal, deadline_s, policy).is_ready, blend, memory=1)
