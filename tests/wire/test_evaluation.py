"""Quality from counts: close to the exact one, and a sum over sites is the pooled one."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from wire.evaluation import (
    BINS,
    OVERFLOW,
    add,
    evaluate,
    evaluate_classes,
    evaluate_numbers,
    evaluate_reconstruction,
    pr_auc,
    roc_auc,
)
from wire.figures import METRICS_OF, Metric, figure, is_better, number, worsening
from wire.messages import Evaluation
from wire.tally import Tally, check_evaluation

DIGEST = bytes(32)
Rows = tuple[NDArray[np.bool_], NDArray[np.float64]]


def scores_of_a_rare_failure(seed: int, rows: int = 4000, digits: int = 17) -> Rows:
    """Labels (3.4 % positive, as AI4I 2020) and a classifier's scores; few digits make ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random(rows) < 0.034
    logits = rng.normal(-4.0, 1.6, rows) + labels * rng.normal(4.5, 2.0, rows)
    return labels, np.round(1 / (1 + np.exp(-logits)), digits)


def told(metric: Metric, tally: Tally) -> float:
    value = figure(metric, tally)
    assert value is not None
    return value


@pytest.mark.parametrize("digits", [17, 3])
@pytest.mark.parametrize("seed", range(10))
def test_bins_give_almost_the_exact_quality(seed: int, digits: int) -> None:
    labels, scores = scores_of_a_rare_failure(seed, digits=digits)
    tally = add([evaluate(DIGEST, labels, scores)])
    assert abs(told("pr_auc", tally) - average_precision_score(labels, scores)) < 0.005
    if digits == 3:
        assert len(set(scores)) < len(scores) / 4
    assert abs(told("roc_auc", tally) - roc_auc_score(labels, scores)) < 0.002


def test_a_perfect_and_a_constant_classifier_have_the_values_of_the_books() -> None:
    labels = np.arange(10_000) < 1000
    perfect = add([evaluate(DIGEST, labels, np.where(labels, 0.9, 0.1))])
    constant = add([evaluate(DIGEST, labels, np.full(10_000, 0.3))])
    assert (told("pr_auc", perfect), told("roc_auc", perfect)) == (1.0, 1.0)
    assert told("f1", perfect) == told("accuracy", perfect) == 1.0
    assert told("pr_auc", constant) == pytest.approx(0.1, abs=1e-3)
    assert told("roc_auc", constant) == 0.5


def test_every_row_is_counted_once_whatever_its_score() -> None:
    scores = np.array([0.0, 1e-300, 1e-9, 0.5, 1 - 1e-12, 1.0])
    labels = np.array([True, False, True, False, True, False])
    evaluation = evaluate(DIGEST, labels, scores)
    assert sum(evaluation.positives) == 3
    assert sum(evaluation.negatives) == 3


def test_a_score_of_one_in_float32_is_in_the_highest_bin() -> None:
    with np.errstate(all="raise"):
        evaluation = evaluate(DIGEST, np.array([True]), np.array([1.0], np.float32))
    assert evaluation.positives[-1] == 1


def test_a_score_at_the_threshold_is_an_alarm() -> None:
    labels, scores = np.array([True, True, False, False]), np.array([0.3, 0.2, 0.31, 0.1])
    assert evaluate(DIGEST, labels, scores, 0.3).alarms == (1, 1)


def test_without_a_positive_row_there_is_no_ranking() -> None:
    tally = add([evaluate(DIGEST, np.zeros(5, bool), np.full(5, 0.4))])
    assert [figure(metric, tally) for metric in ("pr_auc", "roc_auc", "f1")] == [None] * 3
    assert figure("accuracy", tally) == 1.0


def test_no_evaluation_at_all_adds_up_to_no_figure() -> None:
    nothing = add([])
    assert nothing.positives.shape == nothing.negatives.shape == (BINS,)
    assert pr_auc(nothing.positives, nothing.negatives) is None
    assert roc_auc(nothing.positives, nothing.negatives) is None
    assert nothing.kind is None
    every = {metric for metrics in METRICS_OF.values() for metric in metrics}
    assert [figure(metric, nothing) for metric in every] == [None] * len(every)


# A sum over sites is the pooled evaluation: for any rows, cut into any sites


def cut(total: int, at: list[int]) -> list[slice]:
    edges = [0, *sorted(place % (total + 1) for place in at), total]
    return [slice(*pair) for pair in pairwise(edges) if pair[0] < pair[1]]


cuts = st.lists(st.integers(0, 10_000), max_size=5)
seeds = st.integers(0, 1 << 32)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 400), cuts, st.sampled_from([0.05, 0.5]))
def test_the_sum_over_sites_is_the_pooled_evaluation(
    seed: int, rows: int, at: list[int], threshold: float
) -> None:
    labels, scores = scores_of_a_rare_failure(seed, rows)
    labels |= np.random.default_rng(seed).random(rows) < 0.1
    sites = [evaluate(DIGEST, labels[part], scores[part], threshold) for part in cut(rows, at)]
    for each in sites:
        check_evaluation(each)
    summed, pooled = add(sites), add([evaluate(DIGEST, labels, scores, threshold)])
    np.testing.assert_array_equal(summed.positives, pooled.positives)
    np.testing.assert_array_equal(summed.negatives, pooled.negatives)
    assert (summed.rows, summed.failures) == (rows, labels.sum())
    alarms = scores >= threshold
    assert told("accuracy", summed) == pytest.approx(accuracy_score(labels, alarms), abs=1e-12)
    f1 = figure("f1", summed)
    exact = f1_score(labels, alarms, zero_division=np.nan)
    assert f1 == pytest.approx(exact, abs=1e-12) if f1 is not None else math.isnan(exact)
    assert told("loss", summed) == pytest.approx(log_loss(labels, scores, labels=[False, True]))


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 300), st.integers(2, 32), cuts)
def test_confusion_adds_up_to_accuracy_and_f1_of_the_pooled_rows(
    seed: int, rows: int, classes: int, at: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, classes + 1), rows)
    outputs = rng.normal(size=(rows, classes)) + 2 * np.eye(classes)[labels]
    losses = rng.exponential(size=rows)
    sites = [
        evaluate_classes(DIGEST, labels[part], outputs[part], losses[part])
        for part in cut(rows, at)
    ]
    for each in sites:
        check_evaluation(each)
    tally, predicted = add(sites), outputs.argmax(axis=1)
    assert tally.kind == "classes"
    assert told("accuracy", tally) == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
    exact = f1_score(labels, predicted, average="macro")
    assert told("f1", tally) == pytest.approx(exact, abs=1e-12)
    assert told("loss", tally) == pytest.approx(losses.mean())


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 300), cuts, st.sampled_from([1e-3, 1.0, 1e6]))
def test_errors_add_up_to_rmse_mae_and_r2_of_the_pooled_rows(
    seed: int, rows: int, at: list[int], unit: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = unit * rng.normal(3, 1, rows)
    predictions = labels + unit * rng.standard_t(3, rows)
    losses = np.square(predictions / unit - labels / unit)
    sites = [
        evaluate_numbers(DIGEST, labels[part], predictions[part], losses[part])
        for part in cut(rows, at)
    ]
    for each in sites:
        check_evaluation(each)
    tally = add(sites)
    assert tally.kind == "numbers"
    assert told("rmse", tally) == pytest.approx(root_mean_squared_error(labels, predictions))
    assert told("mae", tally) == pytest.approx(mean_absolute_error(labels, predictions))
    assert told("r2", tally) == pytest.approx(r2_score(labels, predictions), rel=1e-6, abs=1e-6)
    assert told("loss", tally) == pytest.approx(losses.mean())


def test_losses_of_a_reconstruction_add_up_to_their_mean() -> None:
    losses = np.random.default_rng(3).exponential(size=100)
    tally = add([evaluate_reconstruction(DIGEST, part) for part in (losses[:7], losses[7:])])
    assert tally.kind == "reconstruction"
    assert told("loss", tally) == pytest.approx(losses.mean())
    assert figure("rmse", tally) is None


@pytest.mark.parametrize("seed", range(10))
def test_the_calibration_error_is_that_of_groups_of_equal_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = 30_000
    chance = rng.beta(0.4, 2, rows)
    labels, stretch = rng.random(rows) < chance, rng.uniform(0.5, 2)
    scores = chance**stretch / (chance**stretch + (1 - chance) ** stretch)
    order = np.array_split(np.argsort(scores, kind="stable"), 15)
    exact = sum(abs(float(np.sum(labels[part]) - np.sum(scores[part]))) for part in order) / rows
    assert abs(told("calibration", add([evaluate(DIGEST, labels, scores)])) - exact) < 0.01


def test_calibration_tells_honest_scores_from_overconfident_ones() -> None:
    rng = np.random.default_rng(1)
    chance = rng.uniform(0.02, 0.98, 20_000)
    labels = rng.random(20_000) < chance
    honest = told("calibration", add([evaluate(DIGEST, labels, chance)]))
    loud = chance**3 / (chance**3 + (1 - chance) ** 3)
    assert honest < 0.02
    assert told("calibration", add([evaluate(DIGEST, labels, loud)])) > 0.1


# A model that gives no numbers


@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_a_row_without_a_score_counts_as_wrong_as_can_be(lost: float) -> None:
    labels = np.array([True, False, True, False])
    evaluation = evaluate(DIGEST, labels, np.array([lost, lost, 0.9, 0.1]))
    check_evaluation(evaluation)
    assert (evaluation.positives[0], evaluation.negatives[-1]) == (1, 1)
    assert evaluation.alarms == (1, 1)
    assert evaluation.loss == OVERFLOW
    assert not add([evaluation]).is_finite


def made_of(value: float) -> list[Evaluation]:
    """Evaluations in which one of six rows gave this value."""
    labels = np.array([0, 1, 2, 0, 1, 2])
    outputs = 3 * np.eye(3)[labels]
    outputs[4, 1] = value
    losses = np.full(6, 0.1)
    losses[4] = np.abs(value)
    predictions = np.arange(6.0)
    predictions[4] = value
    return [
        evaluate_classes(DIGEST, labels, outputs, losses),
        evaluate_numbers(DIGEST, np.arange(6.0), predictions, losses),
        evaluate_reconstruction(DIGEST, losses),
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_overflow_the_loss_and_nothing_else(value: float) -> None:
    for evaluation in made_of(value):
        check_evaluation(evaluation)
        tally = add([evaluation])
        assert tally.rows == 6
        assert not tally.is_finite
    assert told("accuracy", add(made_of(value)[:1])) == pytest.approx(5 / 6)


def test_numbers_too_large_for_a_report_are_cut_and_told() -> None:
    labels = np.ones(1000)
    evaluation = evaluate_numbers(DIGEST, labels, np.full(1000, 3e38), np.full(1000, 9e76))
    check_evaluation(evaluation)
    assert not add([evaluation]).is_finite
    assert told("rmse", add([evaluation])) > 1e9


# Better and worse


@pytest.mark.parametrize(
    ("metric", "good", "bad", "worse_by"),
    [
        ("pr_auc", 0.8, 0.7, 0.1),
        ("accuracy", 0.99, 0.98, 0.01),
        ("r2", 0.5, 0.2, 0.3),
        ("calibration", 0.02, 0.07, 0.05),
        ("rmse", 20.0, 22.0, 0.1),
        ("loss", 0.5, 0.75, 0.5),
    ],
)
def test_worse_is_told_in_shares_and_for_figures_with_a_unit_in_parts(
    metric: Metric, good: float, bad: float, worse_by: float
) -> None:
    assert is_better(metric, good, bad)
    assert not is_better(metric, bad, good)
    assert not is_better(metric, good, good)
    assert worsening(metric, bad, good) == pytest.approx(worse_by)
    assert worsening(metric, good, good) == 0.0
    assert worsening(metric, good, bad) < 0.0


def test_any_error_is_worse_than_none() -> None:
    assert worsening("rmse", 1e-9, 0.0) == math.inf


def test_figures_are_written_for_people() -> None:
    assert [number("pr_auc", 0.91349), number("rmse", 1421.3), number("loss", None)] == [
        "0.913",
        "1421",
        "-",
    ]


def test_every_kind_of_task_has_every_figure_that_is_promised() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.random(50) < 0.4, rng.random(50)
    classes, losses = rng.integers(0, 3, 50), rng.random(50)
    makers: dict[str, Callable[[], Evaluation]] = {
        "binary": lambda: evaluate(DIGEST, labels, scores),
        "classes": lambda: evaluate_classes(DIGEST, classes, rng.normal(size=(50, 3)), losses),
        "numbers": lambda: evaluate_numbers(DIGEST, scores, scores + losses, losses),
        "reconstruction": lambda: evaluate_reconstruction(DIGEST, losses),
    }
    assert set(makers) == set(METRICS_OF)
    for kind, metrics in METRICS_OF.items():
        tally = add([makers[kind]()])
        assert tally.kind == kind
        for metric in metrics:
            assert math.isfinite(told(metric, tally))
