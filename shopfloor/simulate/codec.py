"""From a delta to the bytes of an update and back, by the functions that agent and coordinator use.

What agents remember between updates is here too: the residual of sparse updates
(`agent/feedback.py`), and what calibrated aggregation calls h (`coordinator/strategies/
calibrated.py`).  A vector is kept only for agents that made an update, and only where the policy
asks for one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.feedback import Residual, make_sparse, nothing
from wire.messages import Policy
from wire.sparse import decode_sparse, encode_sparse, kept_count
from wire.tensors import clip, quantize, read_integers

_BUNDLE = bytes(32)
"""All simulated agents have the same bundle, and one lineage."""


@dataclass(frozen=True)
class Encoded:
    """The content of an update, and how many of its integers saturated."""

    content: bytes
    saturated: int


class Codec:
    """The agents' half: deltas to bytes."""

    def __init__(self, policy: Policy, parameters: int, rng: np.random.Generator) -> None:
        self._policy, self._parameters, self._rng = policy, parameters, rng
        self._residuals: dict[int, Residual] = {}
        self._remembered: dict[int, NDArray[np.float32]] = {}

    def encode(self, agent: int, delta: NDArray[np.float32]) -> Encoded:
        """Clip and round one agent's delta, float32 (P,)."""
        policy = self._policy
        if policy.kept_share < 1.0:
            before = self._residuals.get(agent) or nothing(self._parameters, _BUNDLE, 0)
            sparse = make_sparse(delta, before, policy, self._rng)
            self._residuals[agent] = sparse.residual
            return Encoded(encode_sparse(sparse.integers, policy.bits), sparse.saturated)
        if agent in self._remembered:
            delta = delta - self._remembered[agent]
        clipped = clip(delta.astype(np.float64), policy.clip_norm)
        return Encoded(*quantize(clipped, policy.scale, policy.bits, self._rng))

    def folded(self, agent: int, integers: NDArray[np.signedinteger]) -> None:
        """Tell an agent that its update became part of a version: h moves by beta d."""
        beta = self._policy.calibration
        if beta > 0.0:
            moved = (beta * self._policy.scale * integers).astype(np.float32)
            self._remembered[agent] = self._remembered.get(agent, np.float32(0.0)) + moved


def decode(content: bytes, policy: Policy, parameters: int) -> NDArray[np.signedinteger]:
    """The coordinator's half: integers (P,).

    Raises:
      MalformedError: the content is not what an agent makes.
    """
    if policy.kept_share < 1.0:
        most = kept_count(policy.kept_share, parameters)
        return decode_sparse(content, policy.bits, parameters, most)
    return read_integers(content, policy.bits, parameters)
