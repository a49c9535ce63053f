"""The two ways in which updates are hidden, as the buffer sees them (`updates.py`).

Masks are opened by two of three helpers, ciphertexts by one recipient; everything else (rows, rules
of sums, manifests, what becomes of a sum) is the same.
"""

from dataclasses import dataclass
from typing import Protocol

from coordinator.ingest import Update
from coordinator.secure.encrypted import RING, EncryptedSums
from coordinator.secure.rules import most_members as most_masked
from coordinator.secure.sums import Ready, Sums, Terms, check_masked
from wire.bfv import most_members as most_encrypted
from wire.encrypted import sealed_bytes
from wire.errors import WireError
from wire.messages import Policy, UpdateHeader


class Way(Protocol):
    """How updates are hidden, and who is asked for their sums."""

    @property
    def ring(self) -> int:
        """Bits of an integer, in rows and manifests."""

    @property
    def update_bytes(self) -> int:
        """Size of every content."""

    @property
    def most(self) -> int:
        """Updates that one sum can hold, whatever they weigh."""

    def problem_with(self, header: UpdateHeader) -> str:
        """What the header alone decides against; empty when the update may come."""

    def problem_with_content(self, update: Update) -> str:
        """Why a content of the right size is no use; empty when nothing is known against it."""

    def propose(self, terms: Terms, is_ready: Ready) -> bool:
        """Decide on a sum of updates, if there is one; whether."""


@dataclass(frozen=True)
class ByMasks:
    """Secure aggregation; see `Way`."""

    sums: Sums
    policy: Policy
    parameters: int

    @property
    def ring(self) -> int:
        """The policy's."""
        return self.policy.ring

    @property
    def update_bytes(self) -> int:
        """Of a masked vector."""
        return self.parameters * self.policy.ring // 8

    @property
    def most(self) -> int:
        """So many fit the ring."""
        return most_masked(self.policy)

    def problem_with(self, header: UpdateHeader) -> str:
        """See `Way`."""
        return check_masked(header.masked, self.policy.ring)

    def problem_with_content(self, update: Update) -> str:  # noqa: ARG002 - masks hide it
        """Nothing: any bytes are masked integers."""
        return ""

    def propose(self, terms: Terms, is_ready: Ready) -> bool:
        """Of updates that the same two helpers accepted."""
        return self.sums.propose("update", terms, is_ready)


@dataclass(frozen=True)
class ByEncryption:
    """Homomorphic encryption; see `Way`.

    Attributes:
      context: SHA-256 of the recipient's public context.
    """

    sums: EncryptedSums
    policy: Policy
    parameters: int
    context: bytes

    @property
    def ring(self) -> int:
        """Of the decrypted sums."""
        return RING

    @property
    def update_bytes(self) -> int:
        """Of sealed ciphertexts."""
        return sealed_bytes(self.parameters)

    @property
    def most(self) -> int:
        """So many leave the ciphertext its noise budget."""
        return most_encrypted(self.policy)

    def problem_with(self, header: UpdateHeader) -> str:
        """See `Way`."""
        if header.encrypted != self.context:
            return "the policy asks for updates encrypted for the charter's recipient"
        return "masked, which the policy does not ask for" if header.masked else ""

    def problem_with_content(self, update: Update) -> str:
        """Ciphertexts are checked when they come: one that is none would spoil its sum."""
        try:
            self.sums.check(update.header, update.content, self.parameters)
        except WireError as error:
            return str(error)
        return ""

    def propose(self, terms: Terms, is_ready: Ready) -> bool:
        """Of any updates that wait."""
        return self.sums.propose(terms, is_ready)
