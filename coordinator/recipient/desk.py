"""What the recipient answers: a promise for a manifest, then the integers of its sum.

    examine   headers and credentials ─► kept, those whose signatures hold
    manifest  ─► rules ─► promised, durable ─► endorsement
    ciphertexts, as the manifest names them ─► decrypted ─► checked ─► integers

Bytes in, messages out; `WireError` for what deserves no answer.  Whoever asks again gets the same.
"""

import logging
from dataclasses import dataclass, field

import numpy as np

from coordinator.helper.reports import Shown, read_credentials, read_shown
from coordinator.recipient.keys import OwnKeys, difference
from coordinator.recipient.rules import UnfitMembersError, check_members, check_sums, members_of
from coordinator.recipient.store import Promise, RecipientStore
from coordinator.secure.sums import filled_buckets
from wire.bfv import encrypted_bytes
from wire.bfv_keys import decrypt
from wire.charters import KeptCharter
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body, unseal
from wire.errors import MalformedError, WireError
from wire.messages import Credential, Endorsement, Examine, Manifest, UpdateHeader
from wire.trust import COORDINATOR, Trust, read_revoked

logger = logging.getLogger(__name__)

_MOST_SHOWN = 20_000
"""Headers that wait for their manifest; the oldest go first, and are shown again."""
_REASON = 300


@dataclass
class Desk:
    """One recipient, as far as rules ask.

    Attributes:
      store: nobody else writes to it.
      keys: private.
      charter: the newest that is known.
    """

    store: RecipientStore
    keys: OwnKeys
    charter: KeptCharter
    _shown: dict[bytes, Shown] = field(default_factory=dict)
    _unsound: dict[bytes, str] = field(default_factory=dict)
    """Why reports were not kept."""

    @property
    def trust(self) -> Trust:
        """The charter in use."""
        return self.charter.trust

    def why_nothing(self) -> str:
        """Why this recipient refuses everything; empty when it does not."""
        found = difference(self.trust.charter, self.keys.public)
        return f"charter {self.trust.charter.epoch}: {found}" if found else ""

    def hear_revoked(self, payload: bytes) -> None:
        """Take the enrolment authority's list; `WireError` when it is none."""
        self.store.revocations.take(read_revoked(payload, self.trust))

    def examine(self, payload: bytes) -> None:
        """Keep reports whose agents signed them; what is wrong with others is logged.

        Raises:
          WireError: this is no `examine` by the charter's coordinator.
        """
        federation, key = self.trust.federation, self.trust.coordinator
        message, _ = unseal(payload, Examine, federation=federation, signer=COORDINATOR, key=key)
        credentials = read_credentials(message.credentials, self.trust)
        for envelope in message.reports:
            report = sha256(envelope)
            self._shown.pop(report, None)
            self._unsound.pop(report, None)
            try:
                self._shown[report] = read_shown(envelope, credentials, federation)
            except WireError as error:
                logger.warning("report %s: %s", report.hex()[:16], error)
                self._unsound[report] = str(error)
        for known in (self._shown, self._unsound):
            while len(known) > _MOST_SHOWN:
                del known[next(iter(known))]

    def endorse(self, envelope: bytes) -> Endorsement:
        """Promise all members to this manifest and no other, or say why not.

        Raises:
          WireError: this is no manifest by the charter's coordinator.
        """
        federation, key = self.trust.federation, self.trust.coordinator
        manifest, _ = unseal(envelope, Manifest, federation=federation, signer=COORDINATOR, key=key)
        digest = sha256(envelope)
        if reason := self.why_nothing():
            return _no(digest, reason)
        known = self.store.manifest(digest)
        if known is not None:
            return Endorsement(manifest=digest, accepted=True, number=known[0])
        try:
            promises = self._promises(manifest)
        except UnfitMembersError as error:
            return _no(digest, str(error), error.reports)
        except WireError as error:
            return _no(digest, str(error))
        number = self.store.promise(digest, envelope, promises)
        for each in promises:
            self._shown.pop(each.report, None)
        logger.info("manifest %d: %d updates, promise %d", manifest.number, len(promises), number)
        return Endorsement(manifest=digest, accepted=True, number=number)

    def _promises(self, manifest: Manifest) -> list[Promise]:
        """What would be promised; `WireError` where that must not be."""
        for member in manifest.members:
            if reason := self._unsound.get(member.report, ""):
                raise UnfitMembersError([member.report], reason)
        members = members_of(manifest, list(self._shown.values()))
        check_members(manifest, members, self.trust.charter, self._is_revoked)
        promises = [_promise(each) for each in members]
        if taken := self.store.taken(promises):
            raise UnfitMembersError(taken, f"{len(taken)} members were promised to another sum")
        return promises

    def promised(self, digest: bytes) -> Manifest | None:
        """A manifest that this recipient endorsed."""
        known = self.store.manifest(digest)
        if known is None:
            return None
        return parse_body(open_envelope(known[1], "manifest"), Manifest)

    def decrypt(self, digest: bytes, ciphertexts: bytes) -> bytes:
        """The integers of a sum that was promised: int64, little-endian, bucket after bucket.

        Raises:
          WireError: nothing was promised, these are not the ciphertexts that the manifest names, or
            what they decrypt to is no sum of its members.
        """
        manifest = self.promised(digest)
        if manifest is None:
            raise MalformedError("this manifest was not endorsed here")
        if reason := self.why_nothing():
            raise MalformedError(reason)
        size, buckets = encrypted_bytes(manifest.count), len(filled_buckets(manifest))
        if len(ciphertexts) != size * buckets or sha256(ciphertexts) != manifest.subject:
            raise MalformedError("these are not the ciphertexts that the manifest names")
        parts = [ciphertexts[at : at + size] for at in range(0, len(ciphertexts), size)]
        sums = np.stack([decrypt(self.keys.bfv, part, manifest.count) for part in parts])
        check_sums(manifest, sums)
        self.store.note_decrypted(digest)
        return sums.astype("<i8").tobytes()

    def _is_revoked(self, credential: Credential) -> bool:
        return self.store.revocations.covers(credential.agent, credential.serial)


def _promise(shown: Shown) -> Promise:
    header = shown.header
    if not isinstance(header, UpdateHeader):
        raise MalformedError("a member is no update")
    return Promise(shown.report, header.agent, header.incarnation, header.sequence)


def _no(manifest: bytes, reason: str, members: tuple[bytes, ...] = ()) -> Endorsement:
    logger.warning("manifest %s: no, %s", manifest.hex()[:16], reason)
    return Endorsement(
        manifest=manifest, accepted=False, reason=reason[:_REASON], refused=members[:256]
    )
