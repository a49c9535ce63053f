"""Exported `.tflite` models against ONNX Runtime, in three TFLite runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.learning.export.lowering import RULES
from agent.learning.export.tflite_export import export_tflite, export_tflite_int8
from agent.learning.ir import FORWARD_OPERATORS, Graph, GraphError, Node, ValueInfo, initial_params
from tests.agent.learning.export.conftest import Exports
from tests.agent.learning.export.export_models import CASES, GEOMETRIES, Sketch, rows_for

FLOAT_TOLERANCE = 1e-5
"""Normwise, ||tflite - onnx|| / ||onnx||; measured: at most 5e-7."""

INT8_TOLERANCE = 0.08
"""Normwise, of random weights on random rows; measured: .004 to .056 for whole models. Trained
models on data with structure are nearer; how near is for the benchmarks on real data to say."""

ALL = sorted({**CASES, **GEOMETRIES})


def distance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("case", ALL)
def test_litert_computes_float_exports_as_onnx_runtime_does(case: str, in_litert: Exports) -> None:
    real = in_litert.outputs(f"{case}-float", "litert", "real")
    assert distance(real, in_litert.references[case]) <= FLOAT_TOLERANCE


@pytest.mark.parametrize("case", ALL)
def test_tflite_runtime_computes_float_exports_as_onnx_runtime_does(
    case: str, in_runtime: Exports
) -> None:
    real = in_runtime.outputs(f"{case}-float", "runtime", "real")
    assert distance(real, in_runtime.references[case]) <= FLOAT_TOLERANCE


@pytest.mark.parametrize("case", ALL)
def test_the_microcontroller_computes_float_exports_as_litert_does(
    case: str, in_tflm: Exports
) -> None:
    device = in_tflm.outputs(f"{case}-float", "tflm")
    assert distance(device, in_tflm.outputs(f"{case}-float", "litert")) <= FLOAT_TOLERANCE


@pytest.mark.parametrize("case", ALL)
def test_int8_exports_stay_near_the_float_model(case: str, in_litert: Exports) -> None:
    real = in_litert.outputs(f"{case}-int8", "litert", "real")
    assert distance(real, in_litert.references[case]) <= INT8_TOLERANCE


@pytest.mark.parametrize("case", ALL)
def test_int8_exports_give_the_same_bytes_on_gateway_and_microcontroller(
    case: str, in_tflm: Exports
) -> None:
    device = in_tflm.outputs(f"{case}-int8", "tflm")
    assert device.dtype == np.int8
    assert np.array_equal(device, in_tflm.outputs(f"{case}-int8", "litert"))


@pytest.mark.parametrize("case", ALL)
def test_int8_exports_give_the_same_bytes_in_both_gateway_runtimes(
    case: str, in_litert: Exports, in_runtime: Exports
) -> None:
    old = in_runtime.outputs(f"{case}-int8", "runtime")
    assert np.array_equal(old, in_litert.outputs(f"{case}-int8", "litert"))


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_arena_of_every_family_is_reported_and_fits_a_small_device(
    case: str, in_tflm: Exports
) -> None:
    report = in_tflm.report(f"{case}-int8", "tflm")
    assert 500 < report["arena_used_bytes"] < 32 << 10
    assert report["bytes"] < 64 << 10


@pytest.mark.parametrize("case", sorted(CASES))
def test_int8_input_and_output_hold_what_calibration_saw(case: str, in_litert: Exports) -> None:
    graph = CASES[case]()
    report = in_litert.report(f"{case}-int8", "litert")
    seen = rows_for(graph, 300, seed=1)
    port = report["input"]
    low, high = ((end - port["zero_point"]) * port["scale"] for end in (-128, 127))
    assert low - port["scale"] <= seen.min()
    assert high + port["scale"] >= seen.max()
    assert high - low <= 1.01 * (seen.max() - seen.min())
    assert port["shape"] == list(graph.inputs[0].shape[1:])
    assert report["output"]["shape"] == list(graph.outputs[0].shape[1:])
    assert report["output"]["dtype"] == "int8"
    assert report["output"]["scale"] > 0


def test_windows_of_convolutions_go_in_channels_last(in_litert: Exports) -> None:
    port = in_litert.report("cnn1d-int8", "litert")["input"]
    assert port["name"] == "x@NCW"
    assert port["shape"] == [3, 256]
    assert port["stored"] == [1, 1, 256, 3]
    plain = in_litert.report("time_first1d-int8", "litert")["input"]
    assert plain["name"] == "x"
    assert plain["stored"] == [1, 30, 5]


@pytest.mark.parametrize("case", sorted(CASES))
def test_constants_lie_aligned_for_microcontrollers(case: str, in_schema: Exports) -> None:
    for kind in ("float", "int8"):
        report = in_schema.report(f"{case}-{kind}", "schema")
        assert report["version"] == 3
        assert report["positions"]
        assert all(position % 16 == 0 for position in report["positions"])


def test_another_reader_finds_signature_and_types(in_schema: Exports) -> None:
    report = in_schema.report("mlp-int8", "schema")
    assert report["signature"] == ["serving_default", "x", "softmax5"]
    assert [end["type"] for end in report["ends"]] == [9, 9]
    assert [end["type"] for end in in_schema.report("mlp-float", "schema")["ends"]] == [0, 0]


def test_activations_and_layouts_cost_no_operators_of_their_own(in_schema: Exports) -> None:
    assert in_schema.report("cnn2d-float", "schema")["operators"] == [
        "CONV_2D",
        "MAX_POOL_2D",
        "PAD",
        "CONV_2D",
        "CONV_2D",
        "CONV_2D",
        "ADD",
        "PADV2",
        "MAX_POOL_2D",
        "FULLY_CONNECTED",
        "FULLY_CONNECTED",
    ]
    for case in CASES:
        operators = in_schema.report(f"{case}-int8", "schema")["operators"]
        if case not in ("normalized1d", "group_normalized1d", "time_first1d"):
            assert "TRANSPOSE" not in operators, case
        assert "FULLY_CONNECTED" not in operators, case


def test_int8_models_of_plain_layers_hold_no_float_operators(in_schema: Exports) -> None:
    for case in ("mlp", "cnn1d", "depthwise1d", "cnn2d", "autoencoder1d", "autoencoder2d"):
        operators = in_schema.report(f"{case}-int8", "schema")["operators"]
        assert not {"QUANTIZE", "DEQUANTIZE"}.intersection(operators), case


def test_normalizations_of_int8_models_are_computed_in_float(in_schema: Exports) -> None:
    operators = in_schema.report("normalized1d-int8", "schema")["operators"]
    start, end = operators.index("DEQUANTIZE"), operators.index("QUANTIZE")
    assert "RSQRT" in operators[start:end]


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_same_model_gives_the_same_file(case: str, written: Exports) -> None:
    graph = CASES[case]()
    params = initial_params(graph)
    rows = rows_for(graph, 300, seed=1)
    folder = written.folder
    assert export_tflite(graph, params) == (folder / f"{case}-float.tflite").read_bytes()
    data = export_tflite_int8(graph, params, rows)
    assert data == (folder / f"{case}-int8.tflite").read_bytes()


def test_trained_parameters_are_what_is_exported(written: Exports) -> None:
    graph = CASES["mlp"]()
    trained = {name: value + 1 for name, value in initial_params(graph).items()}
    data = export_tflite(graph, trained)
    assert data != (written.folder / "mlp-float.tflite").read_bytes()
    assert len(data) == (written.folder / "mlp-float.tflite").stat().st_size


def test_every_operator_that_can_be_trained_can_be_exported() -> None:
    assert set(RULES) == FORWARD_OPERATORS - {"Constant"}


def test_parameters_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="parameters"):
        export_tflite(CASES["mlp"](), initial_params(CASES["cnn1d"]()))


def test_an_operator_without_counterpart_is_named_with_its_node() -> None:
    graph = Graph(
        (Node("Cos", ("x",), ("y",), {}, "wave"),),
        (ValueInfo("x", "float32", ("N", 4)),),
        (ValueInfo("y", "float32", ("N", 4)),),
        {},
    )
    with pytest.raises(GraphError, match=r"'wave' \(Cos\).*TFLite \(float32 or int8\)"):
        export_tflite(graph, {})


def test_softmax_over_an_inner_axis_is_refused_with_its_node() -> None:
    sketch = Sketch((4, 5, 6))
    graph = sketch.graph(sketch.op("Softmax", "x", axis=2))
    with pytest.raises(GraphError, match=r"\(Softmax\).*axis 2"):
        export_tflite(graph, {})


def test_a_weight_that_is_computed_from_the_input_is_refused() -> None:
    sketch = Sketch((4,))
    flat = sketch.op("Reshape", "x", sketch.settings(1, 4, 1))
    graph = sketch.graph(sketch.op("Conv", flat, flat))
    with pytest.raises(GraphError, match=r"\(Reshape\)|\(Conv\)"):
        export_tflite(graph, {})


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((0, 16), np.float32),
        np.zeros((5, 15), np.float32),
        np.zeros((5, 16), np.float64),
        np.full((5, 16), np.nan, np.float32),
    ],
)
def test_representative_rows_that_do_not_fit_are_refused(
    rows: NDArray[Any],
) -> None:
    graph = CASES["mlp"]()
    with pytest.raises(ValueError, match="rows"):
        export_tflite_int8(graph, initial_params(graph), rows)
