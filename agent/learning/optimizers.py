"""Optimizers as frozen pairs of pure functions over flat parameter vectors (after FedJAX).

They stay outside the graph: Adam's bias correction in float32 `Pow` drifts, and a graph that
steps itself could not be clipped or noised. State passes in and out; nothing is changed in
place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from agent.learning.params import Vector

OptimizerName = Literal["sgd", "momentum", "adam"]


class OptimizerState(NamedTuple):
    """What an optimizer remembers: steps made, and its running averages, (P,) each."""

    steps: int
    averages: tuple[Vector, ...] = ()


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    Attributes:
      init: parameters -> state before the first step.
      apply: (gradient, state, parameters) -> (next state, next parameters).
    """

    init: Callable[[Vector], OptimizerState]
    apply: Callable[[Vector, OptimizerState, Vector], tuple[OptimizerState, Vector]]


def sgd(learning_rate: float) -> Optimizer:
    """Plain gradient descent: p - rate g."""
    rate = np.float32(learning_rate)

    def init(params: Vector) -> OptimizerState:
        del params
        return OptimizerState(0)

    def apply(
        gradient: Vector, state: OptimizerState, params: Vector
    ) -> tuple[OptimizerState, Vector]:
        return OptimizerState(state.steps + 1), params - rate * gradient

    return Optimizer(init, apply)


def momentum(learning_rate: float, decay: float = 0.9) -> Optimizer:
    """Heavy-ball momentum, v = decay v + g, p - rate v (as PyTorch's SGD without dampening)."""
    rate, keep = np.float32(learning_rate), np.float32(decay)

    def init(params: Vector) -> OptimizerState:
        return OptimizerState(0, (np.zeros_like(params),))

    def apply(
        gradient: Vector, state: OptimizerState, params: Vector
    ) -> tuple[OptimizerState, Vector]:
        (velocity,) = state.averages
        velocity = keep * velocity + gradient
        return OptimizerState(state.steps + 1, (velocity,)), params - rate * velocity

    return Optimizer(init, apply)


def adam(
    learning_rate: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> Optimizer:
    """Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1); bias correction in float64."""

    def init(params: Vector) -> OptimizerState:
        return OptimizerState(0, (np.zeros_like(params), np.zeros_like(params)))

    def apply(
        gradient: Vector, state: OptimizerState, params: Vector
    ) -> tuple[OptimizerState, Vector]:
        steps = state.steps + 1
        first, second = state.averages
        first = np.float32(beta1) * first + np.float32(1 - beta1) * gradient
        second = np.float32(beta2) * second + np.float32(1 - beta2) * (gradient * gradient)
        rate = np.float32(learning_rate / (1 - beta1**steps))
        scale = np.float32(1 / (1 - beta2**steps))
        step = rate * first / (np.sqrt(scale * second) + np.float32(epsilon))
        return OptimizerState(steps, (first, second)), params - step

    return Optimizer(init, apply)


_MAKERS: dict[OptimizerName, Callable[[float], Optimizer]] = {
    "sgd": sgd,
    "momentum": momentum,
    "adam": adam,
}


def optimizer_named(name: OptimizerName, learning_rate: float) -> Optimizer:
    """Return an optimizer with its usual constants.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in _MAKERS:
        raise ValueError(f"optimizer {name!r} is unknown, choose from {sorted(_MAKERS)}")
    return _MAKERS[name](learning_rate)
