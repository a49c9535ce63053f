"""Sparse updates with error feedback: the largest parameters are sent, the rest is remembered.

    wanted  = clipped delta + residual
    sent    = the kept_share x P largest of wanted, clipped, in integers of the public scale
    residual' = wanted - sent

Top-k with memory after Stich et al., "Sparsified SGD with Memory" (arXiv:1809.07599, algorithm 1);
that the memory mends any contracting compression, rounding and clipping included, after Karimireddy
et al., "Error Feedback Fixes SignSGD" (arXiv:1901.09847, section 4).

Responsible for what an update is made of and for the residual's bytes, which belong in the same
transaction as the update: a residual without its update sends twice, an update without its residual
forgets.  Pure.  Refuses nothing: which policies may ask for sparse updates says
`wire.sparse.problem_with` (none with differential privacy, secure aggregation or calibration).

Invariant: sent + residual' is wanted, to float32's rounding.  What a residual remembers was learned
for one bundle in one lineage, and in another one it counts as nothing (`Residual.fitting`).
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire.errors import MalformedError
from wire.messages import Count, Digest, Policy
from wire.sparse import kept_count
from wire.tensors import MAX_PARAMETERS, clip, round_to_steps

LARGEST_RESIDUAL_BYTES = 4 * MAX_PARAMETERS + 256
"""Bytes that a stored residual never exceeds."""


class _Stored(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    bundle: Digest
    lineage: Count
    vector: bytes


@dataclass(frozen=True, eq=False)
class Residual:
    """What earlier updates left out.

    Attributes:
      vector: float32 (P,), finite; in the direction of a delta, trained - base.
      bundle: SHA-256 of the bundle whose parameters these are.
      lineage: of the versions that the updates were trained from.
    """

    vector: NDArray[np.float32]
    bundle: bytes
    lineage: int

    def fitting(self, bundle: bytes, lineage: int) -> "Residual":
        """This residual if it is of that bundle and lineage, else nothing of the same length."""
        if (self.bundle, self.lineage) == (bundle, lineage):
            return self
        return nothing(len(self.vector), bundle, lineage)

    def to_bytes(self) -> bytes:
        """Encode: MessagePack array of bundle, lineage, little-endian float32s."""
        vector = self.vector.astype("<f4", copy=False).tobytes()
        return msgspec.msgpack.encode(_Stored(self.bundle, self.lineage, vector))


@dataclass(frozen=True, eq=False)
class Sparse:
    """One update and what it leaves for the next.

    Attributes:
      integers: int8 or int16 (P,), zero where nothing is sent; `wire.sparse.encode_sparse` of them
        is the content.
      saturated: integers that did not fit their width; the residual has the rest of them.
      residual: to be stored with the update.
    """

    integers: NDArray[np.signedinteger]
    saturated: int
    residual: Residual


def nothing(parameters: int, bundle: bytes, lineage: int) -> Residual:
    """The residual before the first update."""
    return Residual(np.zeros(parameters, np.float32), bundle, lineage)


def read_residual(data: bytes, parameters: int) -> Residual:
    """Decode a stored residual.

    Args:
      data: any bytes.
      parameters: P of the model in use.

    Raises:
      MalformedError: not a residual, one of another length, or one that is not finite.
    """
    if len(data) > LARGEST_RESIDUAL_BYTES:
        raise MalformedError(f"a residual of {len(data)} bytes; at most {LARGEST_RESIDUAL_BYTES}")
    try:
        stored = msgspec.msgpack.decode(data, type=_Stored)
    except (msgspec.DecodeError, ValueError, RecursionError, OverflowError) as error:
        raise MalformedError(f"a residual that can not be read: {error}") from None
    if len(stored.vector) != 4 * parameters:
        reason = f"a residual of {len(stored.vector)} bytes does not fit {parameters} parameters"
        raise MalformedError(reason)
    vector = np.frombuffer(stored.vector, "<f4").astype(np.float32, copy=False)
    if not np.isfinite(vector).all():
        raise MalformedError("a residual with a value that is not finite")
    return Residual(vector, stored.bundle, stored.lineage)


def select(wanted: NDArray[np.floating], most: int) -> NDArray[np.intp]:
    """Indices of the `most` values of largest magnitude, ascending.

    Of equal ones the first are taken, so that the choice is the same on every machine.  Zeros are
    never taken; there may be fewer then.

    Args:
      wanted: float, shape (P,), finite.
      most: at least 1.
    """
    magnitude = np.abs(wanted)
    if most >= len(magnitude):
        return np.flatnonzero(magnitude)
    threshold = np.partition(magnitude, len(magnitude) - most)[len(magnitude) - most]
    if threshold == 0:
        return np.flatnonzero(magnitude)
    larger = np.flatnonzero(magnitude > threshold)
    equal = np.flatnonzero(magnitude == threshold)[: most - len(larger)]
    return np.sort(np.concatenate([larger, equal]))


def make_sparse(
    delta: NDArray[np.floating], residual: Residual, policy: Policy, rng: np.random.Generator
) -> Sparse:
    """Choose, clip and round what one update sends.

    Args:
      delta: trained - base, float, shape (P,), finite.
      residual: of the same bundle and lineage, shape (P,).
      policy: its `clip_norm` bounds the delta that is remembered as well as what is sent, so that
        neither one wild delta nor a long memory makes an update longer than others.
      rng: source of the rounding's uniform numbers.
    """
    wanted = clip(delta.astype(np.float64), policy.clip_norm) + residual.vector
    kept = select(wanted, kept_count(policy.kept_share, len(wanted)))
    values, saturated = round_to_steps(
        clip(wanted[kept], policy.clip_norm), policy.scale, policy.bits, rng
    )
    integers = np.zeros(len(wanted), values.dtype)
    integers[kept] = values
    wanted[kept] -= values * policy.scale
    left = Residual(wanted.astype(np.float32), residual.bundle, residual.lineage)
    return Sparse(integers, saturated, left)
