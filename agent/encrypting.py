"""Whether updates can be encrypted here, where the head's policy says `encrypted`.

The context is a file that the site's administrator was given (`[trust] recipient_context`); the
charter, signed by the root, names its SHA-256, and another one is refused.  An agent that can not
encrypt makes no update: it never sends what the policy wants encrypted in any other way.
"""

from agent.config import Identity
from wire.bfv import problem_with
from wire.bfv_keys import PUBLIC_BYTES, can_encrypt
from wire.chunks import sha256
from wire.encrypted import Belonging, seal_ciphertexts
from wire.messages import Charter, Policy


def unready(policy: Policy, identity: Identity) -> str:
    """Why an update under this policy can not be encrypted here; empty when it can or need not."""
    charter, context = identity.trust.charter, identity.recipient_context
    if policy.protection != "encrypted":
        return ""
    if charter.recipient is None or not charter.coordinator_sealing_key:
        return "the policy asks for encrypted updates, and the charter names no recipient of sums"
    if not context:
        return 'the policy asks for encrypted updates: set "recipient_context" in [trust]'
    if problem := problem_with_context(charter, context):
        return problem
    return problem_with(policy, charter.k_min) or can_encrypt()


def problem_with_context(charter: Charter, context: bytes) -> str:
    """Why this file is not the context that the charter names; empty when it is."""
    if charter.recipient is None:
        return "the charter names no recipient of sums"
    if sha256(context) != charter.recipient.context or len(context) != PUBLIC_BYTES:
        named = charter.recipient.context.hex()
        return f"this is not {charter.recipient.name}'s public context, of SHA-256 {named}"
    return ""


def sealed(
    ciphertexts: bytes, identity: Identity, update: tuple[str, int], base_digest: bytes
) -> bytes:
    """The content of an encrypted update: its ciphertexts, sealed to the coordinator.

    Args:
      ciphertexts: under the identity's context.
      identity: of this agent, which is not `unready`.
      update: incarnation and sequence.
      base_digest: SHA-256 of the weights that it was trained from.

    Raises:
      MalformedError: the charter's sealing key is unusable.
    """
    charter, (incarnation, sequence) = identity.trust.charter, update
    belonging = Belonging(
        charter.federation,
        identity.agent,
        incarnation,
        sequence,
        base_digest,
        sha256(identity.recipient_context),
    )
    return seal_ciphertexts(ciphertexts, charter.coordinator_sealing_key, belonging)
