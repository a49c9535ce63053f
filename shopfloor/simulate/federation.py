"""The coordinator's half of a simulation: bytes of updates in, versions out.

All decisions are the product's (`coordinator.aggregation`); what is added here is what its database
would keep: weights of earlier versions that somebody still trains from, last weights of all agents,
and counts.  Invariant: every update that was offered is folded, refused, or in the buffer.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Buffer
from coordinator.aggregation import advance, begin, is_ready, take
from coordinator.average import add_version
from coordinator.config import AverageTable
from coordinator.strategies.strategy import Offer, Rejected
from shopfloor.simulate.codec import decode
from shopfloor.simulate.fleet import Fleet
from shopfloor.simulate.network import PARAMETERS, Weights
from shopfloor.simulate.settings import Tables

_DECAY = AverageTable().decay

Witness = Callable[[Offer, NDArray[np.signedinteger], int, str], None]
"""`witness(offer, integers, bytes of the content, why refused)`, for each update that came."""


@dataclass(frozen=True)
class Folded:
    """One update that became part of a version."""

    agent: int
    staleness: int
    integers: NDArray[np.signedinteger]


class Federation:
    """Model, buffer and counts of one coordinator.

    Attributes:
      refused: reasons, without their figures, and how often.
      received_bytes: contents of all updates that came.
      average: float64 (P,), of the versions: what would be judged and served.
      digest: of every content, its outcome and every version, in order.
    """

    def __init__(
        self, tables: Tables, fleet: Fleet, weights: Weights, witness: Witness | None = None
    ) -> None:
        self._policy, self._rules, self._fleet = tables.policy, tables.rules(), fleet
        self._witness = witness
        self._weights = np.minimum(fleet.rows, self._policy.weight_cap)
        self._took_part = np.zeros(len(fleet.agents), np.bool_)
        self._bases: OrderedDict[int, Weights] = OrderedDict()
        self._waiting: list[Folded] = []
        self._buffer_since_s = 0.0
        self.model = begin(self._rules, weights)
        self.refused: Counter[str] = Counter()
        self.received_bytes = 0
        self.average = weights.astype(np.float64)
        self.digest = hashlib.sha256()
        self._keep_base()

    @property
    def version(self) -> int:
        """Number of the newest version."""
        return self.model.version

    @property
    def weights(self) -> Weights:
        """Of the newest version, float32 (P,); never changed in place."""
        return self.model.params

    @property
    def buffer(self) -> Buffer:
        """Updates since the newest version."""
        return self.model.buffer

    def offer(self, agent: int, base_version: int, content: bytes, now_s: float) -> str:
        """Take an update; returns why it was refused, or nothing.

        Raises:
          MalformedError: the content is not what an agent makes.
        """
        integers = decode(content, self._policy, PARAMETERS)
        offer = Offer(
            agent=self._fleet.agents[agent],
            site=self._fleet.sites[agent],
            weight=int(self._weights[agent]),
            base_version=base_version,
        )
        taken = take(self._rules, self.model, offer, integers, self._policy.scale)
        reason = taken.reason if isinstance(taken, Rejected) else ""
        self.received_bytes += len(content)
        self.digest.update(content)
        self.digest.update(f"{offer.agent}/{base_version}/{now_s!r}/{reason}".encode())
        if self._witness is not None:
            self._witness(offer, integers, len(content), reason)
        if isinstance(taken, Rejected):
            self.refused[reason.split(":")[0].split()[0]] += 1
            return reason
        if not self.model.buffer.members:
            self._buffer_since_s = now_s
        self.model = taken
        self._took_part[agent] = True
        self._waiting.append(Folded(agent, self.version - base_version, integers))
        return ""

    def step(self, now_s: float) -> list[Folded]:
        """Make a version if the buffer is ready; returns what is in it, or nothing.

        Raises:
          Diverged: the weights would not be finite, or far away.
        """
        if not is_ready(self._rules, self.model, now_s - self._buffer_since_s):
            return []
        oldest = min(member.base_version for member in self.buffer.members)
        self.model = advance(
            self._rules,
            self.model,
            self._policy.scale,
            population=int(self._weights[self._took_part].sum()),
            base=self._bases.get(oldest),
        )
        self.average = add_version(self.average, self.weights, self.version, _DECAY)
        self.digest.update(self.weights.tobytes())
        self._keep_base()
        folded, self._waiting = self._waiting, []
        return folded

    def _keep_base(self) -> None:
        """Keep the weights that the strategy wants; agents hold on to their own."""
        kept = self._rules.strategy.kept_bases
        if kept:
            self._bases[self.version] = self.model.params
            while len(self._bases) > kept + 1:
                self._bases.popitem(last=False)
