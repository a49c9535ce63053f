"""The oracle of the gradient tests: runs our graphs in PyTorch, in any precision.

`KERNELS` has one entry for each operator that can be derived, `nearest_kink` one for each operator
whose slope jumps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import assume
from numpy.typing import NDArray

from agent.learning.graph import Graph, Node
from agent.learning.losses import Loss

Kernel = Callable[..., torch.Tensor]


def _gemm(node: Node, a: torch.Tensor, b: torch.Tensor, *c: torch.Tensor) -> torch.Tensor:
    factor = b.T if node.attributes.get("transB") else b
    product = a @ factor * float(node.attributes.get("alpha", 1.0))  # type: ignore[arg-type]
    return product + c[0] * float(node.attributes.get("beta", 1.0)) if c else product  # type: ignore[arg-type]


KERNELS: Mapping[str, Kernel] = {
    "Gemm": _gemm,
    "MatMul": lambda _, a, b: a @ b,
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Relu": lambda _, a: torch.relu(a),
    "Sigmoid": lambda _, a: torch.sigmoid(a),
    "Tanh": lambda _, a: torch.tanh(a),
    "Identity": lambda _, a: a,
    "Flatten": lambda _, a: a.flatten(1),
    "Reshape": lambda _, a, shape: a.reshape(
        [a.shape[i] if s == 0 else int(s) for i, s in enumerate(shape)]
    ),
    "Softmax": lambda _, a: torch.softmax(a, -1),
    "LogSoftmax": lambda _, a: torch.log_softmax(a, -1),
}


KINKS: Mapping[str, Callable[..., float]] = {
    "Relu": lambda _, a: float(a.abs().min()),
}
"""Operator -> distance of its inputs from where the slope jumps, where rounding would decide."""


def run_in_torch(
    graph: Graph, x: NDArray[Any], dtype: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
    """Run a graph; return output, parameters, and how near any value is to a jump of a slope."""
    values: dict[str, torch.Tensor] = {"x": torch.tensor(x, dtype=dtype)}
    params = {}
    kink = np.inf
    for name, value in graph.initializers.items():
        if value.dtype != np.float32:
            values[name] = torch.tensor(value)
            continue
        values[name] = torch.tensor(value, dtype=dtype, requires_grad=value.ndim > 0)
        if value.ndim:
            params[name] = values[name]
    for node in graph.nodes:
        if node.op == "Constant":
            values[node.outputs[0]] = torch.tensor(node.attributes["value"])
            continue
        inputs = [values[name] for name in node.inputs if name]
        if node.op in KINKS:
            kink = min(kink, KINKS[node.op](node, *(value.detach() for value in inputs)))
        values[node.outputs[0]] = KERNELS[node.op](node, *inputs)
    return values[graph.outputs[0].name], params, kink


def torch_losses(
    loss: Loss, output: torch.Tensor, y: NDArray[Any], w: NDArray[Any]
) -> torch.Tensor:
    """Each example's loss times its weight; for `RECONSTRUCTION`, y are the rows themselves."""
    weights = torch.tensor(w, dtype=output.dtype)
    functional = torch.nn.functional
    if loss is Loss.CROSS_ENTROPY:
        each = functional.cross_entropy(output, torch.tensor(y), reduction="none")
    else:
        target = torch.tensor(y, dtype=output.dtype)
        if loss in (Loss.MSE, Loss.RECONSTRUCTION):
            each = ((output - target) ** 2).flatten(1).mean(1)
        elif loss is Loss.HUBER:
            each = functional.huber_loss(output, target, reduction="none").flatten(1).mean(1)
        else:
            each = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
            each = each[:, 0]
    return each * weights


Data = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""Rows, labels, weights."""


def torch_gradients(
    graph: Graph, loss: Loss, data: Data, dtype: Any
) -> tuple[float, NDArray[np.float64]]:
    """The weighted mean loss and its gradient, flat; gives up the example at a kink."""
    x, y, w = data
    output, params, kink = run_in_torch(graph, x, dtype)
    assume(kink > 1e-4)
    target = x if loss is Loss.RECONSTRUCTION else y
    value = torch_losses(loss, output, target, w).sum() / float(w.sum(dtype=np.float64))
    return float(value.detach()), _flat(torch.autograd.grad(value, list(params.values())))


def torch_example_gradients(
    graph: Graph, loss: Loss, data: Data, dtype: Any
) -> NDArray[np.float64]:
    """Each example's own gradient of w_n l_n, (N, P), one backward pass for each."""
    x, y, w = data
    output, params, _ = run_in_torch(graph, x, dtype)
    target = x if loss is Loss.RECONSTRUCTION else y
    each = torch_losses(loss, output, target, w)
    wanted = list(params.values())
    return np.stack([_flat(torch.autograd.grad(one, wanted, retain_graph=True)) for one in each])


def _flat(gradients: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    return np.concatenate([g.double().numpy().ravel() for g in gradients])


def distance(got: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Normwise relative error."""
    gap = np.linalg.norm(got.astype(np.float64).ravel() - expected.ravel())
    return float(gap) / max(float(np.linalg.norm(expected)), 1e-30)


def allowed(single: NDArray[np.float64], double: NDArray[np.float64]) -> float:
    """The bound of the project: 1e-5, or four times PyTorch's own error in float32."""
    return max(1e-5, 4 * distance(single, double))
