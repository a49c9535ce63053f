"""Real bytes of updates for models of several sizes, and of a head's deltas.

Each content is read back by the product's decoder before its bytes count.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_network import Network, Vector
from benchmarks.update_bytes.methods import (
    Method,
    Senders,
    Sent,
    bytes_on_the_wire,
    received,
)
from benchmarks.update_bytes.training import GOAL, Folding
from coordinator.strategies.strategy import Offer
from wire.deltas import decode, encode
from wire.sparse import encode_sparse, largest_sparse_bytes
from wire.tensors import pack_integers, write_params

STEP = 0.01
"""Length of the step whose delta is measured, in lengths of the weights."""


def bytes_per_parameter(method: Method, parameters: int) -> float:
    """Bytes of header and content of one update, over the model's parameters.

    Raises:
      RuntimeError: the content does not come back as it was.
    """
    rng = np.random.default_rng(parameters)
    sent = Senders(method).send(1, rng.normal(0.0, 2e-3, parameters), rng)
    _check(method, sent, parameters)
    return bytes_on_the_wire(method, sent, client=1, number=99, base=1000) / parameters


def _check(method: Method, sent: Sent, parameters: int) -> None:
    policy = method.policy
    if policy is None:
        return
    integers = received(policy, sent, parameters)
    if sent.kept:
        again = encode_sparse(integers, policy.bits)
        if len(again) > largest_sparse_bytes(policy.bits, parameters, sent.kept):
            raise RuntimeError(f"{method.name}: {len(again)} bytes exceed the format's bound")
    else:
        again = pack_integers(integers, policy.bits)
    if again != sent.content:
        raise RuntimeError(f"{method.name}: the content did not come back as it was")


@dataclass(frozen=True)
class Delta:
    """What a head's delta costs.

    Attributes:
      step: length of the step, in lengths of the weights.
      share: bytes of the delta over bytes of the whole weights.
      per_parameter: bytes of the delta over the model's parameters.
    """

    step: float
    share: float
    per_parameter: float


def delta_of(before: Vector, after: Vector) -> Delta:
    """A head's delta between two versions' weights, float32 (P,).

    Raises:
      RuntimeError: the delta does not lead to the version's bytes.
    """
    base, target = (write_params({"weights": params}) for params in (before, after))
    delta = encode(base, target)
    size = len(target if delta is None else delta)
    if delta is not None and decode(base, delta, len(target)) != target:
        raise RuntimeError("a head's delta does not lead to the version it is for")
    step = float(np.linalg.norm(after - before) / np.linalg.norm(before))
    return Delta(step, size / len(target), size / len(before))


def folded_step(method: Method, network: Network, seed: int) -> tuple[Vector, Vector]:
    """A version and the next one, `STEP` away, folded from `GOAL` updates of this method."""
    rng = np.random.default_rng(seed)
    start = network.initial(seed)
    # The mean of GOAL independent deltas is shorter than each by the root of GOAL.
    spread = STEP * math.sqrt(GOAL) * float(np.sqrt(np.mean(np.square(start))))
    folding, senders = Folding(method, start, server_rate=1.0), Senders(method)
    for client in range(GOAL):
        delta: NDArray[np.float64] = rng.normal(0.0, spread, len(start))
        sent = senders.send(client, delta, rng)
        folding.fold(sent, Offer(str(client), str(client), 60, 0))
    return start, folding.model.params
