"""Folding again: do the published weights follow from the recorded updates, bit by bit?

Takes bytes from the witness and memberships from the coordinator's store, folds in another order
than the coordinator did, and returns what every version's SHA-256 has to be.
"""

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import empty, fold, mean_delta
from coordinator.server_optimizer import ServerOptimizerSettings, make_server_optimizer
from shopfloor.ledger import Ledger
from wire.chunks import sha256
from wire.tensors import (
    Params,
    Shapes,
    flatten,
    parameter_count,
    read_integers,
    unflatten,
    write_params,
)

Membership = tuple[int, str, str, int, int]
"""(version, agent, incarnation, sequence, coefficient)"""


def refold(
    start: Params,
    shapes: Shapes,
    memberships: list[Membership],
    ledger: Ledger,
    optimizer: ServerOptimizerSettings,
) -> dict[int, str]:
    """Compute every version again from the witness's bytes.

    Args:
      start: the bundle's weights, version 0.
      shapes: the flat vector's tensors.
      memberships: which updates made which version.
      ledger: where the updates' bytes are.
      optimizer: the server optimizer's settings.

    Returns:
      Version to SHA-256 (hex) of its weights, to be compared with what the heads announced.
    """
    step = make_server_optimizer(optimizer)
    parameters = parameter_count(shapes)
    params: NDArray[np.float32] = flatten(start)
    state = step.init(parameters)
    digests: dict[int, str] = {}
    for version in sorted({membership[0] for membership in memberships}):
        buffer, scale = empty(parameters), 1.0
        members = [membership for membership in memberships if membership[0] == version]
        for _, agent, incarnation, sequence, coefficient in reversed(members):
            update = (agent, incarnation, sequence)
            fact = ledger.updates[update]
            scale = fact.scale
            delta = read_integers(
                ledger.content_of(update),
                8 if fact.bits == 8 else 16,
                parameters,
            )
            buffer = fold(buffer, delta, coefficient, agent)
        state, params = step.apply(mean_delta(buffer, scale), state, params)
        digests[version] = sha256(write_params(unflatten(params, shapes))).hex()
    return digests
