"""Whether others know more of this coordinator's past than its own store does.

A store that was restored from a backup has forgotten heads, versions and boots that agents go by:
they refuse everything it says, and if they did not, history would fork.  So the coordinator looks,
on each connection before it says anything, at what it said last; and it listens to what updates
were trained from.  Where either is ahead of its store it stops.  It goes on only by a charter with
a higher `recovery` (docs/trust.md), whose heads come after all earlier ones.

    retained head, retained birth   signed with our own key: one is enough
    base versions of updates        anybody may lie: more than half of all known sites, two or more

Reads and counts; stops nothing itself.
"""

from coordinator.store import Saved
from wire.codec import unseal
from wire.messages import CoordinatorState, Head, UpdateHeader
from wire.trust import COORDINATOR, Trust

_LEAST_SITES = 2
_WHAT_TO_DO = (
    "The state was restored from a backup, or another coordinator runs with this key. If newer "
    "state exists, run on that. If it is lost for good, have the root sign a charter with the next "
    "recovery (journeyman keys charter --recover), put it in place of the old one, and start "
    "again: docs/trust.md, Recovery"
)


class RestoredError(Exception):
    """This store is older than what others know of it; the message says what to do."""


class Past:
    """What is known of one coordinator beyond its own store.

    Args:
      trust: names the coordinator's key.
      boot: number of this run.
    """

    def __init__(self, trust: Trust, boot: int) -> None:
        self._federation, self._boot = trust.federation, boot
        self._key = trust.coordinator
        self._ahead: set[str] = set()

    def on_head(self, payload: bytes, saved: Saved) -> None:
        """Look at the head that the broker retains.

        Raises:
          RestoredError: it is ours and newer than the store's, or another of the same number.
          WireError: it is not ours.
        """
        head, _ = unseal(
            payload, Head, federation=self._federation, signer=COORDINATOR, key=self._key
        )
        theirs, ours = (head.recovery, head.sequence), (saved.recovery, saved.head_sequence)
        if theirs > ours or (theirs == ours and payload != saved.head):
            found = f"the broker holds head {head.sequence} of recovery {head.recovery}, signed "
            has = f"with this coordinator's key, and the store knows {saved.head_sequence} of "
            raise RestoredError(f"{found}{has}recovery {saved.recovery}. {_WHAT_TO_DO}")

    def on_birth(self, payload: bytes) -> CoordinatorState:
        """Look at the birth or will that the broker retains; return it.

        Raises:
          RestoredError: it is ours, of a later run than this one.
          WireError: it is not ours.
        """
        state, _ = unseal(
            payload,
            CoordinatorState,
            federation=self._federation,
            signer=COORDINATOR,
            key=self._key,
        )
        if state.session > self._boot:
            found = f"the broker holds a birth of run {state.session}, signed with this "
            has = f"coordinator's key, and this is run {self._boot}"
            raise RestoredError(f"{found}{has}. {_WHAT_TO_DO}")
        return state

    def on_update(self, site: str, header: UpdateHeader, saved: Saved, sites: set[str]) -> None:
        """Note what a site trained from.

        Args:
          site: verified.
          header: verified, and not known here.
          saved: what is current.
          sites: all that the store knows.

        Raises:
          RestoredError: most sites trained from what this store does not know yet.
        """
        if (header.lineage, header.base_version) <= (saved.lineage, saved.version):
            return
        self._ahead.add(site)
        if len(self._ahead) >= _LEAST_SITES and 2 * len(self._ahead) > len(sites):
            named = f"lineage {header.lineage}, version {header.base_version}"
            found = f"{len(self._ahead)} of {len(sites)} sites trained from {named} or the like, "
            has = f"and the store knows lineage {saved.lineage}, version {saved.version}"
            raise RestoredError(f"{found}{has}. {_WHAT_TO_DO}")
