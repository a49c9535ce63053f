"""One way to judge every kind of model, and when a site's rows can tell."""

import numpy as np
import pytest

from shopfloor.jobs.judging import can_tell, difference, mean, quality
from shopfloor.quality import average_precision, roc_auc

RANDOM = np.random.default_rng(5)


def ranking(rows: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    truth = (RANDOM.random(rows) < 0.2).astype(np.float64)
    return truth, sharpness * truth + RANDOM.normal(size=rows)


def test_each_metric_is_the_fields_own() -> None:
    truth, answer = ranking(500, 2.0)
    assert quality("pr_auc", truth, answer) == average_precision(truth, answer)
    assert quality("roc_auc", truth, answer) == roc_auc(truth, answer)
    assert quality("accuracy", np.array([0.0, 1, 2, 2]), np.array([0.0, 1, 1, 2])) == 0.75
    assert quality("rmse", np.array([1.0, 5]), np.array([4.0, 1])) == pytest.approx(12.5**0.5)


def test_an_answer_that_is_no_number_is_the_worst_there_is() -> None:
    truth, answer = ranking(200, 3.0)
    broken = answer.copy()
    broken[truth == 1] = -np.inf
    broken[0] = np.nan
    good, bad = quality("roc_auc", truth, answer), quality("roc_auc", truth, broken)
    assert good is not None
    assert bad is not None
    assert bad < 0.1 < good
    lost = quality("rmse", truth, np.full(200, np.nan))
    assert lost is not None
    assert 1e29 < lost < np.inf


def test_rows_of_one_class_or_none_tell_nothing() -> None:
    for metric in ("pr_auc", "roc_auc"):
        assert quality(metric, np.zeros(5), np.arange(5.0)) is None
    assert quality("rmse", np.zeros(0), np.zeros(0)) is None


def test_a_site_needs_ten_of_either_class_or_thirty_rows() -> None:
    nine, ten = np.r_[np.ones(9), np.zeros(90)], np.r_[np.ones(10), np.zeros(90)]
    assert [can_tell("pr_auc", each) for each in (nine, ten)] == [False, True]
    assert [can_tell("rmse", np.zeros(rows)) for rows in (29, 30)] == [False, True]
    assert difference("pr_auc", nine, nine, [nine], 0) is None


def test_a_differences_interval_holds_the_difference_and_knows_its_sign() -> None:
    truth, sharp = ranking(2000, 3.0)
    blunt = sharp + RANDOM.normal(scale=3.0, size=2000)
    better = difference("roc_auc", truth, sharp, [blunt], 0)
    worse = difference("roc_auc", truth, blunt, [sharp], 0)
    assert better is not None
    assert worse is not None
    assert 0 < better.low < better.value < better.high
    assert worse.high < 0
    assert better == difference("roc_auc", truth, sharp, [blunt], 0)  # by its seed alone


def test_of_errors_the_smaller_one_is_better() -> None:
    truth = RANDOM.normal(size=400)
    near, far = truth + 0.1 * RANDOM.normal(size=400), truth + RANDOM.normal(size=400)
    found = difference("rmse", truth, near, [far], 0)
    assert found is not None
    assert found.low > 0


def test_against_several_it_is_the_mean_of_their_qualities_not_of_their_answers() -> None:
    truth = RANDOM.normal(size=400)
    over, under = truth + 1.0, truth - 1.0  # their mean is perfect
    found = difference("rmse", truth, truth + 0.5, [over, under], 0)
    assert found is not None
    assert found.value == pytest.approx(0.5)


def test_the_interval_covers_no_difference_between_equals_nineteen_times_in_twenty() -> None:
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        truth = random.normal(size=150)
        one, other = (truth + random.normal(size=150) for _ in range(2))
        found = difference("rmse", truth, one, [other], seed)
        assert found is not None
        covered += found.low <= 0 <= found.high
    assert covered >= 51  # 57 expected; 51 or fewer happen once in two hundred


def test_the_mean_leaves_out_what_nobody_knows() -> None:
    assert mean([None, 1.0, 3.0]) == 2.0
    assert mean([None]) is None
