"""A coordinator that wants one site's update out of sums that are meant to hide it.

Each attempt is a lie that it can tell with its own keys, or with those of whoever colludes.  It is
made twice: to helpers that sum whatever they are asked for, which takes nothing but the plain
arithmetic of masks, and to the product's.  All that comes out, and what the coordinator and one
helper hold anyway, is searched for the victim's rows by analytic inversion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.attacks.consortium import BASE, SITES
from benchmarks.attacks.reports import Report
from benchmarks.attacks.scene import Integers, Scene, scene_in
from benchmarks.attacks.verdicts import Expected, Finding, against_guessing
from wire.chunks import sha256
from wire.messages import Base

DEAD = Base(version=BASE.version, digest=sha256(b"another version 1, without gradients"))
DEAD_LATER = Base(version=2, digest=sha256(b"version 2, without gradients"))
AGAIN = Base(version=2, digest=sha256(b"version 2, the same weights"))


@dataclass(frozen=True)
class Attempt:
    """Sums that the coordinator wants, and what it makes of them.

    Attributes:
      wanted: reports and the manifest of each.
      deduce: from the sums to the victim's update, in any unit.
      bases: what it tells the helpers of versions.
    """

    wanted: Sequence[tuple[Sequence[Report], bytes]]
    deduce: Callable[[Sequence[Integers]], Integers]
    bases: tuple[Base, ...] = (BASE,)


def alone(scene: Scene) -> Attempt:
    """A manifest that is cut down to the victim."""
    return _one_sum(scene, [scene.victim])


def sybils_of_one_site(scene: Scene) -> Attempt:
    """Nine more agents, all enrolled at one other site, which send zeros."""
    return _one_sum(scene, [scene.victim, *scene.nothing_from([SITES[1]] * 9)])


def sybils_of_new_sites(scene: Scene) -> Attempt:
    """Nine sites that the enrolment authority has made up; it colludes."""
    invented = [f"invented-{at}" for at in range(9)]
    return _one_sum(scene, [scene.victim, *scene.nothing_from(invented)])


def sybils_of_its_own(scene: Scene) -> Attempt:
    """Agents at the charter's sites with credentials that the coordinator signed."""
    invented = scene.nothing_from(SITES[1:], scene.consortium.coordinator)
    return _one_sum(scene, [scene.victim, *invented])


def dominating_weight(scene: Scene) -> Attempt:
    """A coefficient of 1000 for the victim, 1 for everybody else."""
    return _one_sum(scene, scene.everybody, [1000] + [1] * 9)


def vanishing_weights(scene: Scene) -> Attempt:
    """Coefficients of 2^32 for everybody else: zero, in a ring of 32 bits."""
    return _one_sum(scene, scene.everybody, [1] + [1 << 32] * 9)


def own_bucket(scene: Scene) -> Attempt:
    """A robust rule's bucket for the victim alone."""
    manifest = scene.consortium.manifest(scene.everybody, None, [1] + [0] * 9)
    return Attempt([(scene.everybody, manifest)], lambda sums: np.split(sums[0], 2)[1])


def overlapping(scene: Scene) -> Attempt:
    """Everybody, and then everybody but the victim: the difference is the victim."""
    consortium = scene.consortium
    return Attempt(
        [(reports, consortium.manifest(reports)) for reports in (scene.everybody, scene.others)],
        _difference,
    )


def other_model_for_the_victim(scene: Scene) -> Attempt:
    """Version 1 is an honest model for the victim and a dead one for all others."""
    return _one_sum(scene, [scene.victim, *scene.dead_reports(DEAD)], bases=(BASE, DEAD))


def dead_model_next(scene: Scene) -> Attempt:
    """Everybody gets the same models, but the next one is dead, and others report on that."""
    return _one_sum(
        scene, [scene.victim, *scene.dead_reports(DEAD_LATER)], bases=(BASE, DEAD_LATER)
    )


def same_model_again(scene: Scene) -> Attempt:
    """The same weights as two versions; the victim is left out of the second sum."""
    second = scene.reports(base=AGAIN, sequence=2)[1:]
    consortium = scene.consortium
    wanted = [(each, consortium.manifest(each)) for each in (scene.everybody, second)]
    return Attempt(wanted, _difference, (BASE, AGAIN))


def large_site(scene: Scene) -> Attempt:
    """A victim with a thousand times the rows of the others, and weights to match.

    As a second try they are levelled as the helpers ask for: to five effective sites of ten.
    """
    reports = scene.reports([1000] + [1] * 9, sequence=2)
    shares = [1000] + [1] * 9, [3] + [1] * 9
    wanted = [(reports, scene.consortium.manifest(reports, each)) for each in shares]
    return Attempt(wanted, lambda sums: sums[0])


ATTEMPTS: tuple[tuple[Callable[[Scene], Attempt], Expected], ...] = (
    (alone, "fails"),
    (sybils_of_one_site, "fails"),
    (sybils_of_new_sites, "fails"),
    (sybils_of_its_own, "fails"),
    (dominating_weight, "fails"),
    (vanishing_weights, "fails"),
    (own_bucket, "fails"),
    (overlapping, "fails"),
    (other_model_for_the_victim, "fails"),
    (large_site, "fails"),
    (dead_model_next, "open"),
    (same_model_again, "open"),
)


def finding(
    make: Callable[[Scene], Attempt], expected: Expected, trials: int, directory: Path
) -> list[Finding]:
    """Make an attempt at helpers without rules and at the product's, so many times each."""
    free, ruled, guesses = [], [], []
    for trial in range(trials):
        with scene_in(directory, trial) as scene:
            attempt = make(scene)
            free.append(scene.found(_without_rules(scene, attempt)))
            ruled.append(scene.found(_by_rules(scene, attempt)))
            guesses.append(scene.guessed())
    words = (make.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return [
        told(words, "helpers without rules", free, guesses, "succeeds"),
        told(words, "the product's helpers", ruled, guesses, expected),
    ]


def told(
    attack: str, setting: str, shares: Sequence[float], guesses: Sequence[float], expected: Expected
) -> Finding:
    """A finding about shares of rows that were read, beside those that guessing gives."""
    share, guess = float(np.mean(shares)), float(np.mean(guesses))
    return Finding(
        attack=f"coordinator: {attack}",
        setting=setting,
        figure=share,
        beside=guess,
        unit="share of rows",
        detail="",
        outcome=against_guessing(share, guess),
        expected=expected,
    )


def _without_rules(scene: Scene, attempt: Attempt) -> list[Integers]:
    sums = [scene.consortium.open_without_rules(*wanted) for wanted in attempt.wanted]
    return [attempt.deduce(sums)]


def _by_rules(scene: Scene, attempt: Attempt) -> list[Integers]:
    """All that the coordinator has in the end."""
    consortium = scene.consortium
    sums = [
        consortium.open_by_rules(reports, manifest, *attempt.bases)
        for reports, manifest in attempt.wanted
    ]
    opened = [each for each in sums if each is not None]
    held = [consortium.held(scene.victim), *opened]
    return [*held, attempt.deduce(opened)] if len(opened) == len(sums) else held


def _one_sum(
    scene: Scene,
    reports: Sequence[Report],
    coefficients: Sequence[int] | None = None,
    bases: tuple[Base, ...] = (BASE,),
) -> Attempt:
    manifest = scene.consortium.manifest(reports, coefficients)
    return Attempt([(reports, manifest)], lambda sums: sums[0], bases)


def _difference(sums: Sequence[Integers]) -> Integers:
    return sums[0] - sums[1]
