"""Quality from bins: close to the exact one, and a sum over sites is the pooled one."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from wire.codec import open_envelope, parse_body, seal
from wire.errors import MalformedError
from wire.evaluation import BINS, add, evaluate, pr_auc, roc_auc
from wire.messages import Evaluation, Report
from wire.signing import PrivateKey

DIGEST = bytes(32)
Rows = tuple[NDArray[np.bool_], NDArray[np.float64]]


def scores_of_a_rare_failure(seed: int, rows: int = 4000, digits: int = 17) -> Rows:
    """Labels (3.4 % positive, as AI4I 2020) and a classifier's scores; few digits make ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random(rows) < 0.034
    logits = rng.normal(-4.0, 1.6, rows) + labels * rng.normal(4.5, 2.0, rows)
    return labels, np.round(1 / (1 + np.exp(-logits)), digits)


@pytest.mark.parametrize("digits", [17, 3])
@pytest.mark.parametrize("seed", range(10))
def test_bins_give_almost_the_exact_quality(seed: int, digits: int) -> None:
    labels, scores = scores_of_a_rare_failure(seed, digits=digits)
    bins = add([evaluate(DIGEST, labels, scores)])
    precision, ranking = pr_auc(*bins), roc_auc(*bins)
    assert precision is not None
    assert ranking is not None
    assert abs(precision - average_precision_score(labels, scores)) < 0.005
    if digits == 3:
        assert len(set(scores)) < len(scores) / 4
    assert abs(ranking - roc_auc_score(labels, scores)) < 0.002


def test_the_sum_over_sites_is_the_pooled_evaluation() -> None:
    sites = [scores_of_a_rare_failure(seed, rows) for seed, rows in ((1, 500), (2, 3000), (3, 17))]
    pooled_labels = np.concatenate([labels for labels, _ in sites])
    pooled_scores = np.concatenate([scores for _, scores in sites])
    summed = add([evaluate(DIGEST, labels, scores) for labels, scores in sites])
    pooled = add([evaluate(DIGEST, pooled_labels, pooled_scores)])
    np.testing.assert_array_equal(summed, pooled)
    assert summed[0].sum() == pooled_labels.sum()


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


def test_a_perfect_and_a_constant_classifier_have_the_values_of_the_books() -> None:
    labels = np.arange(10_000) < 1000
    perfect = add([evaluate(DIGEST, labels, np.where(labels, 0.9, 0.1))])
    constant = add([evaluate(DIGEST, labels, np.full(10_000, 0.3))])
    assert (pr_auc(*perfect), roc_auc(*perfect)) == (1.0, 1.0)
    assert pr_auc(*constant) == pytest.approx(0.1, abs=1e-3)
    assert roc_auc(*constant) == 0.5


def test_without_a_positive_row_there_is_no_quality() -> None:
    bins = add([evaluate(DIGEST, np.zeros(5, bool), np.full(5, 0.5))])
    assert pr_auc(*bins) is None
    assert roc_auc(*bins) is None


def test_no_evaluation_at_all_adds_up_to_empty_bins() -> None:
    positives, negatives = add([])
    assert positives.shape == negatives.shape == (BINS,)
    assert pr_auc(positives, negatives) is None


@pytest.mark.parametrize("bins", [2, BINS - 1, BINS + 1])
def test_a_report_with_another_number_of_bins_is_refused(bins: int) -> None:
    odd = Evaluation(digest=DIGEST, positives=(1,) * bins, negatives=(1,) * bins)
    data = seal(
        Report(head=1, evaluations=(odd,)),
        federation="plant-net",
        signer="press-1",
        counter=1,
        key=PrivateKey(bytes([5] * 32)),
    )
    with pytest.raises(MalformedError):
        parse_body(open_envelope(data, "report"), Report)
