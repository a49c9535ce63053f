"""Contribution accounting: who was in it, how much better it got, and what each site brought."""

import contextlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.contribution import Plant, auc, contributions, simulate
from coordinator.aggregate import Member
from coordinator.contribution import (
    MAX_BYTES,
    MAX_SITES,
    Accounting,
    ContributionSettings,
    Observation,
    SiteContribution,
    estimate,
    from_bytes,
    improvement,
    membership,
    shares,
)
from wire.errors import MalformedError, TooLargeError, WireError
from wire.figures import figure
from wire.messages import Errors, Evaluation
from wire.tally import tally_of

SETTINGS = ContributionSettings(least_versions=5)
ENDLESS = ContributionSettings(least_versions=5, half_life_versions=1e6)


def random_history(
    worths: dict[str, float], versions: int, *, noise: float, seed: int = 0, goal: int = 5
) -> list[Observation]:
    """Versions of `goal` random sites with random shares, on a curve that flattens."""
    rng = np.random.default_rng(seed)
    names = sorted(worths)
    history = []
    for version in range(1, versions + 1):
        members = rng.choice(names, goal, replace=False)
        given = shares([(str(site), int(rng.integers(50, 150))) for site in members])
        drop = 0.5 / version + sum(share * worths[site] for site, share in given.items())
        history.append(Observation(version, given, drop + noise * rng.normal(), 500))
    return history


def after(history: list[Observation], settings: ContributionSettings = SETTINGS) -> Accounting:
    sums = Accounting(settings)
    for observation in history:
        sums = sums.add(observation)
    return sums


def known(estimates: list[SiteContribution]) -> dict[str, tuple[float, float]]:
    return {
        each.site: (each.value, each.error)
        for each in estimates
        if each.value is not None and each.error is not None
    }


def spread_out(sites: int, scale: float, seed: int = 1) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {f"site-{at:02d}": scale * float(rng.normal()) for at in range(sites)}


# Who was in it


def test_the_updates_of_a_site_are_added_up_to_its_share_of_the_weight() -> None:
    members = [
        Member(agent=agent, site=site, base_version=3, weight=weight, coefficient=1)
        for agent, site, weight in [("p1", "a", 100), ("p2", "a", 50), ("m1", "b", 50)]
    ]
    assert membership(members) == {"a": 0.75, "b": 0.25}


def test_a_buffer_without_updates_has_no_shares() -> None:
    assert membership([]) == {}


# How much better it got


def test_the_improvement_is_the_drop_of_the_mean_loss_weighted_by_rows() -> None:
    before = {"a": (1.0, 100), "b": (0.9, 300)}
    now = {"a": (0.8, 100), "b": (0.9, 300)}
    drop, rows = improvement(before, now, judges=1.0) or (0.0, 0)
    assert drop == pytest.approx(0.05)
    assert rows == 400


def test_only_who_reported_on_both_versions_judges() -> None:
    before = {"a": (1.0, 100), "left": (5.0, 100)}
    now = {"a": (0.75, 100), "came": (9.0, 100)}
    assert improvement(before, now, judges=1.0) == (0.25, 100)
    assert improvement({"left": (1.0, 9)}, {"came": (1.0, 9)}) is None


def test_reporters_with_the_larger_losses_do_not_judge() -> None:
    before = {"a": (0.5, 100), "b": (0.6, 100), "noisy": (2.0, 100), "liar": (1e20, 100)}
    now = {"a": (0.4, 100), "b": (0.5, 100), "noisy": (3.0, 100), "liar": (0.0, 100)}
    drop, rows = improvement(before, now) or (0.0, 0)
    assert drop == pytest.approx(0.1)
    assert rows == 200


def test_a_claim_of_endless_rows_does_not_make_a_single_judge() -> None:
    names = ["a", "b", "c", "d", "e"]
    before = dict.fromkeys(names, (0.5, 100)) | {"liar": (0.5, 1 << 39)}
    now = dict.fromkeys(names, (0.4, 100)) | {"liar": (0.9, 1 << 39)}
    measured = improvement(before, now, judges=1.0)
    assert measured is not None
    assert measured[0] == pytest.approx((5 * 0.1 - 4 * 0.4) / 9)


def test_a_loss_that_is_no_number_does_not_judge() -> None:
    before = {"a": (0.5, 100), "b": (float("nan"), 100), "c": (float("inf"), 100)}
    now = {"a": (0.25, 100), "b": (0.1, 100), "c": (0.1, 100)}
    assert improvement(before, now, judges=1.0) == (0.25, 100)


def mean_loss(evaluation: Evaluation) -> tuple[float, int]:
    """What the coordinator's record keeps of an evaluation."""
    tally = tally_of(evaluation)
    return figure("loss", tally) or 0.0, tally.rows


@pytest.mark.parametrize(
    "counted",
    [
        Evaluation(digest=bytes(32), positives=(3, 1), negatives=(2, 4)),
        Evaluation(digest=bytes(32), confusion=(4, 1, 2, 3)),
        Evaluation(
            digest=bytes(32),
            errors=Errors(rows=10, error=0, absolute=1, squared=1, label=1, label_squared=1),
        ),
    ],
)
def test_the_rows_of_each_kind_of_evaluation_are_counted(counted: Evaluation) -> None:
    before, now = (
        {"a/press": mean_loss(msgspec.structs.replace(counted, loss=loss))} for loss in (8.0, 5.0)
    )
    drop, rows = improvement(before, now) or (0.0, 0)
    assert drop == pytest.approx(0.3)
    assert rows == 10


def test_an_evaluation_without_rows_is_nobodys() -> None:
    empty = {"a/press": (0.0, 0)}
    assert tally_of(Evaluation(digest=bytes(32), loss=1.0)).rows == 0
    assert improvement(empty, empty) is None


# What each site brings


def test_worths_are_found_relative_to_the_average_at_the_usual_share() -> None:
    worths = spread_out(12, 0.1)
    found = known(estimate(random_history(worths, 400, noise=0.0), ENDLESS))
    centred = np.array([worths[site] for site in sorted(worths)])
    centred -= centred.mean()
    values = np.array([found[site][0] for site in sorted(worths)])
    # Five members: a site's usual share is a fifth.
    assert values == pytest.approx(centred / 5, abs=0.003)


def test_the_true_worth_is_within_two_errors_nineteen_times_out_of_twenty() -> None:
    inside = []
    for seed in range(12):
        worths = spread_out(20, 0.05, seed=seed)
        found = known(estimate(random_history(worths, 120, noise=0.02, seed=seed), ENDLESS))
        mean = np.mean(list(worths.values()))
        inside += [
            abs(value - (worths[site] - mean) / 5) < 2 * error
            for site, (value, error) in found.items()
        ]
    assert 0.9 <= np.mean(inside) <= 0.995


def test_errors_shrink_with_the_versions() -> None:
    history = random_history(spread_out(20, 0.05), 320, noise=0.03)
    errors = [
        np.mean([error for _, error in known(estimate(history[:number], ENDLESS)).values()])
        for number in (40, 320)
    ]
    assert errors[1] < 0.6 * errors[0]


def test_without_any_difference_between_sites_nobody_is_called_better() -> None:
    for seed in range(5):
        history = random_history(spread_out(20, 0.0), 200, noise=0.05, seed=seed)
        found = known(estimate(history, SETTINGS))
        assert all(abs(value) < 3 * error for value, error in found.values())


def test_no_value_is_given_before_a_site_was_in_enough_versions() -> None:
    history = random_history(spread_out(10, 0.1), 60, noise=0.01)
    late = [
        Observation(version, {"late": 0.2, "site-00": 0.8}, 0.01, 500) for version in range(61, 65)
    ]
    newcomer = next(each for each in estimate(history + late, SETTINGS) if each.site == "late")
    assert newcomer == SiteContribution("late", None, None, versions=4, as_of=64)
    fifth = Observation(65, {"late": 0.2, "site-00": 0.8}, 0.01, 500)
    assert "late" in known(estimate([*history, *late, fifth], SETTINGS))


def test_a_site_may_join_later_and_a_bad_one_is_found_out() -> None:
    worths = spread_out(10, 0.01)
    history = random_history(worths, 150, noise=0.005)
    worths["zz-late"] = -0.3
    later = random_history(worths, 100, noise=0.005, seed=5)
    moved = [replace(each, version=each.version + 150) for each in later]
    found = known(estimate(history + moved, SETTINGS))
    value, error = found["zz-late"]
    assert value == min(value for value, _ in found.values())
    assert value + 5 * error < 0


def test_sites_that_are_always_together_share_their_worth_and_stay_uncertain() -> None:
    worths = spread_out(10, 0.05) | {"left": -0.2, "right": 0.0}
    rng = np.random.default_rng(3)
    history = []
    for version in range(1, 301):
        others = rng.choice(sorted(worths)[2:10], 3, replace=False)
        pair = ["left", "right"] if rng.random() < 0.4 else ["site-00", "site-01"]
        given = shares([(str(site), 100) for site in [*others, *pair]])
        drop = sum(share * worths[site] for site, share in given.items())
        history.append(Observation(version, given, drop + 0.005 * rng.normal(), 500))
    found = known(estimate(history, ENDLESS))
    assert found["left"] == pytest.approx(found["right"], rel=1e-6)
    assert found["left"][1] > 3 * found["site-05"][1]


def test_sites_whose_shares_never_change_are_given_no_value() -> None:
    rng = np.random.default_rng(0)
    history = [
        Observation(version, {"a": 0.5, "b": 0.5}, float(rng.normal()), 100)
        for version in range(1, 50)
    ]
    assert all(each.value is None for each in estimate(history, SETTINGS))


def test_a_single_monstrous_version_does_not_decide() -> None:
    worths = spread_out(12, 0.05)
    history = random_history(worths, 200, noise=0.01)
    monster = replace(history[150], improvement=-1e9)
    calm = known(estimate(history, SETTINGS))
    shaken = known(estimate([*history[:150], monster, *history[151:]], SETTINGS))
    order = [sorted(found, key=lambda site: found[site][0]) for found in (calm, shaken)]
    places = np.array([[each.index(site) for site in sorted(worths)] for each in order])
    assert np.corrcoef(places)[0, 1] > 0.8


def test_old_versions_are_forgotten() -> None:
    good, bad = {"a": 0.2, "b": 0.0, "c": 0.0, "d": 0.0}, {"a": -0.2, "b": 0.0, "c": 0.0, "d": 0.0}
    before = random_history(good, 200, noise=0.005, goal=2)
    later = [
        replace(each, version=each.version + 200)
        for each in random_history(bad, 200, noise=0.005, goal=2, seed=9)
    ]
    quick = ContributionSettings(half_life_versions=30, least_versions=5)
    found = known(estimate(before + later, quick))
    assert found["a"][0] < -0.04


def test_the_sums_are_as_large_after_a_thousand_versions_as_after_a_hundred() -> None:
    history = random_history(spread_out(15, 0.05), 1000, noise=0.01)
    sizes = [len(after(history[:number]).to_bytes()) for number in (100, 1000)]
    assert abs(sizes[1] - sizes[0]) < 64


def test_adding_leaves_the_sums_before_as_they_were() -> None:
    history = random_history(spread_out(8, 0.05), 41, noise=0.01)
    sums = after(history[:40])
    written = sums.to_bytes()
    sums.add(history[40])
    assert sums.to_bytes() == written


def test_beyond_the_limit_the_site_least_seen_lately_is_dropped() -> None:
    sums = Accounting(SETTINGS)
    per_version = 100
    for version in range(1, MAX_SITES // per_version + 1):
        first = (version - 1) * per_version
        names = [f"s{first + at:04d}" for at in range(per_version)]
        sums = sums.add(Observation(version, shares([(n, 1) for n in names]), 0.1, 10))
    assert len(sums.sites) == MAX_SITES
    oldest = shares([(f"s{at:04d}", 1) for at in range(1, per_version)] + [("new", 1)])
    sums = sums.add(Observation(99, oldest, 0.1, 10))
    assert len(sums.sites) == MAX_SITES
    assert "new" in sums.sites
    assert "s0000" not in sums.sites
    assert len(sums.to_bytes()) < MAX_BYTES


# What is refused


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Observation(3, {"a": 1.0}, 0.1, 10), "in order, once"),
        (Observation(4, {"a": 0.5}, 0.1, 10), "add up to 0.5"),
        (Observation(4, {}, 0.1, 10), "add up to 0"),
        (Observation(4, {"a": 1.5, "b": -0.5}, 0.1, 10), "not positive"),
        (Observation(4, {"a": float("nan")}, 0.1, 10), "not positive"),
        (Observation(4, {"a": 1.0}, float("inf"), 10), "leave it out"),
        (Observation(4, {"a": 1.0}, 0.1, 0), "leave it out"),
    ],
)
def test_an_observation_that_can_not_be_is_refused(wrong: Observation, says: str) -> None:
    sums = Accounting(SETTINGS).add(Observation(3, {"a": 1.0}, 0.1, 10))
    with pytest.raises(ValueError, match=says):
        sums.add(wrong)


def test_sums_that_were_written_and_read_go_on_bit_for_bit() -> None:
    history = random_history(spread_out(9, 0.05), 80, noise=0.01)
    sums = after(history[:50])
    read = from_bytes(sums.to_bytes(), SETTINGS)
    for observation in history[50:]:
        sums, read = sums.add(observation), read.add(observation)
    assert read.to_bytes() == sums.to_bytes()
    assert read.estimate() == sums.estimate()


@given(st.binary(max_size=300))
def test_any_bytes_are_sums_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        from_bytes(data, SETTINGS).estimate()


@given(st.data())
def test_altered_sums_are_sums_or_a_wire_error(data: st.DataObject) -> None:
    written = bytearray(after(random_history(spread_out(6, 0.1), 12, noise=0.1)).to_bytes())
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] = data.draw(st.integers(0, 255))
    try:
        found = from_bytes(bytes(written), SETTINGS).estimate()
    except WireError:
        return
    assert all(each.value is None or np.isfinite(each.value) for each in found)


@pytest.mark.parametrize("field", ["gram", "moment", "usual", "level"])
def test_sums_with_a_number_that_none_can_be_are_refused(field: str) -> None:
    sums = after(random_history(spread_out(6, 0.1), 12, noise=0.1))
    broken = getattr(sums, field).copy()
    broken.flat[0] = np.nan
    with pytest.raises(MalformedError, match=field):
        from_bytes(replace(sums, **{field: broken}).to_bytes(), SETTINGS)


def test_too_many_bytes_are_not_read() -> None:
    with pytest.raises(TooLargeError, match="at most"):
        from_bytes(bytes(MAX_BYTES + 1), SETTINGS)


# In training


def test_noisy_sites_are_told_from_clean_ones_by_what_their_updates_did() -> None:
    plant = Plant(sites=20, noisy=6, goal=5, versions=150, mix=1.0)
    run = simulate(plant, seed=2)
    values = {site: value for site, (value, _) in known(contributions(run.history)).items()}
    assert auc(run, values) >= 0.9
    everybody = contributions(run.history, judges=1.0)
    judged_by_all = {site: value for site, (value, _) in known(everybody).items()}
    assert auc(run, judged_by_all) < auc(run, values) - 0.2
