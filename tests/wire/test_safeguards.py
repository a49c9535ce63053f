"""Which policies keep their promises about privacy, and which reach a floor."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.messages import Policy, Safeguards, Spent
from wire.safeguards import below, own_deviation, problems
from wire.sparse import problem_with
from wire.spent import LARGEST, RENYI_ORDERS, added, highest

PRIVATE = Policy(privacy="update", noise_multiplier=1.0, clip_norm=0.5, scale=1e-3, bits=16)
SHARED = Policy(
    privacy="update",
    protection="masked",
    noise_multiplier=1.0,
    noise_sites=4,
    weight_cap=1,
    clip_norm=0.5,
    scale=1e-3,
    bits=16,
)


def changed(policy: Policy, **changes: object) -> Policy:
    return msgspec.structs.replace(policy, **changes)


def fields(policy: Policy, k_min: int = 4) -> list[str]:
    return [field for field, _ in problems(policy, k_min=k_min)]


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        PRIVATE,
        SHARED,
        Policy(privacy="record", noise_multiplier=0.7),
        changed(PRIVATE, protection="encrypted"),
        Policy(kept_share=0.1),
    ],
)
def test_a_policy_that_holds_together_has_no_problems(policy: Policy) -> None:
    assert fields(policy) == []


@pytest.mark.parametrize(
    ("policy", "field", "words"),
    [
        (changed(PRIVATE, noise_multiplier=0.0), "noise_multiplier", "without noise"),
        (Policy(noise_multiplier=1.0), "noise_multiplier", "adds no noise"),
        (changed(PRIVATE, kept_share=0.5), "kept_share", "differential privacy"),
        (Policy(protection="masked", kept_share=0.5), "kept_share", "masks"),
        (Policy(protection="encrypted", kept_share=0.5), "kept_share", "kept_share = 1"),
        (changed(PRIVATE, calibration=0.5), "calibration", "remembers"),
        (Policy(kept_share=0.5, calibration=0.5), "kept_share", "corrected twice"),
        (changed(PRIVATE, clip_norm=0.0), "clip_norm", "clips every delta"),
        (changed(PRIVATE, bits=8), "scale", "3 deviations"),
        (changed(SHARED, protection="none"), "noise_sites", "nobody sees one of them alone"),
        (changed(SHARED, protection="encrypted"), "noise_sites", "masked"),
        (changed(SHARED, privacy="record"), "noise_sites", "masked"),
        (changed(SHARED, noise_sites=5), "noise_sites", "a sum that may have 4"),
        (changed(SHARED, weight_cap=2), "weight_cap", "must be 1"),
        (changed(SHARED, scale=0.2), "scale", "at most 0.125"),
        (changed(SHARED, scale=8e-5), "bits", "never saturate"),
    ],
)
def test_a_policy_that_contradicts_itself_is_named_by_its_field(
    policy: Policy, field: str, words: str
) -> None:
    found = dict(problems(policy, k_min=4))
    assert words in found[field]


def test_every_site_adds_its_part_of_the_variance() -> None:
    assert own_deviation(PRIVATE) == 0.5
    assert own_deviation(SHARED) == 0.25
    assert own_deviation(Policy(privacy="record", noise_multiplier=1.0)) == 0.0
    assert own_deviation(Policy()) == 0.0


@pytest.mark.parametrize(
    ("least", "policy", "words"),
    [
        (Safeguards(privacy="record"), PRIVATE, "privacy is update, and record is asked for"),
        (Safeguards(privacy="update"), Policy(), "privacy is none"),
        (Safeguards(protection="masked"), Policy(protection="encrypted"), "protection is enc"),
        (Safeguards(protection="encrypted"), SHARED, "protection is masked"),
        (Safeguards(noise_multiplier=1.5), PRIVATE, "noise_multiplier is 1, and at least 1.5"),
    ],
)
def test_a_floor_is_met_by_its_own_kind_alone(
    least: Safeguards, policy: Policy, words: str
) -> None:
    assert words in below(policy, least)


def test_what_gives_more_than_a_floor_is_enough() -> None:
    assert below(Policy(), Safeguards()) == ""
    assert below(SHARED, Safeguards()) == ""
    assert below(SHARED, Safeguards(protection="masked", privacy="update")) == ""
    assert below(PRIVATE, Safeguards(privacy="update", noise_multiplier=1.0)) == ""


@given(
    st.sampled_from(["none", "record", "update"]),
    st.sampled_from(["none", "masked", "encrypted"]),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
)
def test_problems_say_of_sparse_updates_what_sparse_updates_say(
    privacy: str, protection: str, share: float, beta: float
) -> None:
    policy = Policy(
        privacy=privacy,  # type: ignore[arg-type]
        protection=protection,  # type: ignore[arg-type]
        kept_share=share,
        calibration=beta,
    )
    said = problem_with(policy, is_private=privacy != "none", is_masked=protection != "none")
    assert dict(problems(policy, k_min=1)).get("kept_share", "") == said


def test_a_sum_of_rounded_shares_is_the_rounded_sum_of_gaussians() -> None:
    """At two steps of deviation, the least that is allowed, nothing shows how it was shared."""
    rng = np.random.default_rng(1)
    sites, draws, deviation, delta = 4, 400_000, 2.0, 0.3
    shares = delta + deviation * rng.standard_normal((sites, draws))
    rounded = np.floor(shares + rng.random(shares.shape)).sum(axis=0)
    whole = sites * delta + deviation * np.sqrt(sites) * rng.standard_normal(draws)
    whole += rng.uniform(-0.5, 0.5, (2 * sites - 1, draws)).sum(axis=0)
    values = np.arange(-12, 16)
    counts = [
        np.array([np.sum(each == value) for value in values])
        for each in (rounded, np.floor(whole + 0.5))
    ]
    chi_squared = float((np.square(counts[0] - counts[1]) / (counts[0] + counts[1])).sum())
    assert chi_squared < 80  # 27 degrees of freedom: once in 2e6 seeds


# Marks

marks = st.builds(
    Spent,
    gaussian=st.floats(0, 1e12),
    sampled=st.one_of(st.just(()), st.tuples(*[st.floats(0, 1e12)] * len(RENYI_ORDERS))),
    releases=st.integers(0, 1 << 40),
)


@given(marks, marks)
def test_the_highest_of_two_marks_is_at_least_both_and_made_of_them(one: Spent, two: Spent) -> None:
    top = highest(one, two)
    assert top == highest(two, one) == highest(top, one)
    assert top.gaussian in (one.gaussian, two.gaussian)
    assert highest(top, added(one, Spent())) == top
    assert top.releases == max(one.releases, two.releases)


@given(marks, marks)
def test_what_is_added_never_lowers_a_mark_and_stays_in_range(one: Spent, two: Spent) -> None:
    both = added(one, two)
    assert highest(both, one) == both
    assert max((both.gaussian, *both.sampled)) <= LARGEST
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(both), type=Spent) == both


def test_there_are_as_many_orders_as_a_mark_holds() -> None:
    assert len(RENYI_ORDERS) == 32
    assert list(RENYI_ORDERS) == sorted(set(RENYI_ORDERS))
