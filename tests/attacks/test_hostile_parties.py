from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.attacks import cohorts, colluding, hostile, tampering
from benchmarks.attacks.consortium import BASE, SeedNumbers
from benchmarks.attacks.hostile import Attempt
from benchmarks.attacks.reports import Report
from benchmarks.attacks.scene import Scene, scene_in
from benchmarks.attacks.verdicts import Expected
from wire.chunks import sha256


def name_of(attempt: object) -> str:
    return getattr(attempt, "__name__", str(attempt))


@pytest.mark.parametrize(("lie", "claim"), hostile.ATTEMPTS, ids=name_of)
def test_a_coordinator_that_lies_learns_what_is_claimed_and_no_more(
    lie: Callable[[Scene], Attempt], claim: Expected, tmp_path: Path
) -> None:
    for finding in hostile.finding(lie, claim, 1, tmp_path):
        assert finding.holds, finding


@pytest.mark.parametrize(("collusion", "claim"), colluding.ATTEMPTS, ids=name_of)
def test_a_coordinator_with_a_helper_learns_what_is_claimed_and_no_more(
    collusion: colluding.Attempt, claim: Expected, tmp_path: Path
) -> None:
    for finding in colluding.finding(collusion, claim, 1, tmp_path):
        assert finding.holds, finding


@pytest.mark.parametrize(("change", "defence", "claim"), tampering.ATTEMPTS, ids=name_of)
def test_what_was_changed_or_sent_again_is_refused(
    change: Callable[[Scene], tampering.Tries], defence: str, claim: Expected, tmp_path: Path
) -> None:
    for finding in tampering.finding(change, defence, claim, tmp_path):
        assert finding.holds, finding


def test_counts_of_a_site_that_is_in_one_of_two_sums_are_their_difference(tmp_path: Path) -> None:
    assert cohorts.finding(1, tmp_path).outcome == "succeeds"  # docs/privacy.md says so


REASONS: list[tuple[Callable[[Scene], Attempt], str]] = [
    (hostile.alone, "asks for 5"),
    (hostile.sybils_of_one_site, "asks for 5"),
    (hostile.sybils_of_new_sites, "not accepted"),
    (hostile.sybils_of_its_own, "not accepted"),
    (hostile.dominating_weight, "asks for 5"),
    (hostile.vanishing_weights, "coefficient"),
    (hostile.own_bucket, "bucket 1"),
    (hostile.overlapping, "another manifest"),
    (hostile.other_model_for_the_victim, "not accepted"),
]


@pytest.mark.parametrize(("lie", "reason"), REASONS, ids=name_of)
def test_a_helper_says_which_rule_a_manifest_breaks(
    lie: Callable[[Scene], Attempt], reason: str, tmp_path: Path
) -> None:
    with scene_in(tmp_path, 0) as scene:
        attempt = lie(scene)
        for reports, manifest in attempt.wanted:
            scene.consortium.verdicts(0, reports, *attempt.bases)
            word, _ = scene.consortium.endorsement(0, manifest)
        assert not word.accepted
        assert reason in word.reason


def test_an_honest_sum_is_opened_exactly_by_any_two_helpers_and_again_the_same(
    tmp_path: Path,
) -> None:
    with scene_in(tmp_path, 0) as scene:
        consortium, everybody = scene.consortium, scene.everybody
        manifest = consortium.manifest(everybody)
        truth = consortium.open_without_rules(everybody, manifest)
        words = []
        for helper in range(3):
            consortium.verdicts(helper, everybody)
            first, envelope = consortium.endorsement(helper, manifest)
            again, _ = consortium.endorsement(helper, manifest)
            assert first == again
            words.append(envelope)
        pairs: list[tuple[int, SeedNumbers, int, SeedNumbers]] = [
            (0, (1, 2), 1, (0,)),
            (1, (0, 2), 2, (1,)),
            (2, (0, 1), 0, (2,)),
        ]
        for one, seeds, other, seed in pairs:
            two = [words[one], words[other]]
            parts = (
                consortium.masks(one, manifest, two, seeds),
                consortium.masks(other, manifest, two, seed),
            )
            assert consortium.masks(one, manifest, two, seeds) == parts[0]
            assert np.array_equal(consortium.summed(everybody, manifest, parts), truth)


def test_reports_that_are_sealed_in_another_order_join_no_sum_with_others(tmp_path: Path) -> None:
    with scene_in(tmp_path, 0) as scene:
        consortium = scene.consortium
        keys = [consortium.helper_keys[at].public.sealing for at in (1, 0, 2)]
        swapped, _ = tampering.resealed(consortium, scene.identities[0], scene.victim, keys)
        reports = [*scene.others, swapped]
        consortium.verdicts(0, reports)
        word, _ = consortium.endorsement(0, consortium.manifest(reports))
        assert not word.accepted
        assert word.refused == (swapped.digest,)


def test_a_coordinator_that_tells_two_models_of_one_version_is_alarmed_about(
    tmp_path: Path,
) -> None:
    with scene_in(tmp_path, 0) as scene:
        attempt = hostile.other_model_for_the_victim(scene)
        (reports, _), *_ = attempt.wanted
        scene.consortium.verdicts(0, reports, *attempt.bases)
        kinds = [kind for kind, _, _ in scene.consortium.offices[0].store.alarms()]
        assert kinds == ["other base"]


def test_a_restarted_helper_still_knows_what_it_promised(tmp_path: Path) -> None:
    with scene_in(tmp_path, 0) as scene:
        consortium, everybody = scene.consortium, scene.everybody
        consortium.verdicts(0, everybody)
        assert consortium.endorsement(0, consortium.manifest(everybody))[0].accepted
        consortium.restart(0)
        second = consortium.manifest(scene.others)
        assert not consortium.endorsement(0, second)[0].accepted


def test_a_header_names_the_vector_that_its_boxes_belong_to(tmp_path: Path) -> None:
    with scene_in(tmp_path, 0) as scene:
        victim, other = scene.victim, scene.others[0]
        assert sha256(victim.content) == victim.header.content.digest
        header = other.header
        moved = scene.consortium.signed(scene.identities[1], header, victim.content)
        assert isinstance(moved, Report)
        assert not tampering.arrives(moved)
        assert BASE.digest == header.base_digest
