"""The oracle of the gradient tests: runs our graphs in PyTorch, in any precision.

`KERNELS` has one entry for each operator that can be derived, `nearest_kink` one for each operator
whose slope jumps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import assume
from numpy.typing import NDArray

from agent.learning.graph import Graph, Node
from agent.learning.losses import Loss
from agent.learning.numpy_backend import NumpyBackend
from agent.learning.onnxruntime_backend import Backend, OnnxRuntimeBackend

Kernel = Callable[..., torch.Tensor]
Result = TypeVar("Result")

_MOVED_RUNS = 3


def _gemm(node: Node, a: torch.Tensor, b: torch.Tensor, *c: torch.Tensor) -> torch.Tensor:
    factor = b.T if node.attributes.get("transB") else b
    product = a @ factor * float(node.attributes.get("alpha", 1.0))  # type: ignore[arg-type]
    return product + c[0] * float(node.attributes.get("beta", 1.0)) if c else product  # type: ignore[arg-type]


def _layer_normalization(
    node: Node, a: torch.Tensor, scale: torch.Tensor, *bias: torch.Tensor
) -> torch.Tensor:
    axis = int(node.attributes.get("axis", -1))  # type: ignore[arg-type]
    epsilon = float(node.attributes.get("epsilon", 1e-5))  # type: ignore[arg-type]
    normal = torch.nn.functional.layer_norm(a, a.shape[axis % a.ndim :], eps=epsilon)
    return normal * scale + bias[0] if bias else normal * scale


def _reduction(reduce: Callable[..., torch.Tensor]) -> Kernel:
    def kernel(node: Node, a: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
        given = () if axes is None else tuple(axes.tolist())
        if not given and node.attributes.get("noop_with_empty_axes"):
            return a
        keep = bool(node.attributes.get("keepdims", 1))
        return reduce(a, dim=given or tuple(range(a.ndim)), keepdim=keep)

    return kernel


def _slice(
    _: Node,
    a: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    axes: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    along = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), along, by, strict=True):
        places = torch.arange(a.shape[axis]).numpy()[start:end:step]
        a = a.index_select(axis, torch.tensor(places.copy()))
    return a


def _upsample(
    node: Node,
    a: torch.Tensor,
    _: torch.Tensor | None,
    scales: torch.Tensor | None,
    sizes: torch.Tensor | None = None,
) -> torch.Tensor:
    axes = list(node.attributes.get("axes", range(a.ndim)))  # type: ignore[arg-type]
    shape = [a.shape[axis] for axis in axes]
    factors = scales.tolist() if scales is not None else []
    if sizes is not None:
        factors = [size / old for size, old in zip(sizes.tolist(), shape, strict=True)]
    for axis, factor in zip(axes, factors, strict=True):
        a = a.repeat_interleave(round(factor), axis)
    return a


def _squeeze(_: Node, a: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    return a.squeeze() if axes is None else a.squeeze(tuple(axes.tolist()))


def _unsqueeze(_: Node, a: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    rank = a.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes.tolist()):
        a = a.unsqueeze(axis)
    return a


def _flatten(node: Node, a: torch.Tensor) -> torch.Tensor:
    axis = int(node.attributes.get("axis", 1))  # type: ignore[arg-type]
    lead = a.shape[: axis if axis >= 0 else axis + a.ndim]
    return a.reshape(int(np.prod(lead)), -1)


def _transpose(node: Node, a: torch.Tensor) -> torch.Tensor:
    return a.permute(tuple(node.attributes.get("perm", range(a.ndim)[::-1])))  # type: ignore[arg-type]


def _clip(
    _: Node, a: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None
) -> torch.Tensor:
    return a if low is None and high is None else torch.clamp(a, low, high)


def _ints(node: Node, name: str, default: int, rank: int) -> list[int]:
    value = node.attributes.get(name, (default,) * rank)
    return [int(item) for item in value]  # type: ignore[union-attr]


def _padded(node: Node, a: torch.Tensor, value: float) -> torch.Tensor:
    rank = a.dim() - 2
    pads = _ints(node, "pads", 0, 2 * rank)
    pairs = [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]
    return torch.nn.functional.pad(a, pairs, value=value)


def _conv(node: Node, a: torch.Tensor, w: torch.Tensor, *b: torch.Tensor) -> torch.Tensor:
    rank = a.dim() - 2
    return torch.convolution(
        _padded(node, a, 0.0),
        w,
        b[0] if b else None,
        _ints(node, "strides", 1, rank),
        [0] * rank,
        _ints(node, "dilations", 1, rank),
        False,
        [0] * rank,
        int(node.attributes.get("group", 1)),  # type: ignore[arg-type]
    )


def _conv_transpose(node: Node, a: torch.Tensor, w: torch.Tensor, *b: torch.Tensor) -> torch.Tensor:
    rank = a.dim() - 2
    full = torch.convolution(
        a,
        w,
        None,
        _ints(node, "strides", 1, rank),
        [0] * rank,
        _ints(node, "dilations", 1, rank),
        True,
        [0] * rank,
        int(node.attributes.get("group", 1)),  # type: ignore[arg-type]
    )
    pads, extra = _ints(node, "pads", 0, 2 * rank), _ints(node, "output_padding", 0, rank)
    result = torch.nn.functional.pad(full, [size for more in reversed(extra) for size in (0, more)])
    for axis in range(rank):
        kept = result.shape[2 + axis] - pads[axis] - pads[axis + rank]
        result = result.narrow(2 + axis, pads[axis], kept)
    return result + b[0].reshape(-1, *(1,) * rank) if b else result


def _max_pool(node: Node, a: torch.Tensor) -> torch.Tensor:
    rank = a.dim() - 2
    pool = (torch.nn.functional.max_pool1d, torch.nn.functional.max_pool2d)[rank - 1]
    kernel = _ints(node, "kernel_shape", 1, rank)
    return pool(_padded(node, a, -torch.inf), kernel, _ints(node, "strides", 1, rank))


def _average_pool(node: Node, a: torch.Tensor) -> torch.Tensor:
    rank = a.dim() - 2
    pool = (torch.nn.functional.avg_pool1d, torch.nn.functional.avg_pool2d)[rank - 1]
    kernel, strides = _ints(node, "kernel_shape", 1, rank), _ints(node, "strides", 1, rank)
    mean: torch.Tensor = pool(_padded(node, a, 0.0), kernel, strides)
    if node.attributes.get("count_include_pad", 0):
        return mean
    share: torch.Tensor = pool(_padded(node, torch.ones_like(a), 0.0), kernel, strides)
    return mean / share


def _gap_in_pool(node: Node, a: torch.Tensor) -> float:
    """The smallest gap between the two largest of a window; equal ones tie in any precision."""
    rank = a.dim() - 2
    windows = _padded(node, a, -torch.inf)
    kernel, strides = _ints(node, "kernel_shape", 1, rank), _ints(node, "strides", 1, rank)
    for axis in range(rank):
        windows = windows.unfold(2 + axis, kernel[axis], strides[axis])
    if int(np.prod(kernel)) == 1:
        return np.inf
    first, second = windows.flatten(2 + rank).topk(2).values.unbind(-1)
    gaps = (first - second)[first > second]
    return float(gaps.min()) if gaps.numel() else np.inf


KERNELS: Mapping[str, Kernel] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda _, a: a.mean(list(range(2, a.dim())), keepdim=True),
    "Gemm": _gemm,
    "MatMul": lambda _, a, b: a @ b,
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Relu": lambda _, a: torch.relu(a),
    "Sigmoid": lambda _, a: torch.sigmoid(a),
    "Tanh": lambda _, a: torch.tanh(a),
    "Identity": lambda _, a: a,
    "Flatten": _flatten,
    "Reshape": lambda _, a, shape: a.reshape(
        [a.shape[i] if s == 0 else int(s) for i, s in enumerate(shape)]
    ),
    "Softmax": lambda node, a: torch.softmax(a, node.attributes.get("axis", -1)),
    "LogSoftmax": lambda node, a: torch.log_softmax(a, node.attributes.get("axis", -1)),
    "Clip": _clip,
    "Concat": lambda node, *parts: torch.cat(parts, node.attributes["axis"]),
    "Div": lambda _, a, b: a / b,
    "Erf": lambda _, a: torch.erf(a),
    "Exp": lambda _, a: torch.exp(a),
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": lambda node, a: torch.nn.functional.leaky_relu(
        a, node.attributes.get("alpha", 0.01)
    ),
    "Log": lambda _, a: torch.log(a),
    "Neg": lambda _, a: -a,
    "Pow": lambda _, a, exponent: a ** exponent.detach(),
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "Resize": _upsample,
    "Slice": _slice,
    "Softplus": lambda _, a: torch.logaddexp(a, torch.zeros_like(a)),
    "Sqrt": lambda _, a: torch.sqrt(a),
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


KINKS: Mapping[str, Callable[..., float]] = {
    "MaxPool": _gap_in_pool,
    "Clip": lambda _, a, *bounds: min(
        (float((a - bound).abs().min()) for bound in bounds if bound is not None), default=np.inf
    ),
    "LeakyRelu": lambda _, a: float(a.abs().min()),
    "Relu": lambda _, a: float(a.abs().min()),
}
"""Operator -> distance of its inputs from where the slope jumps, where rounding would decide."""


def run_in_torch(
    graph: Graph,
    x: NDArray[Any] | torch.Tensor,
    dtype: torch.dtype,
    dice: torch.Generator | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
    """Run a graph; return output, parameters, and how near any value is to a jump of a slope.

    With `dice` every value, and every gradient on its way back, is moved up or down by a step of
    float32.
    """
    given = x if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=dtype)
    values: dict[str, torch.Tensor] = {"x": given}
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
        inputs = [values[name] if name else None for name in node.inputs]
        if node.op in KINKS:
            settled = [None if value is None else value.detach() for value in inputs]
            kink = min(kink, KINKS[node.op](node, *settled))
        value = KERNELS[node.op](node, *inputs)
        values[node.outputs[0]] = value if dice is None else value * _rounding(value, dice)
    return values[graph.outputs[0].name], params, kink


def _rounding(value: torch.Tensor, dice: torch.Generator) -> torch.Tensor:
    """1 and a step of float32 more or less, in the shape of a value."""
    signs = 2 * torch.randint(0, 2, value.shape, generator=dice) - 1
    return 1 + float(np.finfo(np.float32).eps) * signs.to(value.dtype)


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
    graph: Graph, loss: Loss, data: Data, dtype: torch.dtype
) -> tuple[float, NDArray[np.float64]]:
    """The weighted mean loss and its gradient, flat; gives up the example at a kink.

    In float32 it is the worst of several runs.
    """
    x, y, w = data
    target = x if loss is Loss.RECONSTRUCTION else y

    def run(dtype: torch.dtype, dice: torch.Generator | None) -> tuple[float, NDArray[np.float64]]:
        output, params, kink = run_in_torch(graph, x, dtype, dice)
        assume(kink > 1e-4)
        value = torch_losses(loss, output, target, w).sum() / float(w.sum(dtype=np.float64))
        return float(value.detach()), _flat(torch.autograd.grad(value, list(params.values())))

    if dtype == torch.float64:
        return run(dtype, None)
    _, exact = run(torch.float64, None)
    return max(_in_single(run), key=lambda one: distance(one[1], exact))


def torch_example_gradients(
    graph: Graph, loss: Loss, data: Data, dtype: torch.dtype
) -> NDArray[np.float64]:
    """Each example's own gradient of w_n l_n, (N, P), one backward pass for each.

    In float32 it is the worst of several runs.
    """
    x, y, w = data
    target = x if loss is Loss.RECONSTRUCTION else y

    def run(dtype: torch.dtype, dice: torch.Generator | None) -> NDArray[np.float64]:
        output, params, _ = run_in_torch(graph, x, dtype, dice)
        each = torch_losses(loss, output, target, w)
        wanted = list(params.values())
        gradients = [torch.autograd.grad(one, wanted, retain_graph=True) for one in each]
        return np.stack([_flat(one) for one in gradients])

    if dtype == torch.float64:
        return run(dtype, None)
    exact = run(torch.float64, None)
    return max(_in_single(run), key=lambda one: distance(one, exact))


def _in_single(run: Callable[[torch.dtype, torch.Generator | None], Result]) -> list[Result]:
    """Run in float32 as it is, and with every value moved at random by a step.

    Where a graph has lost its digits (x - tanh(x) near 0), the error of one run is chance, and may
    be many times smaller than what the same operations give in another order.
    """
    dice = torch.Generator().manual_seed(1)
    return [run(torch.float32, None), *(run(torch.float32, dice) for _ in range(_MOVED_RUNS))]


def torch_input_gradients(
    graph: Graph, loss: Loss, x: NDArray[Any], dtype: Any
) -> NDArray[np.float64]:
    """The gradient of each example's margin in its input; gives up the example at a kink."""
    rows = torch.tensor(x, dtype=dtype, requires_grad=True)
    output, _, kink = run_in_torch(graph, rows, dtype)
    assume(kink > 1e-4)
    margins = output.flatten(1).sum(1)
    if loss is Loss.CROSS_ENTROPY:
        margins = torch.logsumexp(output[:, 1:], 1) - output[:, 0]
    (gradient,) = torch.autograd.grad(margins.sum(), rows)
    return np.asarray(gradient.double().numpy())


def _flat(gradients: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    return np.concatenate([g.double().numpy().ravel() for g in gradients])


def backends(graph: Graph, loss: Loss) -> tuple[Backend, ...]:
    """Every backend, with one model: what holds for one must hold for all."""
    return OnnxRuntimeBackend(graph, loss), NumpyBackend(graph, loss)


def distance(got: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Normwise relative error."""
    gap = np.linalg.norm(got.astype(np.float64).ravel() - expected.ravel())
    return float(gap) / max(float(np.linalg.norm(expected)), 1e-30)


def allowed(single: NDArray[np.float64], double: NDArray[np.float64]) -> float:
    """The bound of the project: 1e-5, or four times PyTorch's own error in float32.

    That error is the worst of several runs' (`_in_single`): of one alone, four times may be less
    than the example's own uncertainty.
    """
    return max(1e-5, 4 * distance(single, double))
