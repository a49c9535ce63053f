"""Making one client update of what was trained: delta, clip, integers, signed header, outbox.

    trained - base ─► minus what is remembered (calibration) ─► clip ─► integers ─► header ─► outbox
                      or plus what was left out (error feedback) ─► largest ones ──┘

Under calibration the agent remembers h, of which the coordinator knows the weighted sum over all
agents; it sends the difference, and h moves towards it only when the update was folded
(`coordinator/strategies/calibrated.py`).  What is stored is weight x h: that is what the
coordinator has added up, and it stays right when the agent has more rows, and so more weight, than
before.  With h itself the share that was sent under a small weight would be missing for ever, and
pull at the model (simulated: by a tenth of the sites' spread while rows grow from 64 to 5,000).

Under error feedback the agent remembers what it did not send (`agent/feedback.py`).  Both live in
the outbox file, in the transaction of the update: neither can be without the other.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.adoption import Adopted
from agent.config import Identity
from agent.feedback import Residual, make_sparse, nothing, read_residual
from agent.model import shared_of
from agent.outbox import Memory, Outbox, UpdateId
from agent.privacy.noising import noised
from agent.tombstones import seal_update
from agent.wrapping import told_examples, weight_of, wrap
from wire.chunks import CHUNK_BYTES, describe
from wire.codec import Counter
from wire.errors import MalformedError
from wire.messages import Spent, UpdateHeader
from wire.tensors import Params, clip, flatten, round_to_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The result of one local training."""

    params: Params
    examples: int


@dataclass(frozen=True)
class _Made:
    """What an update is made of, before it has an id."""

    integers: NDArray[np.signedinteger]
    saturated: int
    kept: int
    memory: Memory


def make_update(
    adopted: Adopted,
    trained: Trained,
    identity: Identity,
    outbox: Outbox,
    counter: Counter,
    chunk_bytes: int = CHUNK_BYTES,
    spent: Spent | None = None,
) -> UpdateId:
    """Make the update durable; return its id.

    Args:
      adopted: the head that it was trained under.
      trained: from which parameters.
      identity: signs it.
      outbox: where it is durable.
      counter: of the signature.
      chunk_bytes: of its content.
      spent: what this agent has spent, with this update; None without differential privacy.

    Raises:
      DiskError: the update was not made.
      ValueError: the policy asks for privacy, and the update was not charged.
    """
    head, policy = adopted.head, adopted.head.policy
    if policy.privacy != "none" and spent is None:
        raise ValueError("a private update is charged before it is made")
    weight = weight_of(policy, trained.examples)
    made = _made(adopted, trained, outbox, weight)

    def build(incarnation: str, sequence: int) -> tuple[bytes, bytes]:
        base = head.train.content.digest
        wrapped = wrap(made.integers, policy, identity, (incarnation, sequence), base)
        header = UpdateHeader(
            agent=identity.agent,
            incarnation=incarnation,
            sequence=sequence,
            lineage=head.lineage,
            base_version=head.train.version,
            base_digest=base,
            examples=told_examples(policy, trained.examples),
            weight=weight,
            scale=policy.scale,
            bits=policy.bits,
            kept=made.kept,
            # Of an update that nobody may read alone, a count of its numbers is one too many.
            saturated=made.saturated if policy.protection == "none" else 0,
            content=describe(wrapped.content, chunk_bytes),
            masked=wrapped.masked,
            encrypted=wrapped.context,
            spent=spent,
        )
        return seal_update(header, identity, counter), wrapped.content

    return outbox.add(head.lineage, head.train.version, build, made.memory)


def _made(adopted: Adopted, trained: Trained, outbox: Outbox, weight: int) -> _Made:
    policy, manifest = adopted.head.policy, adopted.model.manifest
    delta = flatten(shared_of(manifest, trained.params)).astype(np.float64)
    delta -= flatten(shared_of(manifest, adopted.train))
    rng = np.random.default_rng()
    if policy.kept_share < 1:
        left = _remembered("residual", adopted, outbox, len(delta))
        sparse = make_sparse(delta, left, policy, rng)
        kept = int(np.count_nonzero(sparse.integers))
        memory = Memory(residual=sparse.residual.to_bytes())
        return _Made(sparse.integers, sparse.saturated, kept, memory)
    known = nothing(len(delta), b"", 0)
    if policy.calibration > 0:
        known = _remembered("calibration", adopted, outbox, len(delta))
        delta -= known.vector / np.float64(weight)
    clipped = noised(clip(delta, policy.clip_norm), policy)
    integers, saturated = round_to_steps(clipped, policy.scale, policy.bits, rng)
    memory = Memory()
    if policy.calibration > 0:
        moved = weight * policy.calibration * policy.scale * integers.astype(np.float64)
        vector = (known.vector + moved).astype(np.float32)
        memory = Memory(calibration=Residual(vector, known.bundle, known.lineage).to_bytes())
    return _Made(integers, saturated, 0, memory)


def _remembered(
    name: Literal["residual", "calibration"], adopted: Adopted, outbox: Outbox, parameters: int
) -> Residual:
    """What earlier updates of this bundle and lineage left, or nothing."""
    bundle, lineage = adopted.head.bundle.digest, adopted.head.lineage
    stored = outbox.remembered(name)
    if stored is None:
        return nothing(parameters, bundle, lineage)
    try:
        return read_residual(stored, parameters).fitting(bundle, lineage)
    except MalformedError as error:  # of another model, or rotten
        logger.warning("what earlier updates left is forgotten: %s", error)
        return nothing(parameters, bundle, lineage)
