"""Encrypted updates: rows, sums of ciphertexts, and what the recipient is asked to decrypt.

    row (sealed to the coordinator) ─► opened ─► sum of coefficient x ciphertexts, bucket by bucket
    manifest, whose subject is the SHA-256 of these sums ─► (recipient) ─► integers ─► Opened

The same rows, rules and manifests as for masks (`sums.py`), with one party in place of three.  The
recipient holds the key and sees sums only; the coordinator sees single ciphertexts and has no key.
Since the manifest names the sums, the recipient decrypts what the coordinator signed and nothing
that somebody else slipped in.

Sums are made anew whenever they are asked for, and are the same each time: the noise that floods
them comes from the coordinator's sealing key and the manifest.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coordinator.secure.rows import Sealed, SecureRows
from coordinator.secure.sums import Opened, Ready, Terms, choices, filled_buckets, planned
from wire.bfv import add
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body, seal
from wire.encrypted import belonging_of, open_ciphertexts
from wire.errors import MalformedError
from wire.messages import Charter, Endorsement, Manifest, UpdateHeader
from wire.sealing_keys import SealingKey
from wire.signing import PrivateKey
from wire.trust import COORDINATOR

logger = logging.getLogger(__name__)

RING = 64
"""Of decrypted sums; manifests of encrypted updates say so."""
_FLOOD = b"journeyman-v1 flood"


@dataclass(frozen=True)
class Question:
    """What the recipient has to see before it decrypts a sum.

    Attributes:
      manifest: envelope.
      shown: header of each member, as its agent signed it, and that agent's credential.
    """

    manifest: bytes
    shown: tuple[tuple[bytes, bytes], ...]


class EncryptedSums:
    """Decides about encrypted updates, inside the caller's transaction."""

    def __init__(
        self, rows: SecureRows, charter: Charter, key: PrivateKey, sealing: SealingKey
    ) -> None:
        self.rows, self._charter = rows, charter
        self._key, self._sealing = key, sealing

    def check(self, header: UpdateHeader, content: bytes, count: int) -> None:
        """Raise `WireError` unless a content is ciphertexts of `count` integers, sealed for us."""
        belonging = belonging_of(header, self._charter.federation)
        open_ciphertexts(self._sealing.raw, content, belonging, count)

    def propose(self, terms: Terms, is_ready: Ready) -> bool:
        """Decide on a sum of updates that wait, if there is one; whether."""
        groups: dict[tuple[object, ...], list[Sealed]] = {}
        for sealed in self.rows.free("update"):
            # Its agent's credential is here.
            is_shown = self.rows.envelope(sealed.report) is not None
            if is_shown and sealed.ring == RING:
                groups.setdefault(sealed.kind, []).append(sealed)
        for group in groups.values():
            for chosen in choices(group, terms.most):
                if is_ready(chosen) and self._decide(terms, chosen):
                    return True
        return False

    def _decide(self, terms: Terms, chosen: Sequence[Sealed]) -> bool:
        number = self.rows.next_number()
        plan = planned(self._charter, number, "update", terms, chosen)
        if plan is None:
            return False
        subject = sha256(self._ciphertexts(plan))
        envelope = seal(
            msgspec.structs.replace(plan, subject=subject),
            federation=self._charter.federation,
            signer=COORDINATOR,
            counter=number,
            key=self._key,
        )
        reports = [each.report for each in chosen]
        self.rows.decide(sha256(envelope), number, "update", envelope, reports)
        sites = len({each.site for each in chosen})
        logger.info("manifest %d: %d encrypted updates of %d sites", number, len(chosen), sites)
        return True

    def question(self, digest: bytes) -> Question:
        """What to ask the recipient about a manifest that waits.

        Raises:
          MalformedError: there is none of this digest.
        """
        envelope, manifest = self._waiting(digest)
        shown = [self.rows.envelope(member.report) for member in manifest.members]
        return Question(envelope, tuple(each for each in shown if each is not None))

    def ciphertexts(self, digest: bytes) -> bytes:
        """Sums of a manifest that waits, bucket after bucket; the same bytes each time.

        Raises:
          MalformedError: there is none of this digest.
        """
        return self._ciphertexts(self._waiting(digest)[1])

    def refused(self, endorsement: Endorsement) -> list[tuple[Sealed, str]]:
        """Take back a manifest that is refused for good; return the members that are lost, and why.

        Members that the recipient names are lost, and the others free again.  A manifest of an
        earlier charter is decided on anew: had anything been promised to it, it would be accepted.
        """
        digest, in_the_way = endorsement.manifest, set(endorsement.refused)
        lost = [each for each in self.rows.members(digest) if each.report in in_the_way]
        if lost or self._is_of_earlier_charter(digest):
            self.rows.close(digest, "void")
            self.rows.set_free(digest)
        self.rows.forget([each.report for each in lost])
        return [(each, f"not decrypted: {endorsement.reason}") for each in lost]

    def _is_of_earlier_charter(self, digest: bytes) -> bool:
        found = self.waiting().get(digest)
        return found is not None and found[1].epoch < self._charter.epoch

    def open(self, digest: bytes, sums: bytes) -> Opened:
        """Take what the recipient decrypted, and close the manifest.

        Args:
          digest: of the manifest.
          sums: int64, little-endian, bucket after bucket.

        Raises:
          MalformedError: there is no such manifest, or the sums do not fit it.
        """
        _, manifest = self._waiting(digest)
        buckets = len(filled_buckets(manifest))
        if len(sums) != 8 * buckets * manifest.count:
            raise MalformedError(f"{len(sums)} bytes are no {buckets} sums of {manifest.count}")
        by_report = {each.report: each for each in self.rows.members(digest)}
        members = [by_report[member.report] for member in manifest.members]
        integers = np.frombuffer(sums, "<i8").astype(np.int64).reshape(buckets, manifest.count)
        self.rows.close(digest, "opened")
        return Opened(manifest, members, integers)

    def waiting(self) -> dict[bytes, tuple[bytes, Manifest]]:
        """Manifests of encrypted updates that wait, by digest: envelope, and what it says."""
        found: dict[bytes, tuple[bytes, Manifest]] = {}
        for digest, envelope in self.rows.undecided():
            manifest = parse_body(open_envelope(envelope, "manifest"), Manifest)
            if (manifest.purpose, manifest.ring) == ("update", RING):
                found[digest] = envelope, manifest
        return found

    def _waiting(self, digest: bytes) -> tuple[bytes, Manifest]:
        found = self.waiting().get(digest)
        if found is None:
            raise MalformedError("no manifest of this digest waits to be decrypted")
        return found

    def _ciphertexts(self, manifest: Manifest) -> bytes:
        """Sums of the manifest's buckets, ascending."""
        flood = self._flood(manifest)
        parts = []
        for bucket in filled_buckets(manifest):
            inside = [each for each in manifest.members if each.bucket == bucket]
            shares = {each.report: each.coefficient for each in inside}
            terms = (
                (self._opened(report, content, manifest.count), shares[report])
                for report, content in self.rows.contents(list(shares))
            )
            parts.append(add(terms, manifest.count, flood))
        return b"".join(parts)

    def _opened(self, report: bytes, content: bytes, count: int) -> bytes:
        found = self.rows.envelope(report)
        if found is None:
            raise MalformedError(f"the header of report {report.hex()[:16]}… is not here")
        header = parse_body(open_envelope(found[0], "update"), UpdateHeader)
        belonging = belonging_of(header, self._charter.federation)
        return open_ciphertexts(self._sealing.raw, content, belonging, count)

    def _flood(self, manifest: Manifest) -> Callable[[int], bytes]:
        """A stream of bytes that nobody else can know, the same for the same manifest."""
        plan = msgspec.structs.replace(manifest, subject=bytes(32))
        info = _FLOOD + sha256(msgspec.msgpack.encode(plan))
        key = HKDF(SHA256(), 32, None, info).derive(self._sealing.raw)
        stream = Cipher(ChaCha20(key, bytes(16)), None).encryptor()
        return lambda size: stream.update(bytes(size))
