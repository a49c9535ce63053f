"""Exported ONNX files are read back and run by others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from agent.learning.export.onnx_export import export_onnx
from agent.learning.graph import read_graph
from agent.learning.ir import initial_params
from agent.learning.silent_onnxruntime import onnxruntime
from tests.agent.learning.export.conftest import run_onnx
from tests.agent.learning.export.export_models import CASES, rows_for


@pytest.mark.parametrize("case", sorted(CASES))
def test_exported_onnx_holds_the_trained_parameters_and_nothing_else_changes(case: str) -> None:
    graph = CASES[case]()
    trained = {name: value * np.float32(1.5) for name, value in initial_params(graph).items()}
    data = export_onnx(graph, trained)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    again = read_graph(data)
    assert [node.op for node in again.nodes] == [node.op for node in graph.nodes]
    for name, value in initial_params(again).items():
        assert np.array_equal(value, trained[name])
    rows = rows_for(graph, 5, seed=3)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": rows})[0], run_onnx(again, rows))
    assert not np.allclose(run_onnx(graph, rows), run_onnx(again, rows))


def test_the_same_model_gives_the_same_onnx_file() -> None:
    graph = CASES["cnn1d"]()
    assert export_onnx(graph, initial_params(graph)) == export_onnx(
        CASES["cnn1d"](), initial_params(graph)
    )


def test_parameters_of_another_shape_are_not_exported() -> None:
    graph = CASES["mlp"]()
    params = initial_params(graph)
    first = next(iter(params))
    with pytest.raises(ValueError, match=first):
        export_onnx(graph, {**params, first: params[first][:-1]})
