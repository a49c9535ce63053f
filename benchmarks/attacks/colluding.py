"""A coordinator that has more than its own keys: a charter of its own, or one of the helpers.

A helper that colludes hands its keys over and signs whatever it is asked for.  What one such helper
can do is bounded by what the two honest ones still refuse; one thing is not, and is measured here:
of two overlapping sums, each can get the endorsement of one honest helper.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.attacks.consortium import Consortium, keys_of
from benchmarks.attacks.hostile import told
from benchmarks.attacks.reports import Report, read, seeds_for
from benchmarks.attacks.scene import Integers, Scene, scene_in
from benchmarks.attacks.verdicts import Expected, Finding
from wire.chunks import sha256
from wire.codec import open_envelope, parse_body
from wire.errors import WireError
from wire.masking import Seeds, Term, masks_of
from wire.messages import Endorsement, Manifest
from wire.signing import PrivateKey
from wire.trust import ROOT, Trust, read_charter

COLLUDING = 2
"""The helper that does; it holds seeds 0 and 1 of every report, and seed 2 is missing."""
Vectors = list[Integers]
Attempt = Callable[[Scene], tuple[Vectors, Vectors]]
"""All that the coordinator has in the end where rules are left out, and by the product's rules."""


def helpers_of_its_own(scene: Scene) -> tuple[Vectors, Vectors]:
    """Agents are shown a charter with the coordinator's own helpers, not signed by the root."""
    own = [keys_of(f"own-{at}") for at in range(3)]
    public = tuple(keys.public for keys in own)
    forged = msgspec.structs.replace(scene.consortium.charter, epoch=2, helpers=public)

    def told_to_the_victim(trust: Trust) -> Vectors:
        report = scene.report_under(trust)
        seeds: Seeds = {}
        for keys in own:
            seeds |= seeds_for(report, keys.sealing)
        return [read(report, seeds)]

    envelope = scene.consortium.signed_by(ROOT, scene.consortium.coordinator, forged)
    try:
        believed = told_to_the_victim(read_charter(envelope, scene.consortium.root.public))
    except WireError:  # the agent goes on under the charter that it has
        believed = told_to_the_victim(scene.consortium.trust)
    return told_to_the_victim(Trust(forged)), believed


def rules_of_its_own(scene: Scene) -> tuple[Vectors, Vectors]:
    """Helpers are shown a charter that asks for one site behind a sum, not signed by the root."""
    consortium = scene.consortium
    forged = msgspec.structs.replace(consortium.charter, epoch=2, k_min=1)
    envelope = consortium.signed_by(ROOT, consortium.coordinator, forged)
    for office in consortium.offices:
        try:
            office.hear_charter(envelope)
        except WireError:
            continue
    manifest = consortium.manifest([scene.victim])
    opened = consortium.open_by_rules([scene.victim], manifest)
    held = [consortium.held(scene.victim)]
    free = [consortium.open_without_rules([scene.victim], manifest)]
    return free, held if opened is None else [*held, opened]


def endorsed_twice_by_one(scene: Scene) -> tuple[Vectors, Vectors]:
    """The helper that colludes endorses the victim alone, and its word is shown twice."""
    return _alone_with(scene, lambda word: [word, word])


def endorsed_by_a_stranger(scene: Scene) -> tuple[Vectors, Vectors]:
    """The same, and the second word is that of a helper that no charter names."""
    key, consortium = PrivateKey.generate(), scene.consortium

    def words(word: bytes) -> list[bytes]:
        endorsement = parse_body(open_envelope(word, "endorsement"), Endorsement)
        return [word, consortium.signed_by("helper-0", key, endorsement)]

    return _alone_with(scene, words)


def endorsed_for_another(scene: Scene) -> tuple[Vectors, Vectors]:
    """The same, and the second word is an honest helper's, about the sum of everybody."""
    consortium = scene.consortium
    everybody = consortium.manifest(scene.everybody)
    consortium.verdicts(0, scene.everybody)
    _, honest = consortium.endorsement(0, everybody)
    return _alone_with(scene, lambda word: [word, honest])


def two_sums(scene: Scene) -> tuple[Vectors, Vectors]:
    """With one helper that signs anything: everybody, and then everybody but the victim."""
    consortium = scene.consortium
    sums: Vectors = []
    free: Vectors = []
    for honest, reports in ((0, scene.everybody), (1, scene.others)):
        manifest = consortium.manifest(reports)
        free.append(consortium.open_without_rules(reports, manifest))
        consortium.verdicts(honest, reports)
        word, envelope = consortium.endorsement(honest, manifest)
        words = [envelope, _anything(consortium, manifest)]
        masks = consortium.masks(honest, manifest, words, (2,)) if word.accepted else b""
        if masks:
            sums.append(_with_own_seeds(consortium, reports, manifest, masks))
    held = [consortium.held(scene.victim), *sums]
    return [free[0] - free[1]], [*held, sums[0] - sums[1]] if len(sums) == 2 else held


ATTEMPTS: tuple[tuple[Attempt, Expected], ...] = (
    (helpers_of_its_own, "fails"),
    (rules_of_its_own, "fails"),
    (endorsed_twice_by_one, "fails"),
    (endorsed_by_a_stranger, "fails"),
    (endorsed_for_another, "fails"),
    (two_sums, "open"),
)


def finding(make: Attempt, expected: Expected, trials: int, directory: Path) -> list[Finding]:
    """Make an attempt so many times, with the rules left out and by the product's."""
    shares, guesses = [], []
    for trial in range(trials):
        with scene_in(directory, trial) as scene:
            shares.append([scene.found(vectors) for vectors in make(scene)])
            guesses.append(scene.guessed())
    free, ruled = np.array(shares).T
    words = (make.__doc__ or "").strip().rstrip(".")
    return [
        told(words, "without rules", free, guesses, "succeeds"),
        told(words, "by the product's rules", ruled, guesses, expected),
    ]


def _alone_with(scene: Scene, words: Callable[[bytes], Sequence[bytes]]) -> tuple[Vectors, Vectors]:
    """Ask an honest helper for its masks of the victim alone, against these endorsements."""
    consortium, victim = scene.consortium, [scene.victim]
    manifest = consortium.manifest(victim)
    consortium.verdicts(0, scene.everybody)
    masks = consortium.masks(0, manifest, words(_anything(consortium, manifest)), (2,))
    held = [consortium.held(scene.victim)]
    free = [consortium.open_without_rules(victim, manifest)]
    if masks:
        held.append(_with_own_seeds(consortium, victim, manifest, masks))
    return free, held


def _anything(consortium: Consortium, manifest: bytes) -> bytes:
    """The endorsement of the helper that colludes."""
    word = Endorsement(manifest=sha256(manifest), accepted=True, number=1)
    return consortium.endorsed_by(COLLUDING, word)


def _with_own_seeds(
    consortium: Consortium, reports: Sequence[Report], manifest: bytes, masks: bytes
) -> Integers:
    """Open a sum by the missing masks and the seeds of the helper that colludes."""
    plan = parse_body(open_envelope(manifest, "manifest"), Manifest)
    terms = [
        Term(member.coefficient, tuple(consortium.all_seeds(report, (COLLUDING,)).values()))
        for report, member in zip(reports, plan.members, strict=True)
    ]
    own = masks_of(terms, plan.count, plan.ring).tobytes()
    return consortium.summed(reports, manifest, (own, masks))
