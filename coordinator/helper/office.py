"""What a helper judges with: its store, its keys, the newest charter; and what it hears by the way.

Only those are believed whom the charter names: `WireError` for everybody else.  A helper that is
not in the charter, or whose store was restored from a backup, says why and does nothing.
"""

import logging
from typing import TypeVar

from coordinator.helper.identity import OwnKeys, differences
from coordinator.helper.store import Known, Store
from wire.charters import KeptCharter
from wire.codec import unseal
from wire.messages import Base, Endorsement, Examine, Head, HelperState, Manifest, Release
from wire.signing import PublicKey
from wire.trust import COORDINATOR, Trust, read_revoked

logger = logging.getLogger(__name__)

TOLD_OTHERWISE, RESTORED = "other base", "restored"
T = TypeVar("T", Examine, Head, Manifest, Release)
Own = TypeVar("Own", HelperState, Endorsement)


class Office:
    """One helper, as far as rules ask.

    Args:
      store: nobody else writes to it.
      keys: private.
      charter: the newest that is known.
    """

    def __init__(self, store: Store, keys: OwnKeys, charter: KeptCharter) -> None:
        self.store, self.keys, self._charter = store, keys, charter

    @property
    def trust(self) -> Trust:
        """The charter in use."""
        return self._charter.trust

    @property
    def name(self) -> str:
        """This helper's."""
        return self.keys.public.name

    def why_nothing(self) -> str:
        """Why this helper refuses everything; empty when it does not."""
        restored = self.store.known().restored
        if restored:
            return f"this helper was restored from a backup: {restored}"
        found = differences(self.trust.charter, self.keys.public)
        return f"charter {self.trust.charter.epoch}: {found[0]}" if found else ""

    def by_coordinator(self, payload: bytes, what: type[T]) -> T:
        """Verify and parse what the coordinator says; `WireError` when it did not say it."""
        federation, key = self.trust.federation, self.trust.coordinator
        return unseal(payload, what, federation=federation, signer=COORDINATOR, key=key)[0]

    def alarm(self, kind: str, detail: str) -> None:
        """Tell the operator, and count it; inside of a transaction of the store."""
        logger.error("ALARM %s: %s", kind, detail)
        self.store.alarm(kind, detail)

    # What is heard by the way

    def hear_bases(self, bases: "list[Base] | tuple[Base, ...]") -> None:
        """Note versions' digests; inside of a transaction of the store."""
        recovery = self.trust.charter.recovery
        for base in bases:
            if not self.store.keep_base(recovery, base.version, base.digest):
                said = f"the coordinator now says {base.digest.hex()[:16]}… of version "
                self.alarm(TOLD_OTHERWISE, f"{said}{base.version}, of which it said another")

    def hear_head(self, payload: bytes) -> None:
        """Note the digest of the newest version; `WireError` when it is no head."""
        head = self.by_coordinator(payload, Head)
        if head.recovery == self.trust.charter.recovery:
            base = Base(version=head.train.version, digest=head.train.content.digest)
            with self.store.transaction():
                self.hear_bases([base])

    def hear_revoked(self, payload: bytes) -> None:
        """Note whose credentials were revoked; `WireError` when the list is none."""
        self.store.revocations.take(read_revoked(payload, self.trust))

    def hear_charter(self, payload: bytes) -> None:
        """Take a newer charter; `WireError` when it is none."""
        if self._charter.take(payload):
            logger.warning("charter %d is in use from now on", self.trust.charter.epoch)
            for problem in differences(self.trust.charter, self.keys.public):
                logger.error("this helper does nothing any more: %s", problem)

    # Copies of itself

    def hear_own_state(self, payload: bytes) -> HelperState:
        """Compare a birth or will of this helper with its store; `WireError` when it is none."""
        state = self._by_itself(payload, HelperState)
        known = self.store.known()
        if state.store != known.store:
            self._is_copy(known, f"the broker has its state with store {state.store}", 0)
        elif state.session > known.session or state.endorsed > known.endorsed:
            words = f"the broker has its state of connection {state.session} with "
            words += f"{state.endorsed} endorsements, its store {known.endorsed}"
            self._is_copy(known, words, state.endorsed)
        return state

    def hear_own_endorsement(self, payload: bytes) -> None:
        """Compare an endorsement by this helper with its store; `WireError` when it is none."""
        endorsement = self._by_itself(payload, Endorsement)
        known = self.store.known()
        if endorsement.number > known.endorsed:
            words = f"the broker has its endorsement {endorsement.number}, its store "
            self._is_copy(known, f"{words}{known.endorsed}", endorsement.number)

    def _is_copy(self, known: Known, words: str, highest: int) -> None:
        if not known.restored:
            logger.error("ALARM %s: %s; nothing is endorsed until new keys", RESTORED, words)
        if not known.restored or highest > known.highest:
            self.store.mark_restored(known.restored or words, highest)

    def _by_itself(self, payload: bytes, what: type[Own]) -> Own:
        key = PublicKey(self.keys.public.signing)
        federation = self.trust.federation
        return unseal(payload, what, federation=federation, signer=self.name, key=key)[0]
