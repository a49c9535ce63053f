"""PR-AUC and ROC-AUC: the same numbers as scikit-learn's, and never a NaN."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score

from shopfloor.quality import average_precision, roc_auc

LABELED_SCORES = st.lists(
    st.tuples(st.booleans(), st.integers(-4, 4).map(lambda n: n / 4)), min_size=2, max_size=60
).filter(lambda rows: len({label for label, _ in rows}) == 2)


@given(LABELED_SCORES)
def test_ties_are_handled_as_scikit_learn_handles_them(rows: list[tuple[bool, float]]) -> None:
    y, score = np.array([label for label, _ in rows]), np.array([value for _, value in rows])
    assert average_precision(y, score) == pytest.approx(average_precision_score(y, score))
    assert roc_auc(y, score) == pytest.approx(roc_auc_score(y, score))


def test_ten_thousand_rare_failures_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(7)
    y = (rng.random(10_000) < 0.034).astype(np.int64)
    score = (rng.normal(size=10_000) + 2 * y).astype(np.float32)
    assert average_precision(y, score) == pytest.approx(average_precision_score(y, score))
    assert roc_auc(y, score) == pytest.approx(roc_auc_score(y, score))


def test_a_worked_example_gives_the_numbers_done_by_hand() -> None:
    y, score = [1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]
    assert average_precision(y, score) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert roc_auc(y, score) == pytest.approx(3 / 4)


def test_a_constant_score_is_worth_the_base_rate_and_a_coin() -> None:
    y = [1, 0, 0, 0]
    assert average_precision(y, [0.3] * 4) == pytest.approx(1 / 4)
    assert roc_auc(y, [0.3] * 4) == pytest.approx(1 / 2)


@given(LABELED_SCORES, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(
    rows: list[tuple[bool, float]], random: Random
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    for measure in (average_precision, roc_auc):
        first = measure([label for label, _ in rows], [value for _, value in rows])
        again = measure([label for label, _ in shuffled], [value for _, value in shuffled])
        assert first == pytest.approx(again)


@pytest.mark.parametrize("measure", [average_precision, roc_auc])
@pytest.mark.parametrize(
    ("y", "score", "named"),
    [
        ([1, 1], [0.1, 0.2], "only one class"),
        ([0, 0], [0.1, 0.2], "only one class"),
        ([], [], "no row at all"),
        ([0, 1], [0.1, float("nan")], "finite"),
        ([0, 2], [0.1, 0.2], "0 or 1"),
        ([0, 1], [0.1], "one equal axis"),
        ([[0, 1]], [[0.1, 0.2]], "one equal axis"),
    ],
)
def test_what_would_give_a_number_without_meaning_is_refused(
    measure: Callable[[ArrayLike, ArrayLike], float], y: list[int], score: list[float], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        measure(y, score)
