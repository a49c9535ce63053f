"""Server optimizers: from the mean delta to the next version.

Pairs of pure functions `init` and `apply` in the manner of FedOpt (Reddi et al., "Adaptive
Federated Optimization", arXiv:2003.00295, algorithm 2), with the mean delta as pseudo-gradient
(it already points where the sites want to go, so it is added).  `sgd` is FedAvg's step,
`momentum` FedAvgM (Hsu et al., arXiv:1909.06335), `adam` and `yogi` FedAdam and FedYogi of the
first paper: without bias correction, and with epsilon (there tau) added to the root.

State and arithmetic are float64, the result is rounded to float32 once: the same inputs give the
same bits on every machine with IEEE arithmetic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire.settings import Settings

Vector = NDArray[np.float64]


class ServerOptimizerSettings(Settings, frozen=True, kw_only=True):
    """The `[server_optimizer]` table.

    Attributes:
      name: `sgd` adds learning_rate times the mean delta.
      learning_rate: step size.
      momentum: of `momentum` (velocity), `adam` and `yogi` (first moment).
      beta2: of `adam` and `yogi`.
      epsilon: of `adam` and `yogi`.
    """

    name: Literal["sgd", "momentum", "adam", "yogi"] = "sgd"
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.99
    epsilon: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-3


@dataclass(frozen=True)
class ServerOptimizer:
    """`init(P)` gives the state, (S, P); `apply(mean delta, state, params)` gives both new."""

    init: Callable[[int], Vector]
    apply: Callable[[Vector, Vector, NDArray[np.float32]], tuple[Vector, NDArray[np.float32]]]


def make_server_optimizer(settings: ServerOptimizerSettings) -> ServerOptimizer:
    """Return the server optimizer that the settings name."""
    make = {"sgd": _sgd, "momentum": _momentum, "adam": _adam, "yogi": _yogi}[settings.name]
    return make(settings)


def _step(params: NDArray[np.float32], step: Vector) -> NDArray[np.float32]:
    return (params.astype(np.float64) + step).astype(np.float32)


def _sgd(settings: ServerOptimizerSettings) -> ServerOptimizer:
    def apply(
        delta: Vector, state: Vector, params: NDArray[np.float32]
    ) -> tuple[Vector, NDArray[np.float32]]:
        return state, _step(params, settings.learning_rate * delta)

    return ServerOptimizer(lambda parameters: np.zeros((0, parameters)), apply)


def _momentum(settings: ServerOptimizerSettings) -> ServerOptimizer:
    def apply(
        delta: Vector, state: Vector, params: NDArray[np.float32]
    ) -> tuple[Vector, NDArray[np.float32]]:
        velocity = settings.momentum * state[0] + delta
        return velocity[None], _step(params, settings.learning_rate * velocity)

    return ServerOptimizer(lambda parameters: np.zeros((1, parameters)), apply)


def _adam(settings: ServerOptimizerSettings) -> ServerOptimizer:
    def second_moment(before: Vector, squared: Vector) -> Vector:
        return settings.beta2 * before + (1 - settings.beta2) * squared

    return _adaptive(settings, second_moment)


def _yogi(settings: ServerOptimizerSettings) -> ServerOptimizer:
    def second_moment(before: Vector, squared: Vector) -> Vector:
        return before - (1 - settings.beta2) * squared * np.sign(before - squared)

    return _adaptive(settings, second_moment)


def _adaptive(
    settings: ServerOptimizerSettings, second_moment: Callable[[Vector, Vector], Vector]
) -> ServerOptimizer:
    def apply(
        delta: Vector, state: Vector, params: NDArray[np.float32]
    ) -> tuple[Vector, NDArray[np.float32]]:
        first = settings.momentum * state[0] + (1 - settings.momentum) * delta
        second = second_moment(state[1], delta * delta)
        step = settings.learning_rate * first / (np.sqrt(second) + settings.epsilon)
        return np.stack([first, second]), _step(params, step)

    return ServerOptimizer(lambda parameters: np.zeros((2, parameters)), apply)
