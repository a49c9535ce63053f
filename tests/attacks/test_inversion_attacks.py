import dataclasses

import msgspec
import numpy as np
import pytest

from benchmarks.attacks import coalition, matching, repeated
from benchmarks.attacks.inversion import best_correlations, label, neurons
from benchmarks.attacks.inversions import Setting, correlations, found, noised, settings
from benchmarks.attacks.matching import Net
from benchmarks.attacks.victims import DEFAULT, ONE_STEP, Victim, digits, plan_of, sent
from wire.tensors import flatten

SETTINGS = list(settings())
ANALYTIC = [each for each in SETTINGS if each.attack in ("analytic", "by bins")]


def by_optimisation(name: str) -> Setting:
    return next(
        each
        for each in SETTINGS
        if each.attack == "by optimisation, 1 row" and each.name.startswith(name)
    )


def words(setting: Setting) -> str:
    return f"{setting.attack}, {setting.rows}: {setting.name}"


def test_the_slope_that_the_optimiser_follows_is_that_of_its_distance() -> None:
    rng = np.random.default_rng(0)
    net = Net.of(flatten(Victim().base).astype(np.float64), 64, 64, 10)
    x, labels = rng.normal(size=(1, 3, 64)), rng.normal(size=(1, 3, 10))
    wanted = rng.normal(size=len(flatten(Victim().base)))
    wanted /= np.linalg.norm(wanted)
    _, (by_x, by_label) = matching.distance(net, x, labels, wanted)
    for values, slope in ((x, by_x), (labels, by_label)):
        towards = rng.normal(size=values.shape)
        before, after = (
            matching.distance(
                net,
                x + sign * towards if values is x else x,
                labels + sign * towards if values is labels else labels,
                wanted,
            )[0][0]
            for sign in (-1e-6, 1e-6)
        )
        assert (after - before) / 2e-6 == pytest.approx(float((slope * towards).sum()), rel=1e-4)


@pytest.mark.parametrize("setting", ANALYTIC, ids=words)
def test_rows_are_read_in_what_nothing_defends_and_not_in_what_something_does(
    setting: Setting,
) -> None:
    finding = found(setting, trials=6)
    assert finding.holds, finding


@pytest.mark.parametrize("name", ["plain", "masked, coordinator + one", "noise per record, 1"])
def test_optimisation_reads_a_row_that_nothing_defends_and_no_other(name: str) -> None:
    finding = found(by_optimisation(name), trials=2)
    assert finding.expected != "open"
    assert finding.holds, finding


def test_the_label_of_a_single_row_is_read_in_the_output_biases() -> None:
    victim, rng = Victim(), np.random.default_rng(1)
    for trial in range(20):
        row = digits().drawn(1, rng)
        policy = msgspec.structs.replace(ONE_STEP, batch_size=1)
        update = sent(victim.delta(victim.base, row, plan_of(policy, trial)), policy, rng)
        assert label(update.astype(np.float64), 10) == row.y[0]


def test_a_masked_update_and_one_helpers_seeds_look_like_a_random_vector_to_the_attack() -> None:
    setting = next(each for each in ANALYTIC if each.held == "masked" and each.rows == 8)
    measured = np.array([correlations(setting, trial) for trial in range(60)])
    apart = measured[:, 0] - measured[:, 1]
    assert abs(apart.mean()) <= 4 * apart.std() / np.sqrt(apart.size)
    # The same test tells a plain update from a random vector by two hundred deviations.
    plain = np.array(
        [correlations(dataclasses.replace(setting, held="opened"), trial)[0] for trial in range(5)]
    )
    assert plain.mean() - measured[:, 1].mean() > 0.5


def test_two_helpers_and_the_coordinator_read_everything() -> None:
    integers = np.arange(-500, 500)
    keys = coalition.helpers()
    report = coalition.sealed(integers, 32, keys)
    for pair in (keys[:2], keys[1:], keys[::2]):
        assert np.array_equal(coalition.read_alone(report, pair, 1.0), integers)
    for one in keys:
        alone = coalition.read_alone(report, [one], 1.0)
        assert np.count_nonzero(alone == integers) < 3


def test_all_that_a_coordinator_and_one_helper_see_of_a_site_is_uniform() -> None:
    keys = coalition.helpers()
    report = coalition.sealed(np.zeros(1 << 16, np.int64), 32, keys)
    alone = coalition.read_alone(report, keys[:1], 1.0).astype(np.int64)
    counts = np.bincount(alone.astype("<u4").view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 140 < chi_square < 400  # 255 degrees of freedom; outside by chance once in 1e8


def test_the_default_policys_many_steps_on_many_rows_give_no_row_away() -> None:
    finding = found(Setting("default", "analytic", "fails", 64, policy=DEFAULT), trials=4)
    assert finding.outcome == "fails"


def test_a_budget_ends_what_averaging_would_read() -> None:
    allowed = repeated.releases(repeated.TABLE, repeated.POLICY)
    assert 1 <= allowed <= 10
    rng = np.random.default_rng(3)
    quiet = msgspec.structs.replace(noised("record", repeated.UNLIMITED**-0.5), batch_size=1)
    for updates, policy, is_read in ((allowed, repeated.POLICY, False), (1, quiet, True)):
        mean, row = repeated.averaged(updates, policy, rng)
        assert (best_correlations(neurons(mean, 64, 64), row)[0] > 0.7) is np.bool_(is_read)
