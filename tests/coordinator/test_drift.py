"""Drift alarms: real changes are told, chance and small changes are not."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.drift import (
    DriftSettings,
    chi_square_sigmas,
    find_drift,
    is_baseline,
    rows_since,
)
from coordinator.falls import ranking_variance
from wire.evaluation import (
    evaluate,
    evaluate_classes,
    evaluate_numbers,
    evaluate_reconstruction,
)
from wire.figures import figure
from wire.messages import Evaluation
from wire.tally import Tally, add, tally_of

DIGEST = bytes(32)
SETTINGS = DriftSettings()
KINDS = ("binary", "classes", "numbers", "reconstruction")


def rows(
    kind: str, seed: int, count: int, *, worse: float = 0.0, shift: float = 0.0
) -> list[NDArray[np.float64]]:
    """Labels and outputs of a site; `worse` and `shift` from 0 (as it was) to 1."""
    rng = np.random.default_rng(seed)
    if kind == "binary":
        fails = (rng.random(count) < 0.2 + 0.3 * shift).astype(np.float64)
        logits = rng.normal(-2.0, 1.0, count) + 2.5 * (1 - worse) * fails
        return [fails, 1 / (1 + np.exp(-logits))]
    if kind == "classes":
        common = 0.7 - 0.4 * shift
        truth = rng.choice(4, count, p=[common, 0.85 - common, 0.1, 0.05])
        is_wrong = rng.random(count) < 0.1 + 0.4 * worse
        named = np.where(is_wrong, (truth + 1) % 4, truth)
        return [truth.astype(np.float64), named.astype(np.float64)]
    if kind == "numbers":
        labels = rng.normal(80 + 30 * shift, 30, count)
        return [labels, labels + 10 * (1 + worse) * rng.standard_t(4, count)]
    return [rng.exponential(1 + worse, count)]


def counted(kind: str, *parts: list[NDArray[np.float64]]) -> Evaluation:
    """The evaluation of these rows together."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if kind == "binary":
        return evaluate(DIGEST, columns[0].astype(np.bool_), columns[1])
    if kind == "classes":
        truth, named = (column.astype(np.int64) for column in columns)
        return evaluate_classes(DIGEST, truth, np.eye(4)[named], np.zeros(len(truth)))
    if kind == "numbers":
        labels, said = columns
        return evaluate_numbers(DIGEST, labels, said, np.square(said - labels) / 900)
    return evaluate_reconstruction(DIGEST, columns[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_site_that_stays_as_it_was_raises_almost_no_alarm(kind: str) -> None:
    alarms = 0
    for seed in range(100):
        first = rows(kind, seed, 400)
        newest = counted(kind, first, rows(kind, 1000 + seed, 400))
        alarms += find_drift(counted(kind, first), newest, SETTINGS) is not None
    assert alarms <= 2


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("binary", "ROC-AUC fell from 0."),
        ("classes", "accuracy fell from 0."),
        ("numbers", "mean absolute error rose from 1"),
        ("reconstruction", "mean loss rose from "),
    ],
)
def test_a_model_that_does_worse_on_new_rows_is_told(kind: str, says: str) -> None:
    first = rows(kind, 1, 500)
    newest = counted(kind, first, rows(kind, 2, 500, worse=0.6))
    found = find_drift(counted(kind, first), newest, SETTINGS)
    assert found is not None
    assert found.startswith(says)
    assert found.endswith("standard errors): 500 rows at first against the 500 rows since")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("binary", "the share of failures went from "),
        ("classes", "the shares of the classes moved, that of class "),
        ("numbers", "the mean label went from "),
    ],
)
def test_labels_that_are_distributed_otherwise_are_told(kind: str, says: str) -> None:
    first = rows(kind, 3, 500)
    newest = counted(kind, first, rows(kind, 4, 500, shift=0.6))
    found = find_drift(counted(kind, first), newest, SETTINGS)
    assert found is not None
    assert found.startswith(says)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_does_better_is_no_alarm(kind: str) -> None:
    first = rows(kind, 5, 500, worse=0.6)
    newest = counted(kind, first, rows(kind, 6, 500))
    assert find_drift(counted(kind, first), newest, SETTINGS) is None


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_raise_no_alarm_whatever_they_say(kind: str) -> None:
    few, many = counted(kind, rows(kind, 7, 25)), counted(kind, rows(kind, 8, 600, worse=1))
    assert not is_baseline(few)
    assert is_baseline(many)
    assert find_drift(few, many, SETTINGS) is None
    assert find_drift(many, few, SETTINGS) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_real_but_small_raises_no_alarm(kind: str) -> None:
    first, newest = rows(kind, 9, 30_000), rows(kind, 10, 30_000, worse=0.15, shift=0.15)
    told = find_drift(counted(kind, first), counted(kind, newest), SETTINGS)
    assert told is not None
    coarse = DriftSettings(least_fall=0.3, least_shift=0.4)
    assert find_drift(counted(kind, first), counted(kind, newest), coarse) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_seen_in_the_rows_since_and_not_only_in_all_of_them(kind: str) -> None:
    first, later = rows(kind, 11, 4000), rows(kind, 12, 300, worse=0.8)
    newest = counted(kind, first, later)
    found = find_drift(counted(kind, first), newest, SETTINGS)
    assert found is not None
    assert "4000 rows at first against the 300 rows since" in found
    since = rows_since(tally_of(counted(kind, first)), tally_of(newest))
    assert since is not None
    alone = tally_of(counted(kind, later))
    assert (since.rows, since.failures, since.alarms) == (alone.rows, alone.failures, alone.alarms)
    np.testing.assert_array_equal(since.positives, alone.positives)
    np.testing.assert_array_equal(since.confusion, alone.confusion)
    if since.errors is not None and alone.errors is not None:
        assert since.errors.squared == pytest.approx(alone.errors.squared, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_history_that_forgot_its_first_rows_is_compared_as_a_whole(kind: str) -> None:
    old, newest = rows(kind, 13, 500), rows(kind, 14, 450, worse=0.8)
    assert rows_since(tally_of(counted(kind, old)), tally_of(counted(kind, newest))) is None
    found = find_drift(counted(kind, old), counted(kind, newest), SETTINGS)
    assert found is not None
    assert found.endswith("500 rows at first against 450 rows now")


def test_a_site_that_lost_its_numbers_is_told() -> None:
    first = rows("numbers", 15, 100)
    lost = [first[0], np.full(100, np.nan)]
    found = find_drift(counted("numbers", first), counted("numbers", first, lost), SETTINGS)
    assert found == "the served model gives no finite numbers any more"


def test_figures_of_all_sites_together_are_compared_alike() -> None:
    first = [rows("binary", seed, 100) for seed in range(5)]
    later = [rows("binary", 50 + seed, 100, worse=0.7) for seed in range(5)]
    before: Tally = add(counted("binary", each) for each in first)
    now = add(counted("binary", *pair) for pair in zip(first, later, strict=True))
    found = find_drift(before, now, SETTINGS)
    assert found is not None
    assert found.startswith("ROC-AUC fell")


# Sampling errors, against simulation and against other people's functions


@pytest.mark.parametrize(("gap", "positives", "negatives"), [(1.0, 40, 160), (2.0, 60, 600)])
def test_the_error_of_an_area_is_that_of_repeated_samples(
    gap: float, positives: int, negatives: int
) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(positives + negatives) < positives
    areas, errors = [], []
    for _ in range(500):
        logits = rng.normal(size=len(labels)) + gap * labels
        tally = tally_of(evaluate(DIGEST, labels, 1 / (1 + np.exp(-logits))))
        areas.append(figure("roc_auc", tally))
        errors.append(math.sqrt(ranking_variance(tally)))
    assert np.mean(errors) == pytest.approx(np.std(np.array(areas, np.float64)), rel=0.1)


def test_the_error_of_an_area_is_that_of_the_paper() -> None:
    """Its definition, pair by pair: psi of every positive and negative row."""
    positives, negatives = np.array([0.9, 0.8, 0.8, 0.4]), np.array([0.8, 0.5, 0.3, 0.2, 0.1])
    psi = (np.sign(positives[:, None] - negatives[None, :]) + 1) / 2
    expected = psi.mean(axis=1).var(ddof=1) / 4 + psi.mean(axis=0).var(ddof=1) / 5
    labels = np.arange(9) < 4
    tally = tally_of(evaluate(DIGEST, labels, np.concatenate([positives, negatives])))
    assert ranking_variance(tally) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("degrees", [2, 6, 30])
@pytest.mark.parametrize("sigmas", [1.0, 3.0, 4.0])
def test_chi_squares_become_the_standard_deviates_of_the_same_chance(
    degrees: int, sigmas: float
) -> None:
    statistic = degrees * (1 - 2 / (9 * degrees) + sigmas * math.sqrt(2 / (9 * degrees))) ** 3
    # Of an even number of degrees the tail is a sum of Poisson chances.
    half = statistic / 2
    chance = sum(math.exp(-half) * half**i / math.factorial(i) for i in range(degrees // 2))
    assert chi_square_sigmas(statistic, degrees) == pytest.approx(sigmas)
    assert -NormalDist().inv_cdf(chance) == pytest.approx(sigmas, abs=0.15)


def test_rare_classes_are_judged_together_and_never_by_a_handful_of_rows() -> None:
    """One new row of a class never seen before has an expected count of 1/2."""
    truth = np.zeros(400, np.int64)
    one_odd = truth.copy()
    one_odd[0] = 3
    before, now = (
        counted("classes", [labels.astype(np.float64)] * 2) for labels in (truth, one_odd)
    )
    assert find_drift(before, now, DriftSettings(least_shift=0, sigmas=1)) is None
