"""Folding again from the tape: do all weights follow from the recorded updates, bit by bit?

Shares no line with the coordinator: reads the integers of each member from the tape, computes its
coefficient again from its own header (`wire/PROTOCOL.md`, "Updates are integers"), adds them up in
another order, takes the step of FedBuff with plain SGD (Nguyen et al., arXiv:2106.06639, algorithm
1), and compares the SHA-256 of the weights' file with what the store and the heads say.  A version
without members begins a lineage: its weights must be an average of versions before it.

In secure mode the integers come from under their masks (`unmasking.py`), and coefficients are
levelled (`wire/SECURE.md`, "Manifest and endorsement").
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shopfloor.chaos.accounts import Member, StoreAccount
from shopfloor.chaos.tape import Tape, Taped
from shopfloor.chaos.unmasking import unmasked
from wire.chunks import sha256
from wire.tensors import Shapes, unflatten, write_params


@dataclass(frozen=True)
class Recipe:
    """What every version was made by.

    Attributes:
      start: weights of version 0, float32, shape (P,).
      shapes: the flat vector's tensors.
      learning_rate: of the server's SGD.
      staleness_cap: versions of age up to which an update counts in full.
      decay: of the average of the versions, which is what is served.
      sealing_keys: the helpers' private ones; none: updates are not masked.
      federation: as boxes are bound to it.
      k_min: sites that each masked sum has to weigh as.
    """

    start: NDArray[np.float32]
    shapes: Shapes
    learning_rate: float
    staleness_cap: int
    decay: float
    sealing_keys: tuple[bytes, ...] = ()
    federation: str = ""
    k_min: int = 1


def refold(
    recipe: Recipe, store: StoreAccount, announced: set[tuple[int, str]], tape: Tape
) -> list[str]:
    """Compute every version again and compare.

    Args:
      recipe: start and rule.
      store: who was folded into which version, and each version's digest.
      announced: versions and digests (hex) that heads named.
      tape: the updates' bytes.

    Returns:
      What differs, the first version that does at the head; empty when all bits are equal.
    """
    params = recipe.start
    average, averaged = params.astype(np.float64), 0
    averages = {_digest(params, recipe.shapes): params}
    digests = {0: _digest(params, recipe.shapes)}
    problems: list[str] = []
    for version in range(1, max(store.versions, default=0) + 1):
        members = store.members.get(version, [])
        if len(members) != store.versions.get(version, ("", 0))[1]:
            problems.append(f"version {version} does not say who its members are")
            break
        if not members:
            digest = store.versions.get(version, ("", 0))[0]
            if digest not in averages:
                problems.append(f"version {version} begins a lineage from weights never served")
                break
            params = averages[digest]
            average, averaged = params.astype(np.float64), 0
            digests[version] = digest
            continue
        delta = _mean_delta(recipe, version, members, tape)
        if isinstance(delta, str):
            problems.append(f"version {version}: {delta}")
            break
        step = params.astype(np.float64) + recipe.learning_rate * delta
        params = step.astype(np.float32)
        averaged += 1
        share = (recipe.decay + 1.0) / (recipe.decay + averaged)
        average = (1.0 - share) * average + share * params.astype(np.float64)
        averages[_digest(average.astype(np.float32), recipe.shapes)] = average.astype(np.float32)
        digests[version] = _digest(params, recipe.shapes)
    problems += [
        f"version {version} has other weights than its members give"
        for version, (digest, _) in sorted(store.versions.items())
        if version in digests and digests[version] != digest
    ]
    problems += [
        f"a head named other weights for version {version}"
        for version, digest in sorted(announced)
        if digests.get(version) != digest
    ]
    return problems


def _mean_delta(
    recipe: Recipe, version: int, members: list[Member], tape: Tape
) -> NDArray[np.float64] | str:
    """The weighted mean delta, float64, shape (P,), or why it can not be computed."""
    total = np.zeros(len(recipe.start), np.int64)
    weight, scales = 0, set[float]()
    found = [tape.header(member.update, member.digest) for member in members]
    headers = [taped for taped in found if taped is not None]
    if len(headers) < len(members):
        return "the tape does not have the headers of all its members"
    shares = coefficients(recipe, headers, version)
    for member, taped, coefficient in reversed(list(zip(members, headers, shares, strict=True))):
        content = tape.content(member.update, member.digest)
        if content is None:
            return f"the tape does not have the bytes of {member.update}"
        if coefficient != member.coefficient:
            return f"{member.update} counts {member.coefficient} times instead of {coefficient}"
        total += coefficient * _integers(recipe, taped, content)
        weight += coefficient
        scales.add(taped.scale)
    if len(scales) != 1:
        return f"its members have {len(scales)} scales"
    mean: NDArray[np.float64] = total.astype(np.float64) * (scales.pop() / weight)
    return mean


def _integers(recipe: Recipe, taped: Taped, content: bytes) -> NDArray[np.int64]:
    if taped.masked is None:
        return np.frombuffer(content, "<i1" if taped.bits == 8 else "<i2").astype(np.int64)
    keys, federation = recipe.sealing_keys, recipe.federation
    return unmasked(content, taped.masked, keys, federation, taped.update, taped.digest)


def coefficients(recipe: Recipe, headers: list[Taped], version: int) -> list[int]:
    """What each update weighs; here every agent is a site of its own."""
    due = [_coefficient(taped, version, recipe.staleness_cap) for taped in headers]
    cap = max(due)
    while recipe.sealing_keys and cap > 1:
        sites = Counter[str]()
        for taped, weight in zip(headers, due, strict=True):
            sites[taped.update[0]] += min(weight, cap)
        if sites.total() ** 2 >= recipe.k_min * sum(each * each for each in sites.values()):
            break
        cap //= 2
    return [min(weight, cap) for weight in due]


def _coefficient(taped: Taped, version: int, staleness_cap: int) -> int:
    """What an update weighs that was taken while the version before `version` was current."""
    staleness = version - 1 - taped.base_version
    if staleness <= staleness_cap:
        return taped.weight
    return max(1, taped.weight * staleness_cap // staleness)


def _digest(params: NDArray[np.float32], shapes: Shapes) -> str:
    return sha256(write_params(unflatten(params, shapes))).hex()
