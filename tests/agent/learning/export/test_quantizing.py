"""Scales, zero points and ranges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.learning.export.calibration import Range, calibrate, least_error
from agent.learning.export.quantize import activation_quantization, short_scale
from agent.learning.ir import GraphError
from tests.agent.learning.export.export_models import Sketch

ENDS = st.floats(0, 1e6, width=32)


@given(low=ENDS, high=ENDS)
def test_zero_is_exact_and_the_range_fits_into_int8(low: float, high: float) -> None:
    assume(low + high > 0)
    quantization = activation_quantization(Range(-low, high))
    scale, zero_point = float(quantization.scale[0]), quantization.zero_point
    assert -128 <= zero_point <= 127
    assert (-128 - zero_point) * scale <= -low + scale
    assert (127 - zero_point) * scale >= high - scale
    assert 255 * scale <= 1.001 * (low + high) + 1e-6


def test_a_value_that_is_always_zero_gets_an_ordinary_scale() -> None:
    quantization = activation_quantization(Range(0.0, 0.0))
    assert quantization.scale.tolist() == [1.0]
    assert quantization.zero_point == 0


@given(first=st.floats(1e-9, 1e6), second=st.floats(1e-9, 1e6))
def test_products_of_two_scales_are_exact_in_float32(first: float, second: float) -> None:
    short = short_scale(np.array([first, second]))
    assert first <= short[0] <= first * 1.001
    assert np.float64(short[0]) * np.float64(short[1]) == np.float64(short[0] * short[1])


def test_a_rare_extreme_does_not_coarsen_everything_else() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.standard_normal(1_000_000), [12.0]])
    seen = Range(float(values.min()), 12.0)
    counts = np.histogram(values, 2048, (seen.low, seen.high))[0]
    chosen = least_error(seen, counts)
    assert 3.5 < chosen.high < 8

    def error(used: Range) -> float:
        quantization = activation_quantization(used)
        scale, zero_point = float(quantization.scale[0]), quantization.zero_point
        numbers = np.clip(np.rint(values / scale) + zero_point, -128, 127)
        return float(np.mean(((numbers - zero_point) * scale - values) ** 2))

    assert error(chosen) < 0.7 * error(seen)


def test_evenly_spread_values_keep_their_whole_range() -> None:
    counts = np.full(2048, 50)
    chosen = least_error(Range(-1.0, 1.0), counts)
    assert chosen.low < -0.98
    assert chosen.high > 0.98


def test_ranges_are_those_of_all_rows_and_include_zero() -> None:
    sketch = Sketch((3,))
    output = sketch.op("Add", "x", sketch.parameter(3))
    graph = sketch.graph(output)
    rows = np.array([[1, 2, 3], [4, 5, 9]], np.float32)
    ranges = calibrate(graph, rows, {"x", output}, {"x", output})
    assert ranges["x"] == Range(0.0, 9.0)
    expected = rows + graph.initializers["p0"]
    assert ranges[output].high == pytest.approx(expected.max())


def test_a_value_that_overflows_over_the_rows_is_named() -> None:
    sketch = Sketch((3,))
    output = sketch.op("Exp", sketch.op("Add", "x", sketch.parameter(3)))
    graph = sketch.graph(output)
    rows = np.full((2, 3), 1000, np.float32)
    with pytest.raises(GraphError, match=f"{output}.*not finite"):
        calibrate(graph, rows, {"x", output}, {"x"})
