"""Drift alarms: real changes are told, chance and small changes are not."""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.drift import DriftSettings, find_drift, is_baseline_for, rows_since
from coordinator.falls import ranking_variance
from coordinator.federation import Federation
from coordinator.shifts import chi_square_sigmas
from coordinator.store import Store
from tests.coordinator.small_federation import identity, settings
from wire.evaluation import (
    evaluate,
    evaluate_classes,
    evaluate_numbers,
    evaluate_reconstruction,
)
from wire.figures import figure
from wire.messages import Evaluation, Report
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
def test_a_model_that_does_better_is_not_said_to_do_worse(kind: str) -> None:
    first = rows(kind, 5, 500, worse=0.6)
    newest = counted(kind, first, rows(kind, 6, 500))
    found = find_drift(counted(kind, first), newest, SETTINGS) or ""  # its scores may have moved
    assert " fell from " not in found
    assert " rose from " not in found


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_raise_no_alarm_whatever_they_say(kind: str) -> None:
    few, many = counted(kind, rows(kind, 7, 25)), counted(kind, rows(kind, 8, 600, worse=1))
    assert not is_baseline_for(few, few)
    assert is_baseline_for(many, many)
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
    assert (since.rows, since.failures) == (alone.rows, alone.failures)
    np.testing.assert_array_equal(since.positives, alone.positives)
    np.testing.assert_array_equal(since.confusion, alone.confusion)
    if since.errors is not None and alone.errors is not None:
        assert since.errors.squared == pytest.approx(alone.errors.squared, rel=1e-6)


def test_rows_since_are_told_apart_though_the_threshold_of_alarms_moved() -> None:
    random = np.random.default_rng(16)
    labels, scores = random.random(500) < 0.3, random.random(500)
    first = tally_of(evaluate(DIGEST, labels[:400], scores[:400], threshold=0.1))
    newest = tally_of(evaluate(DIGEST, labels, scores, threshold=0.9))
    assert newest.alarms[1] < first.alarms[1]
    since = rows_since(first, newest)
    assert since is not None
    assert since.rows == 100


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


# What the model says


def rare(
    seed: int, count: int, failures: int, *, moved: float = 0.0
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels and scores of machines that hardly ever fail; a sensor that is off moves logits."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) < failures
    logits = rng.normal(-7.0, 3.0, count) + 7.0 * labels + moved
    return labels, 1 / (1 + np.exp(-logits))


def judged_in_turn(
    *parts: tuple[NDArray[np.bool_], NDArray[np.float64]], digest: bytes = DIGEST
) -> list[Evaluation]:
    """Evaluations of a history that grew by one part after the other."""
    labels, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    ends = np.cumsum([len(part[0]) for part in parts])
    return [evaluate(digest, labels[:end].astype(np.bool_), scores[:end]) for end in ends]


def test_a_sensor_that_is_off_is_told_though_there_are_too_few_failures_to_tell_the_quality() -> (
    None
):
    first, newest = judged_in_turn(rare(20, 480, 19), rare(21, 60, 2, moved=4.0))
    found = find_drift(first, newest, SETTINGS)
    assert found is not None
    assert found.startswith("the scores moved, the share at or above 0.")
    assert found.endswith("480 rows at first against the 60 rows since")
    for seed in range(100):
        first, newest = judged_in_turn(rare(seed, 480, 19), rare(100 + seed, 480, 19))
        assert find_drift(first, newest, SETTINGS) is None


def test_scores_that_nearly_no_row_had_before_are_not_lost_among_those_that_all_rows_have() -> None:
    """A model so sure that all scores are in the first bin, until a few of a hundred are high."""
    before = np.zeros(480, np.bool_), np.full(480, 1e-6)
    after = np.zeros(480, np.bool_), np.where(np.arange(480) % 16, 1e-6, 0.9)
    first, newest = judged_in_turn(before, after)
    found = find_drift(first, newest, SETTINGS)
    assert found is not None
    assert "the share at or above " in found
    assert "from 0.00% to 6.25%" in found


def test_classes_that_are_named_more_often_than_they_are_there_are_told() -> None:
    rng = np.random.default_rng(22)
    truth = rng.choice(4, 1000, p=[0.4, 0.3, 0.2, 0.1])
    was_wrong, is_wrong = rng.random(500) < 0.2, rng.random(500) < 0.2
    named = truth.copy()
    named[:500][was_wrong] = rng.permutation(truth[:500][was_wrong])
    named[500:][is_wrong] = 3
    columns = [truth.astype(np.float64), named.astype(np.float64)]
    first = counted("classes", [column[:500] for column in columns])
    found = find_drift(first, counted("classes", columns), SETTINGS)
    assert found is not None
    assert "the shares of the named classes moved, that of class 3 from " in found
    assert "the shares of the classes moved" not in found


def test_numbers_that_are_predicted_too_high_are_told_though_they_are_no_farther_off() -> None:
    rng = np.random.default_rng(23)
    labels = rng.normal(80, 30, 1000)
    off = np.where(rng.random(1000) < 0.5, 10.0, -10.0)
    off[500:] = np.where(rng.random(500) < 0.8, 10.0, -10.0)
    columns = [labels, labels + off]
    first = counted("numbers", [column[:500] for column in columns])
    found = find_drift(first, counted("numbers", columns), SETTINGS)
    assert found is not None
    assert found.startswith("the mean error went from ")
    assert ";" not in found


def test_errors_of_reconstruction_that_are_spread_otherwise_are_told_where_rows_are_counted() -> (
    None
):
    rng = np.random.default_rng(24)
    errors = np.concatenate([rng.uniform(0.9, 1.1, 500), rng.uniform(0.3, 1.7, 500)])
    for counts, is_told in ((True, True), (False, False)):
        first, newest = (
            evaluate_reconstruction(DIGEST, errors[:upto], counts_errors=counts)
            for upto in (500, 1000)
        )
        found = find_drift(first, newest, SETTINGS)
        assert (found is not None and found.startswith("the errors moved")) is is_told


# Which evaluation is the first


def test_a_first_evaluation_gives_its_place_up_only_to_one_that_can_tell_more() -> None:
    few, some, more, enough, later = judged_in_turn(
        rare(30, 60, 2), rare(31, 90, 3), rare(32, 200, 8), rare(33, 500, 20), rare(34, 500, 20)
    )
    assert not is_baseline_for(few, some)
    assert is_baseline_for(some, more)  # 150 rows tell of scores, and 13 failures tell no more
    assert not is_baseline_for(some, enough)
    assert is_baseline_for(enough, later)
    assert is_baseline_for(enough, some)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "coordinator.db")
    yield opened
    opened.close()


def test_a_coordinator_looks_before_the_newest_report_becomes_the_first(store: Store) -> None:
    """The report that has failures enough for the quality is also the one that says of drift."""
    federation = Federation(store, settings(), identity(1), 0.0)
    digest = federation.head.serve.content.digest
    first, moved = judged_in_turn(rare(40, 480, 19), rare(41, 480, 19, moved=4.0), digest=digest)
    for evaluation in (first, first, moved):
        assert not store.alarm("a-1", "drift")
        report = Report(head=federation.head.sequence, evaluations=(evaluation,))
        federation.on_report("a-1", "site-a", report, 1.0)
    assert store.alarm("a-1", "drift").startswith("the scores moved")
    assert store.first_evaluation(digest, "site-a/a-1") == moved


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
