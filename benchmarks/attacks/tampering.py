"""Bytes changed or sent again on their way, agents that seal wrongly, a helper with wrong masks.

A figure here is a share of tries that went through.  Without the defence means: the same bytes, and
nobody compares the signature, digest, commitment or id that stands in them; then a changed message
is parsed, and a wrong seed opens another sum.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from agent.config import Identity
from benchmarks.attacks.consortium import Consortium
from benchmarks.attacks.reports import MASKED, Report, read
from benchmarks.attacks.scene import Scene, scene_in
from benchmarks.attacks.verdicts import Expected, Finding, against_guessing
from wire.chunks import Assembly, describe
from wire.codec import open_envelope, parse_body, seal
from wire.errors import WireError
from wire.masking import held_by, mask, name_of, seal_seeds
from wire.messages import HELPERS, Endorsement, Manifest, UpdateHeader

Tries = tuple[list[bool], list[bool]]
"""Whether each was believed where nobody compares, and by the product."""
FLIPS = 200


class _Fickle(list[bytes]):
    """Three seeds that read as others in some of the six places of the boxes."""

    def __init__(self, seeds: Sequence[bytes], lies_at: Sequence[int]) -> None:
        super().__init__(seeds)
        self._lies_at, self._read = frozenset(lies_at), 0

    def __getitem__(self, at: object) -> bytes:  # type: ignore[override]
        """The seed that a box gets; boxes read two each, in the helpers' order."""
        seed = super().__getitem__(at)  # type: ignore[call-overload]
        self._read += 1
        return hashlib.sha256(seed).digest() if self._read - 1 in self._lies_at else seed


def changed_reports(scene: Scene) -> Tries:
    """One bit of a report's header is changed."""
    consortium, report = scene.consortium, scene.victim

    def is_accepted(envelope: bytes) -> bool:
        changed = Report(envelope, report.content, report.credential)
        return consortium.verdicts(0, [changed])[0].accepted

    return _flipped(report.envelope, "update", UpdateHeader, is_accepted)


def changed_manifests(scene: Scene) -> Tries:
    """One bit of a manifest is changed."""
    consortium = scene.consortium
    consortium.verdicts(0, scene.everybody)
    manifest = consortium.manifest(scene.everybody)
    return _flipped(
        manifest, "manifest", Manifest, lambda data: consortium.endorsement(0, data)[0].accepted
    )


def changed_endorsements(scene: Scene) -> Tries:
    """One bit of an endorsement is changed."""
    consortium = scene.consortium
    manifest = consortium.manifest(scene.everybody)
    words = []
    for helper in (0, 1):
        consortium.verdicts(helper, scene.everybody)
        words.append(consortium.endorsement(helper, manifest)[1])
    return _flipped(
        words[1],
        "endorsement",
        Endorsement,
        lambda data: bool(consortium.masks(0, manifest, [words[0], data], (1, 2))),
    )


def changed_vectors(scene: Scene) -> Tries:
    """One bit of a masked vector is changed."""
    report, seeds = scene.victim, scene.consortium.all_seeds(scene.victim)
    truth = read(report, seeds)
    free, ruled = [], []
    for at in np.linspace(0, len(report.content) - 1, FLIPS, dtype=int):
        changed = Report(report.envelope, _flip(report.content, int(at)), report.credential)
        free.append(not np.array_equal(read(changed, seeds), truth))
        ruled.append(arrives(changed))
    return free, ruled


def second_header(scene: Scene) -> Tries:
    """An agent shows two updates under one id."""
    consortium, identity = scene.consortium, scene.identities[0]
    again = consortium.report(identity, np.ones(_count(scene), np.int64))
    knows_only_this = consortium.verdicts(1, [again])[0].accepted
    consortium.verdicts(0, [scene.victim])
    return [knows_only_this], [consortium.verdicts(0, [again])[0].accepted]


def copied_report(scene: Scene) -> Tries:
    """An agent sends another one's masked vector and boxes as its own."""
    consortium, thief = scene.consortium, scene.identities[1]
    header = msgspec.structs.replace(
        scene.victim.header, agent=thief.agent, incarnation="0" * 16, sequence=7
    )
    copy = consortium.signed(thief, header, scene.victim.content)
    truth = read(scene.victim, consortium.all_seeds(scene.victim))
    free = np.array_equal(read(copy, consortium.all_seeds(scene.victim)), truth)
    return [free], [consortium.verdicts(0, [copy])[0].accepted]


def other_federation(scene: Scene) -> Tries:
    """A report that was signed in another federation is shown in this one."""
    consortium, identity = scene.consortium, scene.identities[0]
    envelope = seal(
        scene.victim.header,
        federation="another",
        signer=identity.agent,
        counter=1,
        key=identity.key,
    )
    moved = Report(envelope, scene.victim.content, scene.victim.credential)
    is_alike = moved.header == scene.victim.header
    return [is_alike], [consortium.verdicts(0, [moved])[0].accepted]


def wrong_commitments(scene: Scene) -> Tries:
    """An agent seals other seeds than those that it masked with and commits to."""
    return _sealed_wrongly(scene, range(6), helper=0)


def different_seeds(scene: Scene) -> Tries:
    """An agent tells one helper another seed than the others."""
    return _sealed_wrongly(scene, (2,), helper=1)


def for_nobody(scene: Scene) -> Tries:
    """An agent seals its boxes to keys that nobody has."""
    consortium = scene.consortium
    keys = [hashlib.sha256(bytes([at])).digest() for at in range(3)]
    report, _ = resealed(consortium, scene.identities[0], scene.victim, keys)
    is_stuck = not consortium.all_seeds(report)
    return [is_stuck], [consortium.verdicts(0, [report])[0].accepted]


def out_of_range(scene: Scene) -> Tries:
    """An agent masks integers far beyond the policy's bits."""
    consortium, identity = scene.consortium, scene.identities[0]
    huge = np.full(_count(scene), 1 << 30, np.int64)
    report = consortium.report(identity, huge, sequence=2)
    is_huge = np.array_equal(read(report, consortium.all_seeds(report)), huge)
    return [is_huge], [consortium.verdicts(0, [report])[0].accepted]


def wrong_masks(scene: Scene) -> Tries:
    """A helper gives masks that are off by one step in one number."""
    consortium, everybody = scene.consortium, scene.everybody
    manifest = consortium.manifest(everybody)
    truth = consortium.open_without_rules(everybody, manifest)
    words = []
    for helper in (0, 1):
        consortium.verdicts(helper, everybody)
        words.append(consortium.endorsement(helper, manifest)[1])
    wrong = bytearray(consortium.masks(1, manifest, words, (0,)))
    wrong[0] ^= 1
    parts = consortium.masks(0, manifest, words, (1, 2)), bytes(wrong)
    is_off = not np.array_equal(consortium.summed(everybody, manifest, parts), truth)
    consortium.verdicts(2, everybody)
    consortium.endorsement(2, manifest)
    other = consortium.masks(2, manifest, words, (0,))
    return [is_off], [other == bytes(wrong)]


ATTEMPTS: tuple[tuple[Callable[[Scene], Tries], str, Expected], ...] = (
    (changed_reports, "signatures", "fails"),
    (changed_manifests, "signatures", "fails"),
    (changed_endorsements, "signatures", "fails"),
    (changed_vectors, "digests", "fails"),
    (second_header, "ids", "fails"),
    (copied_report, "boxes that are bound to their report", "fails"),
    (other_federation, "signatures that name the federation", "fails"),
    (wrong_commitments, "commitments", "fails"),
    (different_seeds, "commitments", "fails"),
    (for_nobody, "boxes that have to open", "fails"),
    (wrong_masks, "the third helper's masks compared", "fails"),
    (out_of_range, "the helpers' rules", "open"),
)


def finding(
    make: Callable[[Scene], Tries], defence: str, expected: Expected, directory: Path
) -> Iterator[Finding]:
    """Try everything, where nobody compares and against the product."""
    with scene_in(directory, 0) as scene:
        both = make(scene)
    words = (make.__doc__ or "").strip().rstrip(".")
    for tries, setting, claim in (
        (both[0], "nobody compares", "succeeds"),
        (both[1], defence, expected),
    ):
        share = float(np.mean(tries))
        yield Finding(
            attack=f"tampering: {words}",
            setting=setting,
            figure=share,
            beside=0.0,
            unit="share of tries",
            detail=f"{len(tries)} tries",
            outcome=against_guessing(share, 0.0),
            expected=claim,  # type: ignore[arg-type]
        )


def _flipped(
    data: bytes,
    kind: str,
    what: type[UpdateHeader | Manifest | Endorsement],
    is_believed: Callable[[bytes], bool],
) -> Tries:
    """Change single bits all over an envelope."""
    free, ruled = [], []
    for at in np.linspace(0, len(data) - 1, FLIPS, dtype=int):
        changed = _flip(data, int(at))
        try:
            parse_body(open_envelope(changed, kind), what)
            free.append(True)
        except WireError:
            free.append(False)
        try:
            ruled.append(is_believed(changed))
        except WireError:
            ruled.append(False)
    return free, ruled


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _sealed_wrongly(scene: Scene, lies_at: Sequence[int], helper: int) -> Tries:
    """Whether what boxes with lies hold opens another vector; whether the helper accepts it."""
    consortium = scene.consortium
    keys = [each.public.sealing for each in consortium.helper_keys]
    report, seeds = resealed(consortium, scene.identities[0], scene.victim, keys, lies_at)
    fickle = _Fickle(seeds, lies_at)
    boxes = [{number: fickle[number] for number in held_by(at)} for at in range(HELPERS)]
    told = boxes[0] | boxes[1]
    is_off = bool(read(report, told).any())  # the vector is zero
    return [is_off], [consortium.verdicts(helper, [report])[0].accepted]


def resealed(
    consortium: Consortium,
    identity: Identity,
    like: Report,
    keys: Sequence[bytes],
    lies_at: Sequence[int] = (),
) -> tuple[Report, list[bytes]]:
    """A report of zeros, sealed to these keys with lies in these places; and its true seeds."""
    vector, seeds = mask(np.zeros(like.header.content.size // 4, np.int64), MASKED.ring)
    header = msgspec.structs.replace(like.header, content=describe(vector), sequence=3)
    masked = seal_seeds(
        _Fickle(seeds, lies_at),
        MASKED.ring,
        keys,
        federation=consortium.charter.federation,
        name=name_of(header),
        digest=header.content.digest,
    )
    return consortium.signed(
        identity, msgspec.structs.replace(header, masked=masked), vector
    ), seeds


def arrives(report: Report) -> bool:
    """Whether the coordinator takes these bytes for what the header announces."""
    assembly = Assembly(report.header.content)
    try:
        assembly.add(0, report.content)
    except WireError:
        return False
    return not assembly.missing


def _count(scene: Scene) -> int:
    """Integers of an update."""
    return scene.victim.header.content.size // (MASKED.ring // 8)
