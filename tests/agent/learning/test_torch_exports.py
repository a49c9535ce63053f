"""Models exported by PyTorch, by both of its exporters, are read, simplified, and train."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from agent.learning.graph import (
    FORWARD_OPERATORS,
    Graph,
    Params,
    initial_params,
    read_graph,
    write_graph,
)
from agent.learning.losses import Loss
from agent.learning.onnxruntime_backend import OnnxRuntimeBackend
from agent.learning.simplify import read_exported
from agent.learning.train import TrainingPlan, train
from tests.agent.learning.exported_models import CASES, EXPORTERS, Case, export, without_notes
from tests.agent.learning.oracle import allowed, backends, distance, torch_losses

FIXTURES = Path(__file__).parents[2] / "golden" / "onnx"
PAIRS = [(name, exporter) for name in CASES for exporter in EXPORTERS]

MERGED = ("fresh_norms", "dynamo")
"""Here the exporter makes one tensor of several that begin equal, so one is trained for all."""

FROZEN = {("activations", "dynamo"): ("arange",)}
"""Constants that the exporter computed, and stored as it stores parameters."""


def exported(name: str, exporter: str) -> bytes:
    """The export, or the fixture where the exporter is not installed."""
    if exporter != "script" and find_spec("onnxscript") is None:
        return (FIXTURES / f"{name}.{exporter}.onnx").read_bytes()
    return export(CASES[name], exporter)


def build(name: str, exporter: str) -> Graph:
    return read_exported(exported(name, exporter), FROZEN.get((name, exporter), ()))


def rows(case: Case, count: int) -> NDArray[np.float32]:
    shape = (count, *case.shape)
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def targets(case: Case, output: NDArray[Any]) -> tuple[Loss, NDArray[np.float32]]:
    if case.repeats:
        return Loss.RECONSTRUCTION, np.zeros((len(output), 0), np.float32)
    random = np.random.default_rng(8)
    return Loss.MSE, random.standard_normal(output.shape).astype(np.float32)


def torch_run(
    case: Case, data: tuple[Any, Any, Any], dtype: torch.dtype
) -> tuple[NDArray[Any], dict[str, NDArray[np.float64]]]:
    """The model's own output, and gradients of the weighted mean loss by state_dict name."""
    x, y, w = data
    model = case.model().to(dtype)
    output = model(torch.tensor(x, dtype=dtype))
    loss, given = targets(case, output.detach().numpy())
    target = x if loss is Loss.RECONSTRUCTION else (given if y is None else y)
    value = torch_losses(loss, output, target, w).sum() / float(w.sum(dtype=np.float64))
    value.backward()
    gradients = {name: p.grad.double().numpy() for name, p in model.named_parameters()}
    return output.detach().numpy(), gradients


def named(case: Case, params: Params) -> dict[str, tuple[str, bool]]:
    """Graph's parameter -> the model's, by name or else by values; and whether it is transposed."""
    theirs = {name: p.detach().numpy() for name, p in case.model().named_parameters()}
    found = {name: (name, False) for name in params if name in theirs}
    for name, value in params.items():
        for other, wanted in theirs.items():
            same = wanted.size == value.size and np.array_equal(wanted.ravel(), value.ravel())
            turned = wanted.ndim == 2 and np.array_equal(wanted.T, value)
            if name not in found and (other, False) not in found.values() and (same or turned):
                found[name] = (other, not same)
    return found


@pytest.mark.parametrize(("name", "exporter"), PAIRS)
def test_an_exported_model_becomes_core_operators_with_the_same_output(
    name: str, exporter: str
) -> None:
    case = CASES[name]
    graph = build(name, exporter)
    assert {node.op for node in graph.nodes} <= FORWARD_OPERATORS
    assert [node.op for node in graph.nodes].count("Identity") == 0
    onnx.checker.check_model(write_graph(graph), full_check=True)
    again = read_graph(write_graph(graph))
    assert initial_params(again).keys() == initial_params(graph).keys()

    for count in (1, 5):
        x = rows(case, count)
        expected = case.model()(torch.tensor(x)).detach().numpy()
        loss, _ = targets(case, expected)
        for backend in backends(again, loss):
            got = backend.infer(initial_params(again), x)
            assert got.shape == expected.shape
            assert distance(got, expected.astype(np.float64)) <= 1e-5


@pytest.mark.parametrize(("name", "exporter"), [pair for pair in PAIRS if pair != MERGED])
def test_gradients_of_an_exported_model_are_torch_s(name: str, exporter: str) -> None:
    case = CASES[name]
    graph = build(name, exporter)
    params = initial_params(graph)
    x = rows(case, 6)
    w = np.random.default_rng(9).uniform(0.1, 2, 6).astype(np.float32)
    output, _ = torch_run(case, (x, None, w), torch.float64)
    loss, y = targets(case, output)
    _, expected = torch_run(case, (x, y, w), torch.float64)
    _, single = torch_run(case, (x, y, w), torch.float32)

    pairs = named(case, params)
    assert pairs.keys() == params.keys()
    assert {other for other, _ in pairs.values()} == set(expected)
    whole = float(np.linalg.norm(np.concatenate([g.ravel() for g in expected.values()])))
    for backend in backends(graph, loss):
        _, got = backend.grads(params, x, y, w)
        for mine, (theirs, turned) in pairs.items():
            gradient = got[mine].T if turned else got[mine]
            wanted = expected[theirs]
            if np.linalg.norm(wanted) < 1e-6 * whole:  # one that is 0 by theory
                assert np.linalg.norm(gradient) <= 1e-5 * whole
            else:
                assert distance(gradient, wanted) <= allowed(single[theirs], wanted), mine


@pytest.mark.parametrize(("name", "exporter"), PAIRS)
def test_an_exported_model_learns(name: str, exporter: str) -> None:
    case = CASES[name]
    graph = build(name, exporter)
    params = initial_params(graph)
    x = rows(case, 24)
    loss, y = targets(case, case.model()(torch.tensor(x)).detach().numpy())
    plan = TrainingPlan(epochs=8, batch_size=8, optimizer="adam", learning_rate=3e-3)
    result = train(OnnxRuntimeBackend(graph, loss), params, x, y, plan)
    assert result.loss_last_epoch < 0.99 * result.loss_first_epoch


@pytest.mark.parametrize("exporter", ["script", "plain"])
def test_parameters_that_begin_equal_stay_apart(exporter: str) -> None:
    case = CASES["fresh_norms"]
    params = initial_params(build("fresh_norms", exporter))
    assert len(params) == len(list(case.model().named_parameters()))


@pytest.mark.parametrize("name", CASES)
def test_without_the_exporter_s_optimisations_parameters_keep_torch_s_names_and_shapes(
    name: str,
) -> None:
    theirs = {k: tuple(p.shape) for k, p in CASES[name].model().named_parameters()}
    params = initial_params(build(name, "plain"))
    assert {k: value.shape for k, value in params.items()} == theirs


def test_running_statistics_are_not_trained() -> None:
    for exporter in EXPORTERS:
        graph = build("batch_norm", exporter)
        values = [value for value in initial_params(graph).values() if value.ndim == 1]
        for norm in (CASES["batch_norm"].model().first, CASES["batch_norm"].model().second):
            assert not any(np.array_equal(v, norm.running_mean.numpy()) for v in values)
            assert not any(np.array_equal(v, norm.running_var.numpy()) for v in values)


def test_the_state_of_an_unrolled_network_is_one_row_for_all_examples() -> None:
    for exporter in EXPORTERS:
        graph: Graph = build("gru", exporter)
        constants = [n.attributes["value"] for n in graph.nodes if n.op == "Constant"]
        assert [np.shape(value) for value in constants] == [(1, 5)]


def test_fixtures_hold_no_path_of_the_machine_they_were_made_on() -> None:
    files = sorted(FIXTURES.glob("*.onnx"))
    assert len(files) == 2 * len(CASES)
    for file in files:
        data = file.read_bytes()
        assert len(data) < 50_000
        assert b".py" not in data
        assert without_notes(data) == data
