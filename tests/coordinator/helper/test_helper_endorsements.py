"""Every manifest that a helper must refuse, each otherwise well-formed; and its one promise."""

from typing import Any

import msgspec
import pytest

from coordinator.helper.store import Store
from tests.coordinator.helper.secure_trial import BASE, NAMES, Report, Trial
from wire.chunks import sha256
from wire.errors import WireError
from wire.messages import Manifest, UpdateHeader
from wire.signing import PrivateKey

NOTARY = NAMES[0]


def refusal(trial: Trial, manifest: Manifest) -> str:
    """Why the notary does not endorse a manifest; nothing is promised by that."""
    before = trial.offices[NOTARY].store.known().endorsed
    word = trial.put(NOTARY, trial.say(manifest))
    assert (word.accepted, word.number) == (False, 0)
    assert trial.offices[NOTARY].store.known().endorsed == before
    return word.reason


def shares(*coefficients: int) -> Any:
    """The same members with these coefficients."""

    def changed(manifest: Manifest) -> Manifest:
        members = [
            msgspec.structs.replace(member, coefficient=share)
            for member, share in zip(manifest.members, coefficients, strict=True)
        ]
        return msgspec.structs.replace(manifest, members=tuple(members))

    return changed


def from_sites(trial: Trial, *sites: str, **others: Any) -> list[Report]:
    """An accepted update of one agent for each of these sites, which may repeat."""
    reports = [
        trial.update(trial.gateway(f"press-{at}", site), **others) for at, site in enumerate(sites)
    ]
    trial.accepted(reports)
    return reports


def test_a_manifest_by_the_rules_is_endorsed_for_ever(trial: Trial) -> None:
    envelope = trial.say(trial.manifest(from_sites(trial, "north", "south", "east")))
    word = trial.put(NOTARY, envelope)
    assert (word.accepted, word.number, word.manifest) == (True, 1, sha256(envelope))
    assert trial.put(NOTARY, envelope) == word
    trial.restart(NOTARY)
    assert trial.put(NOTARY, envelope) == word
    assert trial.offices[NOTARY].store.known().endorsed == 1


def test_fewer_sites_than_k_min_are_refused(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south")
    assert "bucket 0 has 2 sites" in refusal(trial, trial.manifest(reports))


def test_two_agents_of_one_site_do_not_count_as_two(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "south")
    assert "bucket 0 has 2 sites" in refusal(trial, trial.manifest(reports))


def test_one_agent_with_credentials_of_two_sites_does_not_count_as_two(trial: Trial) -> None:
    here = trial.gateway("mover", "north")
    there = trial.gateway("mover", "south", serial=2)
    others = from_sites(trial, "east", "west")
    reports = [trial.update(here), trial.update(there, sequence=2)]
    trial.accepted(reports)
    reason = refusal(trial, trial.manifest([*others, *reports]))
    assert reason == "mover counts for two sites, north and south"


def test_a_site_may_not_stand_in_two_buckets(trial: Trial) -> None:
    sites = ("north", "south", "east", "north", "west", "hill")
    reports = from_sites(trial, *sites)
    manifest = trial.manifest(reports, [0, 0, 0, 1, 1, 1])
    assert "site north is in two buckets" in refusal(trial, manifest)


def test_each_bucket_needs_its_own_sites(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "east", "west", "hill")
    manifest = trial.manifest(reports, [0, 0, 0, 1, 1])
    assert "bucket 1 has 2 sites" in refusal(trial, manifest)


def test_a_report_that_stands_twice_is_refused(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "east")
    manifest = trial.manifest(reports)
    twice = msgspec.structs.replace(manifest, members=(*manifest.members, manifest.members[0]))
    assert refusal(trial, twice) == "a report stands twice in it"


@pytest.mark.parametrize(
    ("others", "coefficients"),
    [
        pytest.param({}, (1000, 10, 10), id="one dominates"),
        pytest.param({}, (10, 10, 9), id="too small"),
        pytest.param({}, (11, 11, 11), id="all more than their rows"),
        pytest.param({"base_version": 6}, (10, 10, 10), id="staleness is not counted"),
        pytest.param({"weight": 500}, (500, 500, 500), id="above the cap of weights"),
    ],
)
def test_a_forged_coefficient_is_refused(
    trial: Trial, others: dict[str, Any], coefficients: tuple[int, ...]
) -> None:
    if "base_version" in others:
        # Version 6 of which everybody was told the same, at a staleness cap of 0: due is 10 div 2.
        with trial.offices[NOTARY].store.transaction():
            trial.offices[NOTARY].store.keep_base(0, 6, BASE.digest)
        reports = [
            trial.update(trial.gateway(f"press-{site}", site), **others)
            for site in ("north", "south", "east")
        ]
        trial.accepted(reports, [NOTARY])
    else:
        reports = from_sites(trial, "north", "south", "east", **others)
    manifest = trial.manifest(reports, staleness_cap=0)
    honest = [member.coefficient for member in manifest.members]
    assert tuple(honest) != coefficients
    reason = refusal(trial, shares(*coefficients)(manifest))
    assert "coefficient is not what" in reason or "weigh as" in reason
    assert trial.put(NOTARY, trial.say(manifest)).accepted


def test_a_weight_that_dominates_is_levelled_or_refused(trial: Trial) -> None:
    """999 rows beside 10 and 10: in the plain sum the high digits are one site's."""
    heavy = trial.update(trial.gateway("press-9", "hill"), weight=99)
    light = from_sites(trial, "north", "south")
    trial.accepted([heavy])
    manifest = trial.manifest([heavy, *light])
    reason = refusal(trial, shares(99, 10, 10)(manifest))
    assert "has 3 sites, which weigh as" in reason
    assert trial.put(NOTARY, trial.say(manifest)).accepted


def test_a_sum_that_could_leave_the_ring_is_refused(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "east", ring=16, weight=100)
    assert refusal(trial, trial.manifest(reports)) == "the sum could overflow the ring"
    fitting = trial.manifest(reports, weight_cap=80)
    assert trial.put(NOTARY, trial.say(fitting)).accepted


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"count": 4}, "count 3, not 4"),
        ({"ring": 16}, "ring 32, not 16"),
        ({"scale": 0.5}, "scale 0.01, not 0.5"),
        ({"bits": 4}, "bits 8, not 4"),
        ({"lineage": 1}, "lineage 0, not 1"),
        ({"subject": bytes([1] * 32)}, "subject 0000000000000000…, not 0101010101010101…"),
        ({"purpose": "evaluation"}, "purpose update, not evaluation"),
    ],
)
def test_members_that_are_not_what_the_manifest_says_are_refused(
    trial: Trial, others: dict[str, Any], reason: str
) -> None:
    manifest = trial.manifest(from_sites(trial, "north", "south", "east"))
    assert reason in refusal(trial, msgspec.structs.replace(manifest, **others))


def test_the_members_that_stand_in_the_way_are_named(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "east")
    other = trial.update(trial.gateway("press-9", "hill"), lineage=1)
    trial.accepted([other])
    word = trial.put(NOTARY, trial.say(trial.manifest([*reports, other])))
    assert word.refused == (other.digest,)


def test_a_member_that_was_not_accepted_is_refused(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "east")
    unseen = trial.update(trial.gateway("press-9", "hill"))
    word = trial.put(NOTARY, trial.say(trial.manifest([*reports, unseen])))
    assert (word.accepted, word.refused) == (False, (unseen.digest,))
    assert word.reason == "1 members were not accepted by this helper"


def test_a_report_is_in_one_manifest_only_whatever_else_is_in_it(trial: Trial) -> None:
    """Two sums that differ by one report give that report away."""
    reports = from_sites(trial, "north", "south", "east", "west")
    first = trial.put(NOTARY, trial.say(trial.manifest(reports)))
    assert first.accepted
    word = trial.put(NOTARY, trial.say(trial.manifest(reports[:3])))
    assert not word.accepted
    assert word.reason == "3 members are in another manifest that was endorsed"
    assert set(word.refused) == {report.digest for report in reports[:3]}


def test_no_two_pairs_of_helpers_endorse_overlapping_manifests(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "east", "west")
    all_four, three = trial.say(trial.manifest(reports)), trial.say(trial.manifest(reports[:3]))
    yes = {
        (at, which): trial.put(name, envelope).accepted
        for which, order in (("four", NAMES), ("three", tuple(reversed(NAMES))))
        for at, name in enumerate(order[:2])
        for envelope in ([all_four] if which == "four" else [three])
    }
    assert sum(yes[at, "four"] for at in range(2)) == 2
    assert sum(yes[at, "three"] for at in range(2)) == 1


def test_a_manifest_of_another_epoch_is_refused(trial: Trial) -> None:
    manifest = trial.manifest(from_sites(trial, "north", "south", "east"), epoch=2)
    assert refusal(trial, manifest) == "made under charter 2; this helper's is 1"
    trial.charter = msgspec.structs.replace(trial.charter, epoch=2)
    trial.offices[NOTARY].hear_charter(trial.charter_envelope)
    assert trial.put(NOTARY, trial.say(manifest)).accepted


def test_a_charter_with_a_larger_k_min_holds_at_once_and_after_a_restart(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "east")
    older = trial.charter
    trial.charter = msgspec.structs.replace(older, epoch=2, k_min=4)
    trial.offices[NOTARY].hear_charter(trial.charter_envelope)
    trial.charter = older  # the file of the administrator
    trial.restart(NOTARY)
    assert "asks for 4" in refusal(trial, trial.manifest(reports, epoch=2))


def test_a_manifest_that_the_coordinator_did_not_sign_is_not_answered(trial: Trial) -> None:
    manifest = trial.manifest(from_sites(trial, "north", "south", "east"))
    for envelope in (
        trial.say(manifest, PrivateKey.generate()),
        trial.sealed_by("union", manifest),
    ):
        with pytest.raises(WireError):
            trial.put(NOTARY, envelope)
    assert trial.offices[NOTARY].store.known().endorsed == 0


def test_a_helper_that_the_charter_does_not_list_endorses_nothing(trial: Trial) -> None:
    reports = from_sites(trial, "north", "south", "east")
    others = (*trial.charter.helpers[1:], trial.charter.helpers[0])
    stranger = msgspec.structs.replace(
        others[2], name="stranger", signing=bytes([1] * 32), sealing=bytes([2] * 32)
    )
    trial.charter = msgspec.structs.replace(trial.charter, epoch=2, helpers=(*others[:2], stranger))
    trial.offices[NOTARY].hear_charter(trial.charter_envelope)
    reason = refusal(trial, trial.manifest(reports))
    assert "the charter lists no helper notary" in reason
    assert not any(verdict.accepted for verdict in trial.show(NOTARY, reports))


def test_members_sealed_under_charters_with_another_order_do_not_mix(trial: Trial) -> None:
    before = from_sites(trial, "north", "south", "east")
    turned = tuple(reversed(trial.charter.helpers))
    trial.charter = msgspec.structs.replace(trial.charter, epoch=2, helpers=turned)
    trial.offices[NOTARY].hear_charter(trial.charter_envelope)
    after = [trial.update(trial.gateway(f"mill-{site}", site)) for site in ("west", "hill")]
    assert all(verdict.accepted for verdict in trial.show(NOTARY, after))
    reason = refusal(trial, trial.manifest([*before, *after]))
    assert reason == "members were sealed to this helper in two places, 0 and 2"


def test_figures_are_summed_in_one_bucket_of_one_subject(trial: Trial) -> None:
    reports = [
        trial.figures(trial.gateway(f"press-{at}", f"site-{at}"), subject=bytes([at % 2] * 32))
        for at in range(6)
    ]
    trial.accepted(reports)
    mixed = trial.manifest(reports)
    assert "3 members are of another kind than the manifest: subject" in refusal(trial, mixed)
    one = reports[::2]
    assert trial.put(NOTARY, trial.say(trial.manifest(one))).accepted
    again = trial.figures(one[0].gateway, (1, 1), subject=bytes(32))
    (verdict,) = trial.show(NOTARY, [again])
    assert "was shown under another header" in verdict.reason


def test_masks_that_no_content_can_hold_are_refused(trial: Trial) -> None:
    reports = []
    for at in range(6):
        small = trial.update(trial.gateway(f"press-{at}", f"site-{at}"))
        assert isinstance(small.header, UpdateHeader)
        large = msgspec.structs.replace(small.header.content, size=200 << 20)
        header = msgspec.structs.replace(small.header, content=large)
        reports.append(trial.signed(small.gateway, header))
    trial.accepted(reports)
    two = trial.manifest(reports, [0, 0, 0, 1, 1, 1])
    assert refusal(trial, two) == "its masks would have 419430400 bytes; at most 268435456"
    assert trial.put(NOTARY, trial.say(trial.manifest(reports))).accepted


def test_killed_after_the_promise_it_says_the_same_and_nothing_else(trial: Trial) -> None:
    """The answer was never sent: what a power cut after the commit looks like."""
    reports = from_sites(trial, "north", "south", "east", "west")
    four, three = trial.say(trial.manifest(reports)), trial.say(trial.manifest(reports[:3]))
    said = trial.put(NOTARY, four)
    copy = trial.directory / "after the cut"
    copy.mkdir()
    for file in (trial.directory / NOTARY).iterdir():  # as the disk is now, with its log
        (copy / file.name).write_bytes(file.read_bytes())
    trial.offices[NOTARY].store.close()
    trial.offices[NOTARY] = trial.open(NOTARY, copy)
    assert not trial.put(NOTARY, three).accepted
    assert trial.put(NOTARY, four) == said


def test_killed_before_the_promise_is_durable_nothing_was_promised(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = from_sites(trial, "north", "south", "east", "west")
    real = Store.promise

    def cut(self: Store, *promise: Any) -> int:
        real(self, *promise)
        raise KeyboardInterrupt  # inside of the transaction

    monkeypatch.setattr(Store, "promise", cut)
    with pytest.raises(KeyboardInterrupt):
        trial.put(NOTARY, trial.say(trial.manifest(reports)))
    monkeypatch.undo()
    trial.restart(NOTARY)
    word = trial.put(NOTARY, trial.say(trial.manifest(reports[:3])))
    assert (word.accepted, word.number) == (True, 1)
