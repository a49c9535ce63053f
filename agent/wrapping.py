"""The bytes of an update's integers as they leave the site: plain, masked or encrypted.

    integers ─► packed as they are             `none`: the coordinator reads them
             ─► masked with three new seeds    `masked`: only sums open (`wire/SECURE.md`)
             ─► BFV, sealed to the coordinator `encrypted`: a recipient decrypts sums

Each is bound to the update's id, so a content is made once the id is known, and only once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.config import Identity
from agent.encrypting import sealed
from wire.bfv_keys import encrypt
from wire.chunks import sha256
from wire.masking import mask, seal_seeds
from wire.messages import HELPERS, Charter, Masked, Policy
from wire.sparse import encode_sparse
from wire.tensors import pack_integers


@dataclass(frozen=True)
class Wrapped:
    """A content, and what its header says of it.

    Attributes:
      masked: how, where it is masked.
      context: SHA-256 of the BFV context, where it is encrypted.
    """

    content: bytes
    masked: Masked | None = None
    context: bytes = b""


def wrap(
    integers: NDArray[np.signedinteger],
    policy: Policy,
    identity: Identity,
    update: tuple[str, int],
    base_digest: bytes,
) -> Wrapped:
    """Make the content of an update.

    Args:
      integers: delta in steps of the policy's scale, shape (P,); mostly zeros where it is sparse.
      policy: the head's.
      identity: whose charter names who can open what is hidden.
      update: incarnation and sequence.
      base_digest: SHA-256 of the weights it was trained from.
    """
    if policy.kept_share < 1:
        return Wrapped(encode_sparse(integers, policy.bits))
    if policy.protection == "encrypted":
        context = identity.recipient_context
        ciphertexts = encrypt(context, integers)
        return Wrapped(sealed(ciphertexts, identity, update, base_digest), context=sha256(context))
    if policy.protection == "masked":
        return _masked(integers, policy, identity, update)
    return Wrapped(pack_integers(integers, policy.bits))


def _masked(
    integers: NDArray[np.signedinteger], policy: Policy, identity: Identity, update: tuple[str, int]
) -> Wrapped:
    charter = identity.trust.charter
    content, seeds = mask(integers, policy.ring)
    masked = seal_seeds(
        seeds,
        policy.ring,
        [helper.sealing for helper in charter.helpers],
        federation=charter.federation,
        name=(identity.agent, "/".join(map(str, update))),
        digest=sha256(content),
    )
    return Wrapped(content, masked)


def unmaskable(policy: Policy, charter: Charter) -> str:
    """Why no update can be masked as the policy asks; empty when it can, or need not be."""
    if policy.protection != "masked" or len(charter.helpers) == HELPERS:
        return ""
    return f"the policy asks for masks, and the charter names {len(charter.helpers)} helpers"


def weight_of(policy: Policy, examples: int) -> int:
    """What an update weighs: units of rows, at most the policy's cap."""
    return min(max(examples // policy.weight_unit, 1), policy.weight_cap)


def told_examples(policy: Policy, examples: int) -> int:
    """Rows as the header says them; where updates are hidden no finer than the weight."""
    if policy.protection == "none":
        return examples
    return weight_of(policy, examples) * policy.weight_unit
