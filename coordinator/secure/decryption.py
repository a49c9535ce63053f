"""The coordinator's conversation with the recipient of encrypted sums.

    examine, manifest ──► recipient ──► endorsement ──► parts of the ciphertexts ──► masks, chunks

Soft state only: after a restart everything is asked again, and the recipient answers the same.  The
ciphertexts travel as `model/DIGEST/OFFSET`, not retained; they are named by the manifest's subject.
What the recipient decrypted comes as `masks` do: here the content is the sums themselves.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.secure.encrypted import EncryptedSums, Question
from coordinator.secure.sums import filled_buckets
from wire.chunks import Assembly
from wire.codec import kind_of, open_envelope, parse_body
from wire.errors import MalformedError, SignatureError
from wire.messages import Endorsement, Examine, HelperState, Manifest, Masks, Recipient
from wire.presence import Presence
from wire.signing import PublicKey
from wire.topics import Topics

logger = logging.getLogger(__name__)

AGAIN_S = 15.0
"""What was not answered is asked again after so long: five million parameters decrypt in 2 s."""
_EXAMINE_BYTES = 100_000
"""A header and a credential have 600 bytes at least: 256 of them do not fit."""


@dataclass(frozen=True)
class Decrypted:
    """What the recipient decrypted of a manifest."""

    manifest: bytes
    sums: bytes


@dataclass(frozen=True)
class Refused:
    """What it says against a manifest, as it signed it."""

    endorsement: Endorsement
    envelope: bytes


@dataclass(frozen=True)
class Endorsed:
    """What it says for a manifest, as it signed it."""

    endorsement: Endorsement
    envelope: bytes


@dataclass
class Decryption:
    """The conversation.

    Attributes:
      sums: whose manifests are asked about.
      recipient: by the charter.
      federation: name.
      part_bytes: of the ciphertexts.
    """

    sums: EncryptedSums
    recipient: Recipient
    federation: str
    part_bytes: int
    _presence: Presence = field(default_factory=Presence)
    _asked_s: dict[bytes, float] = field(default_factory=dict)
    _endorsed: set[bytes] = field(default_factory=set)
    """Manifests whose ciphertexts are due now."""
    _sent: set[bytes] = field(default_factory=set)
    """Manifests whose ciphertexts are on their way since the last look."""
    _assemblies: dict[bytes, Assembly] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The recipient's."""
        return self.recipient.name

    # Coming in

    def hear(self, payload: bytes) -> Endorsed | Refused | None:
        """Take what the recipient answers, or says of itself.

        Raises:
          WireError: not signed by the charter's recipient, or about nothing that was asked.
        """
        kind = kind_of(payload, ("helper-state", "endorsement", "masks"))
        opened = open_envelope(payload, kind)
        if opened.signer != self.name:
            raise SignatureError(f"{kind} by {opened.signer}, not by {self.name}")
        opened.verify(self.federation, PublicKey(self.recipient.signing))
        if kind == "helper-state":
            state = parse_body(opened, HelperState)
            is_online = state.status == "online"
            self._presence.hear(is_online=is_online, session=state.session, connection=1)
            self._asked_s.clear()
        elif kind == "masks":
            self._on_masks(parse_body(opened, Masks))
        else:
            endorsement = parse_body(opened, Endorsement)
            if not endorsement.accepted:
                logger.warning("%s decrypts no manifest: %.300s", self.name, endorsement.reason)
                return Refused(endorsement, payload)
            self._endorsed.add(endorsement.manifest)
            return Endorsed(endorsement, payload)
        return None

    def _on_masks(self, masks: Masks) -> None:
        manifest = self._manifest(masks.manifest)
        if masks.content is None or manifest is None:
            logger.warning("%s did not decrypt: %.300s", self.name, masks.reason)
            return
        if masks.content.size != 8 * manifest.count * len(filled_buckets(manifest)):
            raise MalformedError(f"sums of {masks.content.size} bytes do not fit their manifest")
        known = self._assemblies.get(masks.manifest)
        if known is None or known.content != masks.content:
            self._assemblies[masks.manifest] = Assembly(masks.content)

    def on_chunk(self, digest: bytes, at: int, chunk: bytes) -> Decrypted | None:
        """Take a chunk of decrypted sums; return what it completed."""
        for manifest, assembly in self._assemblies.items():
            if assembly.content.digest != digest:
                continue
            assembly.add(at, chunk)
            if assembly.missing:
                return None
            del self._assemblies[manifest]
            return Decrypted(manifest, assembly.join())
        return None

    def _manifest(self, digest: bytes) -> Manifest | None:
        found = self.sums.waiting().get(digest)
        return found[1] if found is not None else None

    # Going out

    def due(self, now_s: float) -> Iterator[Examine | bytes]:
        """What to ask on the recipient's topic now: headers, then their manifest's envelope."""
        if not self._presence.is_there:
            return
        waiting = list(self.sums.waiting())
        self._asked_s = {at: s for at, s in self._asked_s.items() if at in waiting}
        for digest in waiting:
            is_new = now_s >= self._asked_s.get(digest, 0.0) and digest not in self._endorsed
            if is_new or digest in self._sent:
                self._asked_s[digest] = now_s + AGAIN_S
            if digest in self._sent:
                self._sent.discard(digest)
            elif is_new:
                question = self.sums.question(digest)
                yield from _examines(question)
                yield question.manifest

    def parts(self, topics: Topics) -> Iterator[tuple[str, bytes]]:
        """Topics and parts of ciphertexts whose manifests were endorsed since the last call."""
        endorsed, self._endorsed = self._endorsed, set()
        for digest in endorsed:
            manifest = self._manifest(digest)
            if manifest is None:
                continue
            whole, name = self.sums.ciphertexts(digest), manifest.subject.hex()
            for offset in range(0, len(whole), self.part_bytes):
                yield topics.model(name, offset), whole[offset : offset + self.part_bytes]
            self._sent.add(digest)


def _examines(question: Question) -> Iterator[Examine]:
    """All members of a manifest, in messages of a size that brokers carry."""
    shown: list[tuple[bytes, bytes]] = []
    for each in question.shown:
        shown.append(each)
        if sum(len(header) + len(credential) for header, credential in shown) > _EXAMINE_BYTES:
            yield _examine(shown)
            shown = []
    if shown:
        yield _examine(shown)


def _examine(shown: list[tuple[bytes, bytes]]) -> Examine:
    return Examine(
        reports=tuple(header for header, _ in shown),
        credentials=tuple({credential: None for _, credential in shown}),
    )
