"""Folding again: do the published weights follow from the recorded updates, bit by bit?

Takes bytes from the witness and memberships from the coordinator's store, folds in another order
than the coordinator did, and returns what every version's SHA-256 has to be.  A version without
members begins a lineage: its weights are those of an average that was served.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregate import Member, bucket_means, empty, fold
from coordinator.average import add_version
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


@dataclass(frozen=True)
class Recipe:
    """What every version was made by.

    Attributes:
      start: the first weights, version 0.
      shapes: the flat vector's tensors.
      optimizer: the server optimizer's settings.
      decay: of the average that is served.
    """

    start: Params
    shapes: Shapes
    optimizer: ServerOptimizerSettings
    decay: float


def refold(
    recipe: Recipe, versions: dict[int, str], memberships: list[Membership], ledger: Ledger
) -> dict[int, str]:
    """Compute every version again from the witness's bytes.

    Args:
      recipe: how.
      versions: SHA-256 (hex) of every version's weights, as the store has them; used only to tell
        from which served weights a lineage began.
      memberships: which updates made which version.
      ledger: where the updates' bytes are.

    Returns:
      Version to SHA-256 (hex) of its weights, to be compared with what the heads announced.
    """
    step = make_server_optimizer(recipe.optimizer)
    parameters = parameter_count(recipe.shapes)
    params: NDArray[np.float32] = flatten(recipe.start)
    state, average, averaged = step.init(parameters), params.astype(np.float64), 0
    served = {_digest(params, recipe.shapes): params}
    digests: dict[int, str] = {}
    for version in range(1, max(versions, default=0) + 1):
        members = [membership for membership in memberships if membership[0] == version]
        if members:
            state, params = step.apply(_mean(members, parameters, ledger), state, params)
            averaged += 1
            average = add_version(average, params, averaged, recipe.decay)
            served[_digest(average, recipe.shapes)] = average.astype(np.float32)
        elif versions[version] in served:
            params = served[versions[version]]
            state, average, averaged = step.init(parameters), params.astype(np.float64), 0
        digests[version] = _digest(params, recipe.shapes)
    return digests


def _mean(members: list[Membership], parameters: int, ledger: Ledger) -> NDArray[np.float64]:
    """The weighted mean delta, added up in the other order."""
    buffer, scale = empty(parameters), 1.0
    for version, agent, incarnation, sequence, coefficient in reversed(members):
        update = (agent, incarnation, sequence)
        fact = ledger.updates[update]
        scale = fact.scale
        delta = read_integers(ledger.content_of(update), fact.bits, parameters)
        member = Member(
            agent=agent,
            site=agent,
            base_version=version,
            weight=coefficient,
            coefficient=coefficient,
        )
        buffer = fold(buffer, delta, member)
    means, _ = bucket_means(buffer, scale)
    return np.asarray(means[0])


def _digest(params: NDArray[np.floating], shapes: Shapes) -> str:
    return sha256(write_params(unflatten(params, shapes))).hex()
