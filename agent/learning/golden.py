"""Golden vectors: does this gateway's runtime compute what the bundle's author computed?

A bundle carries a few rows with the author's output, loss and gradient norms; an agent checks
them on its own runtime before it uses the model. Backends are not bit-identical, so everything
is compared with a relative tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learning.ir import Params
from agent.learning.runtime import Backend

_NORM = "grad_norm:"


@dataclass(frozen=True)
class Golden:
    """Rows with what a model makes of them.

    Attributes:
      x: rows, float32 (N, ...).
      y: labels, see `Loss`.
      output: the model's output, float32 (N, ...).
      loss: mean loss, all weights 1.
      grad_norms: parameter name -> Euclidean norm of the mean loss's gradient.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    output: NDArray[np.float32]
    loss: float
    grad_norms: Mapping[str, float]


class GoldenMismatch(ValueError):  # noqa: N818 - a verdict, named as the bundle's spec names it
    """This runtime computes something else than the bundle's author.

    Attributes:
      what: the quantity that differs.
      expected: the author's, in words.
      got: this runtime's, in words.
    """

    def __init__(self, what: str, expected: str, got: str) -> None:
        super().__init__(f"golden {what}: expected {expected}, got {got}")
        self.what = what
        self.expected = expected
        self.got = got


def make_golden(
    backend: Backend, params: Params, x: NDArray[np.float32], y: NDArray[Any]
) -> Golden:
    """Compute golden vectors for rows x and labels y with this runtime."""
    output = backend.infer(params, x)
    loss, gradients = backend.grads(params, x, y, np.ones(len(x), np.float32))
    norms = {name: float(np.linalg.norm(value)) for name, value in gradients.items()}
    return Golden(x, y, output, loss, norms)


def golden_tensors(golden: Golden) -> dict[str, NDArray[Any]]:
    """Return golden vectors as the tensors of a bundle's golden file; see `read_golden`."""
    norms = {_NORM + name: np.array(norm, np.float32) for name, norm in golden.grad_norms.items()}
    return {
        "x": golden.x,
        "y": golden.y,
        "output": golden.output,
        "loss": np.array(golden.loss, np.float32),
        **norms,
    }


def read_golden(tensors: Mapping[str, NDArray[Any]]) -> Golden:
    """Read golden vectors from named tensors.

    Args:
      tensors: `x`, `y`, `output`, scalar `loss`, and a scalar `grad_norm:<parameter>` for every
        parameter; float32, but for int64 labels.

    Raises:
      GoldenMismatch: a tensor is missing, unknown, or of another type.
    """
    vectors = ("x", "y", "output")
    for name in (*vectors, "loss"):
        if name not in tensors:
            raise GoldenMismatch("file", f"a tensor {name!r}", str(sorted(tensors)[:10]))
    for name, value in tensors.items():
        scalar = name == "loss" or name.startswith(_NORM)
        if not (scalar or name in vectors) or (scalar and value.shape != ()):
            raise GoldenMismatch("file", "its own tensors only", f"{name!r} {value.shape}")
        if value.dtype != np.float32 and not (name == "y" and value.dtype == np.int64):
            raise GoldenMismatch("file", "float32 tensors", f"{name!r} of {value.dtype}")
    return Golden(
        x=np.asarray(tensors["x"]),
        y=np.asarray(tensors["y"]),
        output=np.asarray(tensors["output"]),
        loss=float(tensors["loss"]),
        grad_norms={
            name.removeprefix(_NORM): float(value)
            for name, value in tensors.items()
            if name.startswith(_NORM)
        },
    )


def check_golden(backend: Backend, params: Params, golden: Golden, tolerance: float) -> None:
    """Check that this runtime agrees with golden vectors.

    Args:
      backend: the runtime, with the bundle's graph and loss.
      params: the parameters the golden vectors were made with.
      golden: the author's results.
      tolerance: largest error relative to max(1, the author's output norm), the same for the
        loss, and for each gradient relative to max(1, the norm of all gradients).

    Raises:
      GoldenMismatch: something differs by more, is not finite, or does not fit the model.
    """
    try:
        here = make_golden(backend, params, golden.x, golden.y)
    except ValueError as error:
        raise GoldenMismatch("rows", "rows that fit the model", str(error)) from error
    if here.output.shape != golden.output.shape:
        raise GoldenMismatch("output shape", str(golden.output.shape), str(here.output.shape))
    distance = float(np.linalg.norm(here.output - golden.output))
    size = float(np.linalg.norm(golden.output))
    # An infinite size would allow any distance, and NaN compares false.
    if not (math.isfinite(size) and distance <= tolerance * max(1.0, size)):
        raise GoldenMismatch("output", f"norm {size:.6g}", f"{distance:.3g} away from it")
    _compare("loss", golden.loss, here.loss, tolerance * max(1.0, abs(golden.loss)))
    if here.grad_norms.keys() != golden.grad_norms.keys():
        raise GoldenMismatch("gradients", str(list(golden.grad_norms)), str(list(here.grad_norms)))
    allowed = tolerance * max(1.0, math.hypot(*golden.grad_norms.values()))
    for name, expected in golden.grad_norms.items():
        _compare(f"gradient norm of {name!r}", expected, here.grad_norms[name], allowed)


def _compare(what: str, expected: float, got: float, allowed: float) -> None:
    # An infinite expectation would allow everything, so it must be finite as well.
    if not (math.isfinite(expected) and abs(got - expected) <= allowed):
        raise GoldenMismatch(what, f"{expected:.8g}", f"{got:.8g}")
