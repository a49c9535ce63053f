"""Evaluations and statistics as integers that add: sums read back are sums of what went in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wire.errors import MalformedError
from wire.evaluation import (
    add,
    evaluate,
    evaluate_classes,
    evaluate_numbers,
    evaluate_reconstruction,
)
from wire.figures_vector import (
    BITS,
    decode_evaluations,
    decode_statistics,
    encode_evaluations,
    encode_statistics,
    evaluation_length,
    subject_of,
)
from wire.messages import Evaluation, Statistics
from wire.tally import OVERFLOW, Kind, check_evaluation, tally_of

DIGESTS = (bytes(32), bytes(range(32)))


def _binary(seed: int, digest: bytes) -> Evaluation:
    rng = np.random.default_rng(seed)
    return evaluate(digest, rng.random(50) < 0.3, rng.random(50))


def _summed(reports: list[list[Evaluation]]) -> NDArray[np.int64]:
    total: NDArray[np.int64] = np.array([encode_evaluations(each) for each in reports]).sum(axis=0)
    return total


def test_the_sum_of_two_class_evaluations_is_the_tally_of_all() -> None:
    reports = [[_binary(seed, digest) for digest in DIGESTS] for seed in range(7)]
    found = decode_evaluations(_summed(reports), DIGESTS, "binary", 2, 7)
    for at, evaluation in enumerate(found):
        expected = add(each[at] for each in reports)
        tally = tally_of(evaluation)
        assert np.array_equal(tally.positives, expected.positives)
        assert np.array_equal(tally.negatives, expected.negatives)
        assert tally.alarms == expected.alarms
        assert tally.loss == pytest.approx(expected.loss, abs=1e-7)
        assert evaluation.digest == DIGESTS[at]


def test_confusions_of_classes_add() -> None:
    rng = np.random.default_rng(3)
    reports = [
        [
            evaluate_classes(
                DIGESTS[0], rng.integers(0, 4, 30), rng.normal(size=(30, 4)), rng.random(30)
            )
        ]
        for _ in range(5)
    ]
    (found,) = decode_evaluations(_summed(reports), DIGESTS[:1], "classes", 4, 5)
    expected = np.sum([each[0].confusion for each in reports], axis=0)
    assert found.confusion == tuple(expected.tolist())


@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=20), st.integers(1, 6))
def test_errors_of_numbers_add_to_a_millionth(values: list[float], sites: int) -> None:
    labels = np.array(values)
    one = evaluate_numbers(DIGESTS[0], labels, labels[::-1].copy(), np.abs(labels))
    (found,) = decode_evaluations(_summed([[one]] * sites), DIGESTS[:1], "numbers", 0, sites)
    assert found.errors is not None
    assert one.errors is not None
    assert found.errors.rows == sites * len(values)
    for name in ("error", "absolute", "squared", "label", "label_squared"):
        expected = sites * getattr(one.errors, name)
        assert getattr(found.errors, name) == pytest.approx(expected, rel=1e-12, abs=1e-6)


@given(st.lists(st.floats(0.0, 1e5), min_size=1, max_size=20), st.integers(1, 6))
def test_rows_by_error_add_and_their_sum_is_believed(errors: list[float], sites: int) -> None:
    one = evaluate_reconstruction(DIGESTS[0], np.array(errors), counts_errors=True)
    vector = _summed([[one]] * sites)
    assert len(vector) == evaluation_length("reconstruction", 0, counts_errors=True)
    (found,) = decode_evaluations(
        vector, DIGESTS[:1], "reconstruction", 0, sites, counts_errors=True
    )
    assert found.rows_by_error == tuple(sites * count for count in one.rows_by_error)
    assert found.errors is not None
    assert found.errors.rows == sites * len(errors)
    check_evaluation(found)
    with pytest.raises(MalformedError, match="expected"):
        decode_evaluations(vector, DIGESTS[:1], "reconstruction", 0, sites)


def test_a_minority_without_numbers_does_not_hide_the_others_and_a_majority_does() -> None:
    good = _binary(1, DIGESTS[0])
    bad = evaluate(DIGESTS[0], np.array([True, False]), np.array([np.nan, np.nan]))
    few = decode_evaluations(_summed([[good], [good], [bad]]), DIGESTS[:1], "binary", 2, 3)[0]
    assert few.loss == pytest.approx(2 * good.loss, abs=1e-7)
    most = decode_evaluations(_summed([[good], [bad], [bad]]), DIGESTS[:1], "binary", 2, 3)[0]
    assert most.loss == OVERFLOW


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_the_sum_with_a_site_whose_model_gave_no_numbers_is_believed(value: float) -> None:
    good, bad = np.full(50, 0.01), np.full(50, value)
    kinds: tuple[Kind, ...] = ("numbers", "reconstruction")
    for kind in kinds:
        reports = [
            [
                evaluate_numbers(DIGESTS[0], np.ones(50), 1 + errors, errors)
                if kind == "numbers"
                else evaluate_reconstruction(DIGESTS[0], errors)
            ]
            for errors in (good, good, bad)
        ]
        (found,) = decode_evaluations(_summed(reports), DIGESTS[:1], kind, 0, 3)
        check_evaluation(found)
        assert found.errors is not None
        assert found.errors.squared > 1e20


def test_statistics_add_and_large_squares_keep_their_digits() -> None:
    one = Statistics(bundle=DIGESTS[1], count=10, sums=(1.5, -2e9), squares=(0.25, 3e17))
    vector = encode_statistics(one) * 3
    found = decode_statistics(vector, DIGESTS[1], 2)
    assert found.count == 30
    assert found.sums == pytest.approx((4.5, -6e9), rel=1e-15)
    assert found.squares == pytest.approx((0.75, 9e17), rel=1e-15)


def test_every_integer_fits_the_declared_bits() -> None:
    worst = Statistics(bundle=DIGESTS[1], count=1, sums=(-1e24,), squares=(1e24,))
    assert np.abs(encode_statistics(worst)).max() < 1 << (BITS - 1)


def test_a_sum_that_no_reports_can_have_is_refused() -> None:
    vector = encode_evaluations([_binary(1, DIGESTS[0])])
    with pytest.raises(MalformedError, match="expected"):
        decode_evaluations(vector[:-1], DIGESTS[:1], "binary", 2, 3)
    vector[5] = -4
    with pytest.raises(MalformedError, match="no reports"):
        decode_evaluations(vector, DIGESTS[:1], "binary", 2, 3)
    with pytest.raises(MalformedError, match="columns"):
        decode_statistics(np.zeros(9, np.int64), DIGESTS[1], 2)


def test_lengths_and_subjects_follow_from_the_bundle() -> None:
    assert evaluation_length("binary", 2) == len(encode_evaluations([_binary(1, DIGESTS[0])]))
    assert subject_of(DIGESTS) != subject_of(DIGESTS[::-1])
