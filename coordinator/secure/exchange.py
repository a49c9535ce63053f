"""What to ask the helpers, when, and their answers put together.

Soft state only: after a restart everything is asked again, and helpers answer the same.  Pure but
for the rows it reads; the caller passes monotonic time, publishes what comes out, and hands what
was heard to `coordinator/federation.py`.

Every helper is shown every report.  A manifest is put to the helpers that accepted all of its
members, and masks are asked of two that endorsed it and are online: one for both of its seeds, the
other for the third.  Whoever is gone is replaced by the one that is there.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.secure.rows import agreed
from coordinator.secure.sums import Sums, filled_buckets
from wire.chunks import Assembly, to_bitmap
from wire.codec import Opened, open_envelope
from wire.errors import MalformedError, SignatureError
from wire.masking import held_by
from wire.messages import (
    Base,
    Examine,
    HelperState,
    Manifest,
    Masks,
    Release,
)
from wire.presence import Presence, is_will
from wire.signing import PublicKey

logger = logging.getLogger(__name__)

AGAIN_S = 5.0
"""What was not answered is asked again after so long."""
_EXAMINE_REPORTS, _EXAMINE_BYTES = 100, 200_000
_REMEMBERED = 10_000


@dataclass(frozen=True)
class Ask:
    """Something to publish to a helper: a message to be signed, or a manifest as it was signed."""

    helper: str
    message: Examine | Release | bytes


@dataclass(frozen=True)
class Complete:
    """All masks of a manifest."""

    manifest: bytes
    masks: list[bytes]


@dataclass
class _Part:
    """Masks that one helper was asked for."""

    helper: str
    seeds: tuple[int, ...]
    assembly: Assembly | None = None


@dataclass
class Exchange:
    """The conversation with the helpers.

    Attributes:
      sums: whose reports are shown and whose manifests are put to the helpers.
      federation: name.
      chunk_bytes: of masks.
    """

    sums: Sums
    federation: str
    chunk_bytes: int
    _asked_s: dict[tuple[str, bytes], float] = field(default_factory=dict)
    _parts: dict[bytes, list[_Part]] = field(default_factory=dict)
    _unwilling: set[tuple[str, bytes]] = field(default_factory=set)
    _presences: dict[str, Presence] = field(default_factory=dict)

    # Coming in

    def verified(self, payload: bytes, kind: str, helper_name: str) -> tuple[str, Opened]:
        """Check that the helper of this name signed it; return its key (hexadecimal) as well."""
        opened = open_envelope(payload, kind)
        for key, helper in self.sums.helpers.items():
            if helper.name == helper_name == opened.signer:
                opened.verify(self.federation, PublicKey(helper.signing))
                return key, opened
        raise SignatureError(f"{kind}: the charter names no helper {helper_name!r}")

    def on_state(self, helper: str, state: HelperState, counter: int) -> None:
        """A helper came, or went; who comes is asked at once what it may have missed.

        Args:
          helper: its signing key, hexadecimal.
          state: what it says, verified.
          counter: of the envelope.
        """
        is_online = state.status == "online"
        if not is_online and not is_will(counter):
            return  # said to itself
        presence = self._presences.setdefault(helper, Presence())
        before = presence.session if presence.is_there else None
        if not presence.hear(is_online=is_online, session=state.session, connection=1):
            return
        if presence.session == before and is_online:
            return  # as before each of its promises
        if is_online:
            self.sums.online |= {helper}
            self._asked_s = {at: s for at, s in self._asked_s.items() if at[0] != helper}
            self._unwilling = {each for each in self._unwilling if each[0] != helper}
        else:
            self.sums.online -= {helper}
            for digest, parts in list(self._parts.items()):
                if any(part.helper == helper and _is_open(part) for part in parts):
                    del self._parts[digest]  # others are asked

    def on_masks(self, helper: str, masks: Masks) -> None:
        """A helper announces masks, or refuses.

        Raises:
          MalformedError: they can not be those of the manifest.
        """
        for part in self._parts.get(masks.manifest, []):
            if part.helper != helper or part.seeds != masks.seeds:
                continue
            if masks.content is None:
                name = self.sums.helpers[helper].name
                logger.warning("helper %s gives no masks: %.300s", name, masks.reason)
                self._unwilling.add((helper, masks.manifest))  # one that is willing is preferred
            elif part.assembly is None or part.assembly.content != masks.content:
                manifest = self.sums.manifest(masks.manifest)
                if manifest is None or masks.content.size != _mask_bytes(manifest):
                    raise MalformedError(f"masks of {masks.content.size} bytes do not fit")
                part.assembly = Assembly(masks.content)

    def on_chunk(self, helper: str, digest: bytes, at: int, chunk: bytes) -> Complete | None:
        """Take a chunk of masks; return the masks that it completed."""
        for manifest, parts in self._parts.items():
            for part in parts:
                assembly = part.assembly
                is_its = assembly is not None and assembly.content.digest == digest
                if assembly is not None and is_its and self._name(part.helper) == helper:
                    assembly.add(at, chunk)
                    return self._complete(manifest)
        return None

    def _complete(self, manifest: bytes) -> Complete | None:
        """All masks of a manifest, once; they are asked for no more."""
        parts = self._parts.get(manifest, [])
        if not parts or any(_is_open(part) for part in parts):
            return None
        del self._parts[manifest]
        joined = [part.assembly.join() for part in parts if part.assembly is not None]
        return Complete(manifest, joined)

    def _name(self, helper: str) -> str:
        known = self.sums.helpers.get(helper)
        return known.name if known else ""

    # Going out

    def due(self, now_s: float) -> list[Ask]:
        """What to ask now."""
        asks: list[Ask] = []
        for helper in sorted(self.sums.online & self.sums.helpers.keys()):
            examine = self._examine(helper, now_s)
            if examine is not None:
                asks.append(Ask(self.sums.helpers[helper].name, examine))
        waiting = self.sums.rows.undecided()
        for digest, envelope in waiting:
            asks.extend(self._about_manifest(digest, envelope, now_s))
        for digest in self._parts.keys() - {digest for digest, _ in waiting}:
            del self._parts[digest]
        if len(self._asked_s) > _REMEMBERED:
            recent = now_s - AGAIN_S
            self._asked_s = {at: s for at, s in self._asked_s.items() if s > recent}
        return asks

    def _is_due(self, helper: str, about: bytes, now_s: float) -> bool:
        if now_s - self._asked_s.get((helper, about), -1e9) < AGAIN_S:
            return False
        self._asked_s[helper, about] = now_s
        return True

    def _examine(self, helper: str, now_s: float) -> Examine | None:
        reports: list[bytes] = []
        credentials: dict[str, bytes] = {}
        bases: dict[int, bytes] = {}
        for sealed in self.sums.rows.unseen(helper, _EXAMINE_REPORTS):
            found = self.sums.rows.envelope(sealed.report)
            if found is None or not self._is_due(helper, sealed.report, now_s):
                continue
            reports.append(found[0])
            credentials[sealed.agent] = found[1]
            if sealed.purpose == "update":
                bases[sealed.base_version] = sealed.base_digest
            if sum(map(len, reports)) + sum(map(len, credentials.values())) > _EXAMINE_BYTES:
                break
        if not reports:
            return None
        return Examine(
            reports=tuple(reports),
            credentials=tuple(credentials.values()),
            bases=tuple(Base(version=number, digest=bases[number]) for number in sorted(bases)),
        )

    def _about_manifest(self, digest: bytes, envelope: bytes, now_s: float) -> Iterator[Ask]:
        words = self.sums.rows.endorsements(digest)
        endorsed = [helper for helper, (yes, _) in words.items() if yes]
        reachable = [helper for helper in endorsed if helper in self.sums.online]
        willing = [helper for helper in reachable if (helper, digest) not in self._unwilling]
        numbers = self._numbers(digest)
        needed = self.sums.needed
        if len(willing) < 2 or len(endorsed) < needed:
            for helper in sorted(numbers.keys() & self.sums.online - set(endorsed)):
                if self._is_due(helper, digest, now_s):
                    yield Ask(self.sums.helpers[helper].name, envelope)
        if len(reachable) < 2 or len(endorsed) < needed:
            return
        first, second = (willing if len(willing) >= 2 else reachable)[:2]
        asked = {part.helper for part in self._parts.get(digest, [])}
        if not asked or (asked != {first, second} and not asked <= set(willing)):
            lacking = numbers[first]
            self._parts[digest] = [_Part(first, held_by(lacking)), _Part(second, (lacking,))]
        enough = tuple(words[helper][1] for helper in endorsed[:needed])
        for part in self._parts[digest]:
            if _is_open(part) and self._is_due(part.helper, b"masks" + digest, now_s):
                yield Ask(self.sums.helpers[part.helper].name, self._release(digest, part, enough))

    def _release(self, digest: bytes, part: _Part, endorsements: tuple[bytes, ...]) -> Release:
        missing = part.assembly.missing if part.assembly is not None else []
        return Release(
            manifest=digest,
            endorsements=endorsements,
            seeds=part.seeds,  # type: ignore[arg-type]  # numbers of seeds, 0 to 2
            chunk_bytes=self.chunk_bytes,
            wanted=to_bitmap(missing),
        )

    def _numbers(self, digest: bytes) -> dict[str, int]:
        """Helpers that accepted all members of a manifest, and the box that they opened."""
        members = self.sums.rows.members(digest)
        opinions = self.sums.rows.opinions(members[0].purpose) if members else {}
        found: dict[str, int] | None = None
        for sealed in members:
            by = agreed(opinions.get(sealed.report, []))
            if found is None:
                found = by
            found = {helper: by[helper] for helper in found if helper in by}
        return found or {}


def _is_open(part: _Part) -> bool:
    """Whether masks are still missing."""
    return part.assembly is None or bool(part.assembly.missing)


def _mask_bytes(manifest: Manifest) -> int:
    return len(filled_buckets(manifest)) * manifest.count * manifest.ring // 8
