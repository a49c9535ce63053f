import msgspec
import numpy as np
import pytest

from benchmarks.attacks.canaries import (
    BY_RECORD,
    BY_UPDATE,
    SAMPLED,
    SHARED,
    record_scores,
    update_scores,
)
from benchmarks.attacks.intervals import auc, epsilon_shown, rate_bounds
from benchmarks.attacks.memberships import DELTA, claimed
from wire.messages import Policy
from wire.safeguards import problems


def without_noise(policy: Policy) -> Policy:
    return msgspec.structs.replace(policy, noise_multiplier=0.0)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [  # scipy 1.17, stats.beta.ppf
        (0, 100, 0.0, 0.036216692645),
        (3, 100, 0.006229971538, 0.085176052974),
        (500, 1000, 0.468549172972, 0.531450827028),
        (999, 1000, 0.994441075720, 0.999974682513),
        (1000, 1000, 0.996317916103, 1.0),
    ],
)
def test_bounds_of_a_rate_are_those_of_clopper_and_pearson(
    hits: int, trials: int, low: float, high: float
) -> None:
    assert rate_bounds(hits, trials) == pytest.approx((low, high), abs=1e-9)


def test_what_scores_prove_is_near_the_truth_and_rarely_above_it() -> None:
    rng = np.random.default_rng(5)
    mu, truth = 1.0, 4.38  # epsilon of mu = 1 at delta 1e-5 (Dong, Roth and Su, corollary 2.13)
    shown = [
        epsilon_shown(rng.normal(size=3000) + mu, rng.normal(size=3000), 1e-5) for _ in range(4)
    ]
    assert max(shown) < truth
    assert min(shown) > 0.5
    assert epsilon_shown(rng.normal(size=4000), rng.normal(size=4000), 1e-5) < 0.3


@pytest.mark.parametrize("policy", [BY_RECORD, SAMPLED, BY_UPDATE, SHARED])
def test_the_audited_policies_are_ones_that_agents_accept(policy: Policy) -> None:
    assert list(problems(policy, k_min=SHARED.noise_sites)) == []


def test_without_noise_a_canary_is_always_found() -> None:
    for scores in (
        record_scores(without_noise(BY_RECORD), 40, 1),
        update_scores(without_noise(BY_UPDATE), 40, 1),
    ):
        assert auc(scores.members, scores.others) >= 0.99


@pytest.mark.parametrize("betraying", [0, 5])
def test_noise_of_an_update_keeps_the_ledgers_word(betraying: int) -> None:
    policy = SHARED if betraying else BY_UPDATE
    scores = update_scores(policy, 2000, 2, betraying)
    claim = claimed(policy, policy.noise_sites - betraying)
    assert epsilon_shown(scores.members, scores.others, DELTA) <= claim
    assert auc(scores.members, scores.others) > 0.55  # the attack does see something


@pytest.mark.parametrize("policy", [BY_RECORD, SAMPLED])
def test_noise_of_a_record_keeps_the_ledgers_word(policy: Policy) -> None:
    scores = record_scores(policy, 250, 2)
    assert epsilon_shown(scores.members, scores.others, DELTA) <= claimed(policy)


def test_a_quarter_of_the_claimed_noise_is_caught() -> None:
    weak = msgspec.structs.replace(BY_UPDATE, noise_multiplier=BY_UPDATE.noise_multiplier / 4)
    scores = update_scores(weak, 2000, 2)
    assert epsilon_shown(scores.members, scores.others, DELTA) > claimed(BY_UPDATE)
