"""The file of means and deviations that a head names."""

import numpy as np
import pytest
from numpy.typing import NDArray

from wire.errors import MalformedError, WireError
from wire.standards import Standard, read_standard, standard_of, write_standard
from wire.tensors import write_safetensors

STANDARD = Standard(np.array([300.0, -1.5, 0.0]), np.array([2.0, 0.25, 1.0]))


def file_of(**tensors: NDArray[np.generic]) -> bytes:
    return write_safetensors(tensors)


def test_a_standard_comes_back_as_it_was_written() -> None:
    again = read_standard(write_standard(STANDARD), 3)
    assert again.mean.tolist() == STANDARD.mean.tolist()
    assert again.deviation.tolist() == STANDARD.deviation.tolist()
    assert again.mean.dtype == again.deviation.dtype == np.float64


ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (file_of(mean=ONES), "not a mean and a deviation"),
        (file_of(mean=ONES, deviation=ONES, more=ONES), "not a mean and a deviation"),
        (file_of(mean=ONES, deviation=ONES[:2]), "of the 3 columns"),
        (file_of(mean=ONES[:2], deviation=ONES[:2]), "of the 3 columns"),
        (file_of(mean=ONES, deviation=ONES.reshape(3, 1)), "of the 3 columns"),
        (file_of(mean=ONES, deviation=np.ones(3, np.int64)), "not a mean and a deviation, float32"),
        (file_of(mean=ONES, deviation=np.array([1, 0, 1], "f4")), "column 1 is not positive"),
        (file_of(mean=ONES, deviation=np.array([1, 1, -2], "f4")), "column 2 is not positive"),
        (file_of(mean=ONES, deviation=ONES * np.float32("inf")), "not finite"),
        (file_of(mean=ONES * np.float32("nan"), deviation=ONES), "not finite"),
        (b"", "header"),
    ],
)
def test_a_file_that_is_no_standard_of_these_columns_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        read_standard(data, 3)


def test_any_byte_changed_gives_a_standard_or_a_wire_error() -> None:
    good = write_standard(STANDARD)
    refused = 0
    for at in range(len(good)):
        try:
            read = read_standard(good[:at] + bytes([good[at] ^ 0x80]) + good[at + 1 :], 3)
        except WireError:
            refused += 1
        else:
            assert (read.deviation > 0).all()
    assert refused > len(good) / 2


def test_no_rows_give_a_standard_that_changes_nothing() -> None:
    standard = standard_of(0, np.zeros(2), np.zeros(2))
    assert (standard.mean.tolist(), standard.deviation.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_rounding_that_makes_a_variance_negative_is_no_deviation() -> None:
    standard = standard_of(3, np.array([0.3]), np.array([0.03 - 1e-17]))
    assert standard.deviation.tolist() == [1.0]


def test_a_deviation_that_float32_can_not_hold_counts_as_none() -> None:
    standard = standard_of(1000, np.array([0.0]), np.array([1e-90]))
    assert standard.deviation.tolist() == [1.0]
    assert read_standard(write_standard(standard), 1).deviation.tolist() == [1.0]
